"""Everything Grafana loads from files: dashboards, and where their data comes from."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from types import MappingProxyType

from sage_fastapi_obs.catalog import PACKS, Metric
from sage_fastapi_obs.catalog.services import Services, with_pack
from sage_fastapi_obs.dashboards import customer
from sage_fastapi_obs.dashboards.layout import Dashboard
from sage_fastapi_obs.dashboards.service import service_dashboard, unified_dashboard
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.export.grafana.provisioning import kustomization, provisioning_files
from sage_fastapi_obs.operations.own_metrics import metrics_of
from sage_fastapi_obs.pack_folders import pack_module

_CUSTOMER = "grafana/dashboards/customer-id-monitoring.json"
Own = Mapping[str, Iterable[Metric]]
"""Metrics that an application declares itself, by the name of their pack."""
_NONE: Own = MappingProxyType({})


def files(services: Services) -> dict[str, str]:
    """Return the texts of all files by path, for services that one Grafana shows.

    Raises `SettingsError` where Grafana's SDK is not installed, or a class named in `export.packs` is not there.
    """
    try:
        from sage_fastapi_obs.export.grafana.build import dashboard_json  # noqa: PLC0415 - the SDK is an extra
    except ModuleNotFoundError as missing:
        raise SettingsError("dashboards need Grafana's SDK: pip install 'sage_fastapi_obs[grafana]'") from missing
    boards = {one.name: dashboard_json(one) for one in dashboards(services, declared_metrics(services))}
    written = {f"grafana/dashboards/{name}.json": text for name, text in boards.items()}
    written["grafana/kustomization.yaml"] = kustomization(boards)
    if _CUSTOMER in written:
        # Beside its manifests, for those who deploy only that service.
        written["deploy/k8s/grafana-dashboard.json"] = written[_CUSTOMER]
    return written | provisioning_files()


def declared_metrics(services: Services) -> Own:
    """Find the classes in `export.packs`; raises `SettingsError` for one that is not there."""
    return {path.rpartition(":")[2]: _declared(path) for service in services for path in service.export.packs}


def dashboards(services: Services, own: Own = _NONE) -> tuple[Dashboard, ...]:
    """Return dashboards of what the services record; what is promised is that of the first service with a pack."""
    modules = {pack: pack_module(pack, "dashboard") for pack in PACKS if with_pack(services, pack)}
    of_packs = [one for module in modules.values() if module for one in module.dashboards(services)]
    without = [pack for pack, module in modules.items() if module is None and pack not in ("http", "runtime")]
    rows = {f"pack {pack}": PACKS[pack] for pack in without}
    return (*_of_any_service(services, {**rows, **own}), *customer.dashboards(services), *of_packs)


def _of_any_service(services: Services, rows: Own) -> tuple[Dashboard, ...]:
    served = with_pack(services, "http")
    return (unified_dashboard(served[0].sla), service_dashboard(served[0].sla, rows)) if served else ()


def _declared(path: str) -> tuple[Metric, ...]:
    """Find a class with metrics, by its module and name."""
    module, _, name = path.partition(":")
    try:
        return tuple(metrics_of(getattr(import_module(module), name)))
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"export.packs: {path!r} must be module:Class: {error}") from error
