"""Everything Grafana loads from files: dashboards, and where their data comes from."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from sage_fastapi_obs.errors import ExportError
from sage_fastapi_obs.export.grafana.boards.customer import CUSTOMER, customer_board
from sage_fastapi_obs.export.grafana.boards.result import result_board
from sage_fastapi_obs.export.grafana.boards.sage import debugging_board, detailed_board, overview_board
from sage_fastapi_obs.export.grafana.boards.security import security_board
from sage_fastapi_obs.export.grafana.boards.service import service_board, unified_board
from sage_fastapi_obs.export.grafana.boards.textbook import business_board, system_board
from sage_fastapi_obs.export.grafana.layout import Board
from sage_fastapi_obs.export.grafana.provisioning import provisioning_files
from sage_fastapi_obs.settings import Settings, SlaSettings
from sage_fastapi_obs.signals.catalog import PACKS, Metric

__all__ = ["boards", "files"]

WITHOUT_BOARD = ("sage-core", "dependencies", "grpc", "business")
"""Packs that are rows of the dashboard of any service, as they have none of their own."""

Own = Mapping[str, Iterable[Metric]]
"""Metrics that an application declares itself, by the name of their pack."""
NONE: Own = MappingProxyType({})


def files(services: Sequence[Settings], own: Own = NONE) -> dict[str, str]:
    """Return the texts of all files by path, for some services that one Grafana shows.

    Raises `ExportError` where Grafana's SDK is not installed.
    """
    try:
        from sage_fastapi_obs.export.grafana.build import board_json  # noqa: PLC0415 - the SDK is an extra
    except ModuleNotFoundError as missing:
        raise ExportError("dashboards need Grafana's SDK: pip install 'sage_fastapi_obs[grafana]'") from missing
    drawn = {f"grafana/dashboards/{board.name}.json": board_json(board) for board in boards(services, own)}
    return drawn | provisioning_files()


def boards(services: Sequence[Settings], own: Own = NONE) -> tuple[Board, ...]:
    """Choose dashboards by what the services record; what is promised is that of the first service with a pack."""
    by_pack: dict[str, list[Settings]] = {}
    for each in services:
        for pack in each.metrics.packs:
            by_pack.setdefault(pack, []).append(each)
    chosen: list[Board] = []
    if "http" in by_pack:
        sla = _promises(by_pack["http"])
        rows = {f"pack {name}": PACKS[name] for name in WITHOUT_BOARD if name in by_pack}
        chosen += [unified_board(sla), service_board(sla, {**rows, **own})]
    if "sage" in by_pack:
        chosen += [overview_board(), detailed_board(), debugging_board(_promises(by_pack["sage"]))]
    if "textbook" in by_pack:
        jobs = "|".join(sorted(map(_job, by_pack["textbook"])))
        chosen += [system_board(_promises(by_pack["textbook"]), jobs), business_board(jobs)]
    if "security" in by_pack:
        chosen.append(security_board())
    if any(each.service.name == CUSTOMER for each in services):
        chosen.append(customer_board())
    if "result" in by_pack:
        chosen.append(result_board(_promises(by_pack["result"]), business="business" in by_pack))
    return tuple(chosen)


def _promises(services: Sequence[Settings]) -> SlaSettings:
    return services[0].sla


def _job(settings: Settings) -> str:
    return settings.service.name
