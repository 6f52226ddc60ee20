"""Where settings are read from, and which source wins: presets, a YAML file, the environment, files of secrets."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel
from pydantic_settings import BaseSettings, EnvSettingsSource

from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.settings.explain import unknown_key
from sage_fastapi_obs.settings.field_types import with_otlp_endpoint
from sage_fastapi_obs.settings.standard_variables import is_service_link, standard_names, standard_sections

ENV_PREFIX = "SAGE_OBS_"
PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "dev": {
        "service": {"environment": "development"},
        "logging": {"level": "debug", "format": "console"},
        "tracing": {"sample_rate": 1.0},
        "monitoring": {"access": "local", "expose_logs": True},
    },
    "production": {
        "service": {"environment": "production"},
        "logging": {"level": "info", "format": "json", "flight_recorder": True},
        "tracing": {"sample_rate": 0.1, "retention": "outcome"},
        "monitoring": {"access": "token"},
    },
}
_DEVELOPMENT = {"", "dev", "development", "local", "test", "testing"}


SourceKind: TypeAlias = Literal["default", "preset", "file", "environment", "secrets", "code", "implied"]
"""`secrets`: a file in `SAGE_OBS_SECRETS_DIR`. `implied`: another setting means it, as an endpoint means its exporter."""


class ValueSource(NamedTuple):
    """Where a value came from."""

    kind: SourceKind
    name: str = ""
    """Of the preset, the variable, or the file without its folder."""


Naming: TypeAlias = Callable[[str], ValueSource]
"""Names the source of a setting, which is given as `section.key`."""


@dataclass(frozen=True)
class Origin:
    """Where values came from, which is no part of what they are: settings with the same values are equal."""

    preset: str | None = field(default=None, compare=False)
    remarks: Sequence[str] = field(default=(), compare=False)
    sources: Mapping[str, ValueSource] = field(default_factory=dict, compare=False)
    """By `section.key`, of all values that a source names."""


def read_all(
    settings_cls: type[BaseSettings],
    env: Mapping[str, str],
    preset: str | None,
    path: str | Path | None,
    sections: Mapping[str, Any],
) -> tuple[dict[str, Any], Origin]:
    """Read all sources, the weakest first; return the sections to build settings from, and where they came from."""
    own = {name: value for name, value in env.items() if name.startswith(ENV_PREFIX) and value.strip()}
    file, folder, named = (own.pop(f"{ENV_PREFIX}{name}", None) for name in ("FILE", "SECRETS_DIR", "PRESET"))
    path = path or file
    remarks: list[str] = []
    standard = standard_sections(env, remarks.append)
    layers: Layers = (
        (_always("file", Path(path or "").name), _yaml_file(path) if path else {}),
        (partial(_variable, standard_names(env, standard)), standard),
        (partial(_own_variable, "secrets"), _variables(settings_cls, _secret_files(folder)) if folder else {}),
        (partial(_own_variable, "environment"), _variables(settings_cls, own)),
        (_always("code"), sections),
    )
    # The older name is translated per source: that of a stronger source beats the new name in a weaker one.
    given = _merge(*({key: with_otlp_endpoint(section) for key, section in layer.items()} for _, layer in layers))
    chosen = preset or named or _preset_for(given.get("service"), path, remarks)
    if chosen == "production" and (url := env.get("ELASTICSEARCH_URL", "").strip()):
        # An application under development may mean another use of it.
        elasticsearch = {"logging": {"elasticsearch_url": url}}
        given, layers = _merge(elasticsearch, given), ((_always("environment", "ELASTICSEARCH_URL"), elasticsearch), *layers)
    return _over_preset(chosen, given, layers, remarks)


def over_preset(preset: str, sections: Mapping[str, Any]) -> tuple[dict[str, Any], Origin]:
    """Lay sections over a preset; return them, and where they came from."""
    return _over_preset(preset, sections, ((_always("code"), sections),))


def _over_preset(
    preset: str, given: Mapping[str, Any], layers: "Layers", remarks: Sequence[str] = ()
) -> tuple[dict[str, Any], Origin]:
    if preset not in PRESETS:
        raise SettingsError(f"SAGE_OBS_PRESET={preset!r} is not a preset: use {' or '.join(PRESETS)}")
    sources = _sources(((_always("preset", preset), PRESETS[preset]), *layers))
    return _merge(PRESETS[preset], given), Origin(preset, remarks, sources)


Layers: TypeAlias = tuple[tuple[Naming, Mapping[str, Any]], ...]
"""Sections with the names of their sources, the weakest first."""


def _always(kind: SourceKind, name: str = "") -> Naming:
    return lambda _setting: ValueSource(kind, name)


def _variable(names: Mapping[str, str], setting: str) -> ValueSource:
    return ValueSource("environment", names.get(setting, ""))


def _own_variable(kind: SourceKind, setting: str) -> ValueSource:
    return ValueSource(kind, f"{ENV_PREFIX}{setting.replace('.', '__')}".upper())


def _sources(layers: Layers) -> dict[str, ValueSource]:
    return {name: source_of(name) for source_of, layer in layers for name in _names(_merge(layer))}


def _names(sections: Mapping[str, Any]) -> Iterable[str]:
    """List what sections set, as `section.key`."""
    for section, keys in sections.items():
        yield from (f"{section}.{key}" for key in keys) if isinstance(keys, dict) else (section,)


def _preset_for(service: object, path: str | Path | None, remarks: list[str]) -> str:
    """Choose by the environment's name; a file that names none is perhaps not meant for development, and that is remarked."""
    environment = str(service.get("environment", "")) if isinstance(service, dict) else ""
    if path and not environment:
        remarks.append(
            f"{path} names no environment, so the preset 'dev' holds: name it as service.environment there or in APP_ENV, "
            "or a preset in SAGE_OBS_PRESET"
        )
    return "dev" if is_development(environment) else "production"


