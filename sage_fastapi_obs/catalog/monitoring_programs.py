"""The programs that watch the services, and where Prometheus scrapes them."""

from dataclasses import dataclass

from sage_fastapi_obs.catalog.services import Services

DEFAULT_PATH = "/metrics"
MONITORING_NAMESPACE = "monitoring"
"""Namespace in Kubernetes of Prometheus and what is beside it."""


@dataclass(frozen=True, slots=True)
class Program:
    """A program whose own metrics Prometheus scrapes."""

    name: str
    """Also the label `service` of its metrics, and its host in the compose stack."""
    port: int
    job: str
    path: str = DEFAULT_PATH
    namespace: str = MONITORING_NAMESPACE


ALERTMANAGER = Program("alertmanager", 9093, "alertmanager")
_PROGRAMS = (
    Program("prometheus", 9090, "prometheus"),
    ALERTMANAGER,
    Program("node-exporter", 9100, "node"),
    Program("fluent-bit", 2020, "fluent-bit", "/api/v2/metrics/prometheus", "logging"),
)


def monitoring_programs(services: Services) -> list[Program]:
    """Return the programs that watch at least one of the services."""
    return [program for program in _PROGRAMS if is_monitored_by(services, program.name)]


def is_monitored_by(services: Services, program: str) -> bool:
    """Tell whether a program watches at least one of the services."""
    return any(program in one.export.monitored_by for one in services)
