"""How much is measured: everything in some twenty minutes, or a little of everything in less than a minute."""

from dataclasses import dataclass

__all__ = ["FULL", "SHORT", "Effort", "Turns"]


@dataclass(frozen=True, slots=True)
class Turns:
    """In a round, made of new processes, each variant has its turn `passes` times, of `pairs` of blocks each."""

    rounds: int
    passes: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Effort:
    """What a run consists of; the defaults are the full one."""

    cost: Turns = Turns(rounds=4, passes=4, pairs=2)
    cost_requests: int = 512
    as_run: Turns = Turns(rounds=4, passes=4, pairs=2)
    as_run_socket_rounds: int = 12
    encoded_spans: int = 8_192
    scaling: Turns = Turns(rounds=3, passes=3, pairs=3)
    scaling_requests: int = 256
    routes: tuple[int, ...] = (1, 30, 200, 500)
    walked_kibibytes: tuple[int, ...] = (0, 256, 1_024)
    chunks: tuple[int, ...] = (1, 100, 1_000, 10_000)
    values: tuple[int, ...] = (1, 100, 200)
    compared: tuple[str, ...] = ("ours-100", "structlog", "instrumentator", "starlette-exporter", "otel-fastapi", "usual-100")
    """Whose cost is followed as the number of routes grows; structlog knows no routes, and shows what cold caches cost."""
    series: tuple[tuple[int, int], ...] = ((100, 15), (1_000, 15), (10_000, 11), (100_000, 3))
    """Numbers of series, and how often they are scraped."""
    socket_rounds: int = 20
    scraped_series: int = 10_000
    requests_before: int = 100_000
    requests_after: int = 1_000_000


FULL = Effort()
SHORT = Effort(
    cost=Turns(rounds=1, passes=1, pairs=2),
    cost_requests=64,
    as_run=Turns(rounds=1, passes=1, pairs=2),
    as_run_socket_rounds=1,
    encoded_spans=256,
    scaling=Turns(rounds=1, passes=1, pairs=2),
    scaling_requests=32,
    routes=(1, 30),
    walked_kibibytes=(0, 64),
    chunks=(1, 100),
    values=(1, 30),
    compared=("ours-100", "structlog"),
    series=((100, 2), (1_000, 2)),
    socket_rounds=1,
    scraped_series=500,
    requests_before=500,
    requests_after=1_500,
)
