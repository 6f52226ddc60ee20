"""The programs that watch the services, and where Prometheus scrapes them."""

from dataclasses import dataclass

from sage_fastapi_obs.catalog.services import Services

DEFAULT_PATH = "/metrics"


@dataclass(frozen=True, slots=True)
class Program:
    """A program whose own metrics Prometheus scrapes."""

    name: str
    """Also the label `service` of its metrics, and its host in the compose stack."""
    port: int
    job: str
    path: str = DEFAULT_PATH


ALERTMANAGER = Program("alertmanager", 9093, "alertmanager")
_PROGRAMS = (
    Program("prometheus", 9090, "prometheus"),
    ALERTMANAGER,
    Program("node-exporter", 9100, "node"),
    Program("fluent-bit", 2020, "fluent-bit", "/api/v2/metrics/prometheus"),
)


def monitoring_programs(services: Services) -> list[Program]:
    """Return the programs that watch at least one of the services."""
    wanted = {name for one in services for name in one.export.monitored_by}
    return [program for program in _PROGRAMS if program.name in wanted]
