"""What people and log stores get to see who should not."""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from pydantic import BaseModel, SecretBytes, SecretStr

from sage_fastapi_obs.doctor.fault import Fault
from sage_fastapi_obs.doctor.observations import Observations
from sage_fastapi_obs.inspection.app_layers import FoundRoute, metrics_package
from sage_fastapi_obs.logs.writer import OWN_LOGGER
from sage_fastapi_obs.privacy.redaction import Redaction
from sage_fastapi_obs.request.fastapi_internals import fields_read_by

_MOST_MODELS = 200
"""Models of one route, those in others included."""


def public_pages(seen: Observations) -> Iterator[Fault]:
    """Find pages with figures of the service that anybody may open."""
    if seen.open_pages:
        yield Fault(
            *("public-pages", f"anybody may read {' and '.join(seen.open_pages)}, from any machine and without a token"),
            "set monitoring.access to 'token' with monitoring.token, or to 'port'",
        )
    for found in seen.open_foreign_pages:
        yield Fault(
            *("public-pages", f"anybody may read the metrics that {metrics_package(found)} serves at {found.path}"),
            "serve them on a port that is not public, or remove them and scrape /metrics of this package",
        )


def unredacted_fields(seen: Observations) -> Iterator[Fault]:
    """Find secrets that lines or spans show, or would if a field had the name that the application gives to a secret."""
    shown: dict[str | None, list[str]] = {}
    for secret in seen.shown_secrets:
        shown.setdefault(secret.instrumentation, []).append(secret.place)
    yield from (_shown(instrumentation, ", ".join(places)) for instrumentation, places in shown.items())
    settings = seen.inspected.settings
    if settings is None:
        return
    redaction = Redaction(settings.logging)
    fields = {name: found for found in seen.inspected.routes for name in _secret_fields(found) if not redaction.hides(name)}
    for name, found in fields.items():
        yield Fault(
            *("unredacted-field", f"{name} is a secret that {found.path} takes, but a log field of that name is shown"),
            f"add it to logging.redact: {name}",
        )


def _shown(instrumentation: str | None, places: str) -> Fault:
    if instrumentation is None:
        what, fix = (
            f"fields of log lines: {places}",
            "set logging.redact_builtin to true, and leave these names out of show_only",
        )
    else:
        what = f"attributes of spans by {instrumentation}: {places}"
        fix = "remove that instrumentation, or hide the values in a span processor before the one that exports"
        if instrumentation == OWN_LOGGER:
            fix = "set tracing.query_values to false, and capture no headers that hold credentials"
    return Fault("unredacted-field", f"values that are secret by their names are shown in {what}", fix)


def _secret_fields(found: FoundRoute) -> Iterator[str]:
    """Yield the names of what a route reads and declares to be secret, by itself or somewhere in a model."""
    waiting = [(field.name, getattr(field.field_info, "annotation", None)) for field in fields_read_by(found.route)]
    seen: set[type] = set()
    while waiting and len(seen) < _MOST_MODELS:
        name, annotation = waiting.pop()
        for kind in _types_in(annotation):
            if kind is SecretStr or kind is SecretBytes:
                yield name
            elif kind not in seen:
                seen.add(kind)
                waiting += _fields_of(kind)


def _types_in(annotation: Any) -> Iterator[type]:
    """Yield a type, or those that it is a union or a list of."""
    if inspect.isclass(annotation):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _types_in(inner)


def _fields_of(kind: type) -> Iterable[tuple[str, Any]]:
    """Return what a model has, each with its type: one of Pydantic, a dataclass, a named tuple or a typed dictionary."""
    if issubclass(kind, BaseModel):
        return [(name, field.annotation) for name, field in kind.model_fields.items()]
    if not (is_dataclass(kind) or hasattr(kind, "_fields") or hasattr(kind, "__total__")):
        return ()
    try:
        return get_type_hints(kind).items()
    except (NameError, TypeError):
        # A name that only type checkers know.
        return ()
