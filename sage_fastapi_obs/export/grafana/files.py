"""Everything Grafana loads from files: dashboards, and where their data comes from."""

from collections.abc import Iterable, Mapping
from importlib import import_module
from types import MappingProxyType

from sage_fastapi_obs.catalog import PACKS, Metric
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.export.grafana.boards.customer import CUSTOMER_BOARD, customer_board
from sage_fastapi_obs.export.grafana.boards.service import service_board, unified_board
from sage_fastapi_obs.export.grafana.layout import Board
from sage_fastapi_obs.export.grafana.provisioning import provisioning_files
from sage_fastapi_obs.export.rules.http import CUSTOMER_ID
from sage_fastapi_obs.export.services import Services, job, with_pack
from sage_fastapi_obs.operations.own_metrics import metrics_of
from sage_fastapi_obs.packs.result.dashboard import result_board
from sage_fastapi_obs.packs.sage.dashboard import debugging_board, detailed_board, overview_board
from sage_fastapi_obs.packs.security.dashboard import security_board
from sage_fastapi_obs.packs.textbook.dashboard import business_board, system_board
from sage_fastapi_obs.settings import SlaSettings

__all__ = ["boards", "files"]

WITHOUT_BOARD = ("sage-core", "dependencies", "grpc", "business")
"""Packs that are rows of the dashboard of any service, as they have none of their own."""

Own = Mapping[str, Iterable[Metric]]
"""Metrics that an application declares itself, by the name of their pack."""
NONE: Own = MappingProxyType({})


def files(services: Services) -> dict[str, str]:
    """Return the texts of all files by path, for services that one Grafana shows.

    Raises `SettingsError` where Grafana's SDK is not installed, or a class named in `export.packs` is not there.
    """
    try:
        from sage_fastapi_obs.export.grafana.build import board_json  # noqa: PLC0415 - the SDK is an extra
    except ModuleNotFoundError as missing:
        raise SettingsError("dashboards need Grafana's SDK: pip install 'sage_fastapi_obs[grafana]'") from missing
    own = {path.rpartition(":")[2]: _declared(path) for service in services for path in service.export.packs}
    drawn = {f"grafana/dashboards/{board.name}.json": board_json(board) for board in boards(services, own)}
    if (path := f"grafana/dashboards/{CUSTOMER_BOARD}.json") in drawn:
        # Beside its manifests, for whoever deploys that service alone.
        drawn["deploy/k8s/grafana-dashboard.json"] = drawn[path]
    return drawn | provisioning_files()


def boards(services: Services, own: Own = NONE) -> tuple[Board, ...]:
    """Choose dashboards by what the services record; what is promised is that of the first service with a pack."""
    packs = {pack for service in services if service.metrics.enabled for pack in service.metrics.packs}
    chosen: list[Board] = []
    if "http" in packs:
        sla = _promises(services, "http")
        rows = {f"pack {name}": PACKS[name] for name in WITHOUT_BOARD if name in packs}
        chosen += [unified_board(sla), service_board(sla, {**rows, **own})]
    if "sage" in packs:
        chosen += [overview_board(), detailed_board(), debugging_board(_promises(services, "sage"))]
    if "textbook" in packs:
        jobs = "|".join(map(job, with_pack(services, "textbook")))
        chosen += [system_board(_promises(services, "textbook"), jobs), business_board(jobs)]
    if "security" in packs:
        chosen.append(security_board())
    if any(service.service.name == CUSTOMER_ID for service in services):
        chosen.append(customer_board())
    if "result" in packs:
        chosen.append(result_board(_promises(services, "result"), business="business" in packs))
    return tuple(chosen)


def _promises(services: Services, pack: str) -> SlaSettings:
    return with_pack(services, pack)[0].sla


def _declared(path: str) -> tuple[Metric, ...]:
    """Find a class with metrics, by its module and name."""
    module, _, name = path.partition(":")
    try:
        return tuple(metrics_of(getattr(import_module(module), name)))
    except (ImportError, AttributeError, ValueError) as error:
        raise SettingsError(f"export.packs: {path!r} must be module:Class: {error}") from error