def is_development(environment: str) -> bool:
    """Tell whether an environment is by its name one for development."""
    return environment.lower() in _DEVELOPMENT


def _merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay sections over one another, later ones on top."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            above = value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
            merged[key] = {**below, **above} if isinstance(below, dict) and isinstance(above, dict) else above
    return merged


def _variables(settings_cls: type[BaseSettings], given: Mapping[str, str]) -> dict[str, Any]:
    known = _variable_names(settings_cls)
    ours = {name: value for name, value in given.items() if name.upper() in known or not is_service_link(name, value)}
    for name in ours:
        if name.upper() not in known:
            dotted = name[len(ENV_PREFIX) :].lower().replace("__", ".")
            raise SettingsError(unknown_key(name, dotted, name.upper(), known))
    source = EnvSettingsSource(settings_cls)
    # By itself it reads the environment of the process. A text of `null` is how a variable says what YAML calls null.
    source.env_vars = {name.lower(): None if value.strip() == "null" else value for name, value in ours.items()}
    try:
        return source()
    except ValueError as error:
        raise SettingsError(f"cannot read the {ENV_PREFIX}* variables: {error}") from None


def _variable_names(settings_cls: type[BaseSettings]) -> set[str]:
    names = set()
    for name, section in settings_cls.model_fields.items():
        keys = getattr(section.annotation, "model_fields", ())
        names |= {f"{ENV_PREFIX}{name}__{key}".upper() for key in keys} or {f"{ENV_PREFIX}{name}".upper()}
    return names


def _secret_files(folder: str) -> dict[str, str]:
    """Read the files that are called like our variables; those of others are not opened."""
    try:
        files = [path for path in Path(folder).iterdir() if path.name.upper().startswith(ENV_PREFIX) and path.is_file()]
        texts = {path.name: path.read_text("utf-8").strip() for path in files}
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        raise SettingsError(f"cannot read the files of SAGE_OBS_SECRETS_DIR={folder}: {reason}") from None
    return {name: text for name, text in texts.items() if text}


def _yaml_file(path: str | Path) -> dict[str, Any]:
    """Read sections; not by pydantic-settings, which takes a missing file for an empty one, and pairs in a list for keys."""
    try:
        import yaml  # noqa: PLC0415 - an extra, wanted only where there is a file
    except ImportError:
        raise SettingsError("reading a YAML file needs PyYAML: pip install 'sage_fastapi_obs[yaml]'") from None
    try:
        with Path(path).open("rb") as file:
            read = yaml.safe_load(file)
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from None
    except Exception as error:  # a class per fault; the messages quote the file, and so perhaps its secrets
        mark = getattr(error, "problem_mark", None)
        where = f": look at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise SettingsError(f"the settings file {path} is not YAML{where}") from None
    if read is None:
        return {}
    if not isinstance(read, dict) or not all(isinstance(key, str) for key in read):
        raise SettingsError(f"the settings file {path} is not a mapping of sections, such as 'logging: {{level: debug}}'")
    # A section with all keys commented out is empty.
    return {key: {} if value is None else value for key, value in read.items()}
