"""`/monitoring/settings`: the settings in force, where each value came from, and never a secret."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel, SecretStr
from starlette.requests import Request
from starlette.responses import Response

from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.json_page import JsonPage, PageQuery, json_response
from sage_fastapi_obs.field_descriptions import field_descriptions
from sage_fastapi_obs.privacy.redaction import REDACTED, Redaction
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.settings.explain import without_credentials
from sage_fastapi_obs.settings.sources import SourceKind

_PROBLEMS = {401: "A bearer token is needed.", 403: "Not open to this client.", 404: "Served on a port of its own."}
_REDACTION = Redaction()
"""Not the one of log lines, which settings may weaken."""


class ShownSetting(BaseModel):
    """One setting."""

    name: str
    """Within its section."""
    value: Any
    """As in JSON; a secret that is set is shown as `[REDACTED]`."""
    source: SourceKind
    source_name: str
    """Of the preset, the variable, or the file without its folder."""
    help: str


class ShownSection(BaseModel):
    """One section."""

    name: str
    """Empty for what has no section."""
    help: str
    settings: list[ShownSetting]


class SettingsResponse(BaseModel):
    """The settings of the process that was asked."""

    preset: str | None
    remarks: list[str]
    """Values that are allowed and probably not meant, with what to change."""
    sections: list[ShownSection]


def settings_page(access: Access, settings: Settings) -> JsonPage:
    """Build the page."""

    async def answer(_query: PageQuery, _request: Request) -> Response:
        return json_response(settings_in_force(settings), exclude_none=False)

    return JsonPage(
        *("/settings", "settings", "The settings in force", answer, SettingsResponse),
        guard=access.rejection,
        problems=_PROBLEMS,
    )


def settings_in_force(settings: Settings) -> SettingsResponse:
    """Describe all settings."""
    remarks = [*map(_text, settings.remarks)]
    return SettingsResponse(preset=settings.preset, remarks=remarks, sections=[*_sections(settings)])


def _sections(settings: Settings) -> Iterator[ShownSection]:
    named = {name: section for name, section in settings if isinstance(section, BaseModel)}
    alone = [_setting(settings, settings, name) for name, _ in settings if name not in named]
    yield ShownSection(name="", help="", settings=alone)
    for name, section in named.items():
        shown = [_setting(settings, section, name, key) for key, _ in section]
        yield ShownSection(name=name, help=(type(section).__doc__ or "").strip(), settings=shown)


def _setting(settings: Settings, holder: BaseModel, section: str, key: str = "") -> ShownSetting:
    name, source = key or section, settings.source(section, key)
    return ShownSetting(
        name=name,
        value=_named(name, getattr(holder, name)),
        source=source.kind,
        source_name=source.name,
        help=field_descriptions(type(holder)).get(name, ""),
    )


def _named(name: str, value: Any) -> Any:
    """Show a value, unless its type or its name is one of a secret."""
    return REDACTED if isinstance(value, str) and value and _REDACTION.hides(name) else _shown(value)


def _shown(value: Any) -> Any:
    match value:
        case SecretStr():
            return REDACTED if value.get_secret_value() else ""
        case BaseModel():
            return {name: _named(name, one) for name, one in value}
        case Mapping():
            return {_text(str(name)): _named(str(name), one) for name, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [*map(_shown, value)]
        case str():
            return _text(value)
    return value


def _text(text: str) -> str:
    return _REDACTION.readable(without_credentials(text))
