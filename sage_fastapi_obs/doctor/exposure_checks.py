"""What people and log stores get to see who should not."""

import inspect
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr

from sage_fastapi_obs.doctor.fault import Fault
from sage_fastapi_obs.doctor.observations import Observations
from sage_fastapi_obs.inspection.app_layers import FoundRoute
from sage_fastapi_obs.logs.writer import OWN_LOGGER
from sage_fastapi_obs.privacy.redaction import Redaction
from sage_fastapi_obs.request.fastapi_internals import dependants_of

_FOREIGN_PAGES = ("prometheus_client", "prometheus_fastapi_instrumentator", "starlette_exporter", "starlette_prometheus")
"""Packages that serve metrics to everyone."""
_MOST_MODELS = 200
"""Models of one route, those in others included."""


def public_pages(seen: Observations) -> Iterator[Fault]:
    """Find pages with figures of the service that anybody may open."""
    if seen.open_pages:
        yield Fault(
            *("public-pages", f"anybody may read {' and '.join(seen.open_pages)}, from any machine and without a token"),
            "set monitoring.access to 'token' with monitoring.token, or to 'port'",
        )
    settings = seen.inspected.settings
    for found in seen.inspected.routes:
        if settings is not None and found.path == settings.metrics.path and not found.is_mount:
            # Ours is found first; below a mount, and with a slash behind it, it is not.
            continue
        served = found.route.app if found.is_mount else getattr(found.route, "endpoint", None)
        package = str(getattr(served, "__module__", None) or type(served).__module__).partition(".")[0]
        if package in _FOREIGN_PAGES:
            yield Fault(
                *("public-pages", f"anybody may read the metrics that {package} serves at {found.path}"),
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
            *("unredacted-field", f"{name} is a secret in a model of {found.path}, but a log field of that name is shown"),
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
    """Yield the names of fields that the models of a route declare to be secret."""
    bodies = (body for each in dependants_of(getattr(found.route, "dependant", None)) for body in each.body_params)
    waiting = [one for body in bodies for one in _types_in(_type_of(body))]
    seen: set[type[BaseModel]] = set()
    while waiting and len(seen) < _MOST_MODELS:
        model = waiting.pop()
        if not (inspect.isclass(model) and issubclass(model, BaseModel)) or model in seen:
            continue
        seen.add(model)
        for name, field in model.model_fields.items():
            types = [*_types_in(field.annotation)]
            if any(one is SecretStr or one is SecretBytes for one in types):
                yield name
            waiting += types


def _type_of(field: Any) -> Any:
    return getattr(getattr(field, "field_info", None), "annotation", None)


def _types_in(annotation: Any) -> Iterator[Any]:
    """Yield a type, and those that it is a union or a list of."""
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from _types_in(inner)
