"""The services that one Prometheus watches, as far as their settings tell."""

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from sage_fastapi_obs.catalog import PACKS
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.settings import Settings

Services: TypeAlias = Sequence[Settings]
Promise = TypeVar("Promise")
APP_PORT = 8000
"""Port on which services serve."""
METRICS_PORT_NAME = "metrics"
CUSTOMER_ID = "customer-id"
"""A service with rules and a dashboard of its own."""


def service_name(service: Settings) -> str:
    """Return the name that the labels `job` and `service` have."""
    return service.service.name


def job(service: Settings) -> str:
    """Return the expression for its scrape jobs."""
    # A dash needs no escape, and reads better without.
    return service.export.job or re.escape(service_name(service)).replace(r"\-", "-")


def metrics_port(service: Settings) -> int:
    """Return the port on which its metrics are."""
    return service.metrics.port if service.monitoring.access == "port" else APP_PORT


def targets(service: Settings) -> list[str]:
    """Return where it is scraped, as host and port."""
    return [*service.export.targets] or [f"{service_name(service)}:{metrics_port(service)}"]


def with_metric(services: Services, metric: str) -> list[Settings]:
    """Return those that have a metric of a pack."""
    packs = [pack for pack, metrics in PACKS.items() if any(metric == known.name for known in metrics)]
    return [one for one in with_pack(services) if not set(packs).isdisjoint(one.metrics.packs)]


def with_pack(services: Services, *packs: str) -> list[Settings]:
    """Return those that have all of these packs switched on."""
    return [one for one in services if one.metrics.enabled and set(packs) <= set(one.metrics.packs)]


def distinct(services: Services) -> Services:
    """Check that the services have different names; raises `SettingsError`."""
    names = [service_name(one) for one in services]
    if twice := {one for one in names if names.count(one) > 1}:
        raise SettingsError(f"two services are called {min(twice)!r}: service.name has to differ")
    return services


def by_promise(services: Services, promise: Callable[[Settings], Promise | None]) -> list[tuple[Promise, list[Settings]]]:
    """Return what services promise: once for all where they promise the same, else one by one; some promise nothing."""
    promising = [(promised, one) for one in services if (promised := promise(one)) is not None]
    if len(promising) == len(services) and len({promised for promised, _ in promising}) == 1:
        return [(promising[0][0], [*services])]
    return [(promised, [one]) for promised, one in promising]
