"""Everything that can be exported, by name."""

from collections.abc import Callable
from typing import TypeAlias

from sage_fastapi_obs.catalog.services import Services
from sage_fastapi_obs.export import alertmanager, falco, grafana, kubernetes, prometheus

Exporter: TypeAlias = Callable[[Services], dict[str, str]]
"""Writes files, by their path below a folder, from the settings of all services that are watched together."""

EXPORTERS: dict[str, Exporter] = {
    "prometheus": prometheus.files,
    "alertmanager": alertmanager.files,
    "kubernetes": kubernetes.files,
    "grafana": grafana.files,
    "falco": falco.files,
}
