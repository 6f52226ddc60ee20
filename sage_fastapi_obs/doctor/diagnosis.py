"""All that is wrong with an app, and the figures that are nice to know."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple, TypeAlias

from sage_fastapi_obs.doctor import deployment_checks, exposure_checks, request_checks, route_checks, signal_checks
from sage_fastapi_obs.doctor.examination import examine
from sage_fastapi_obs.doctor.fault import Fault
from sage_fastapi_obs.doctor.observations import Observations
from sage_fastapi_obs.errors import ObservabilityError, SettingsError
from sage_fastapi_obs.inspection.app_loop import run_in_loop
from sage_fastapi_obs.inspection.inspected_app import InspectedApp, inspected_app
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.settings.sources import is_development

Check: TypeAlias = Callable[[Observations], Iterator[Fault]]
_CHECKS: tuple[Check, ...] = (
    route_checks.not_watched,
    route_checks.middleware_order,
    route_checks.routes_without_template,
    route_checks.base_http_middleware,
    signal_checks.two_server_spans,
    signal_checks.logging_twice,
    signal_checks.sentry_loguru,
    exposure_checks.public_pages,
    exposure_checks.unredacted_fields,
    deployment_checks.worker_mode,
    deployment_checks.preset,
    deployment_checks.unreachable_exporters,
    request_checks.label_growth,
    request_checks.loop_blocking,
    request_checks.request_cost,
    request_checks.failing_requests,
)


class ProductionError(ObservabilityError):
    """The app says that this is production."""


class Diagnosis(NamedTuple):
    """What was found."""

    app: str
    faults: list[Fault]
    figures: dict[str, Any]
    """Preset, environment, workers, routes, and what a request costs."""

    @property
    def is_healthy(self) -> bool:
        """Whether nothing is wrong but what may well be meant."""
        return all(fault.is_note for fault in self.faults)

    def as_json(self) -> dict[str, Any]:
        """Return it as it is printed for other programs."""
        return {"app": self.app, "faults": [fault._asdict() for fault in self.faults], "figures": self.figures}


def diagnose(
    name: str,
    *,
    factory: bool = False,
    app_dir: str = ".",
    call: bool = False,
    with_lifespan: bool = False,
    force: bool = False,
    ignored: Collection[str] = (),
) -> Diagnosis:
    """Look at the app `module:attribute`, and ask it; `ignored`: names of checks.

    Raises `ProductionError` unless that is forced, `AppNotFoundError` and `LifespanError`.
    """
    if not force:
        _refuse_production(_environment(), "the environment")
    with inspected_app(name, factory=factory, app_dir=app_dir) as inspected:
        settings = inspected.settings
        if settings is not None and not force:
            _refuse_production(settings.service.environment, "the app")
        seen = run_in_loop(examine(inspected, with_lifespan=with_lifespan, call=call))
        faults = [fault for check in _CHECKS for fault in check(seen) if fault.check not in ignored]
        return Diagnosis(name, [*dict.fromkeys(faults)], _figures(inspected, settings, seen))


def _environment() -> str:
    """Return what the environment calls itself; what is wrong with it, the app will say when it is loaded."""
    try:
        return Settings.from_env().service.environment
    except SettingsError:
        return ""


def _refuse_production(environment: str, who: str) -> None:
    if not is_development(environment):
        raise ProductionError(f"{who} says that this is {environment!r}: use --force to look at the app there all the same")


def _figures(inspected: InspectedApp, settings: Settings | None, seen: Observations) -> dict[str, Any]:
    told: dict[str, Any] = {"routes": len(inspected.routes)}
    if settings is not None:
        told |= {"preset": settings.preset, "environment": settings.service.environment}
        told |= {"workers": "one answer for all" if settings.workers.enabled else "each answers for itself"}
    if seen.costs:
        told["request_us"] = round(seen.cost_us, 1)
        told["layers_us"] = {cost.layer: round(cost.cpu_us, 1) for cost in seen.costs}
    return told
