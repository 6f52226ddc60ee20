"""What this package may cost, held against what was measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from typing import Any, cast

__all__ = ["RUN_TARGETS", "TARGETS", "Target"]

Results = Mapping[str, Any]
STALLED = "longest_stall_ms"


@dataclass(frozen=True, slots=True)
class Target:
    """A limit, and the figure it is for."""

    says: str
    limit: float
    figure: Callable[[Results], float]
    """Raises `KeyError` when it was not measured."""
    at_least: bool = False
    unit: str = ""

    def measured(self, results: Results) -> float | None:
        """Find the figure; None when it was not measured."""
        try:
            return self.figure(results)
        except (KeyError, ValueError):
            return None

    def met(self, results: Results) -> bool | None:
        """Tell whether the limit was kept; None when it was not measured."""
        measured = self.measured(results)
        if measured is None:
            return None
        return measured >= self.limit if self.at_least else measured <= self.limit


def _cost(name: str, ratio: str) -> Callable[[Results], float]:
    return lambda results: float(results["cost"][name][ratio])


def _run(*path: str) -> Callable[[Results], float]:
    """Find a figure of the case `as-run`."""
    return lambda run: float(cast("float", reduce(getitem, path, run)))


def _socket(name: str, figure: str) -> Callable[[Results], float]:
    return lambda results: float(results["sockets"]["variants"][name][figure])


def _scrape(figure: Callable[[Results], float], *series: int) -> Callable[[Results], float]:
    """Take the worse of both kinds of series."""
    return lambda results: max(figure(kind[str(number)]) for kind in results["scrape"].values() for number in series)


def _at_500_routes(kind: str, count: str) -> Callable[[Results], float]:
    """Compare the cost at 500 routes with that of a kind of growth, both within one run."""
    return lambda results: float(results["scaling"]["routes"]["ours-100"]["500"] / results["scaling"][kind]["ours-100"][count])


TARGETS = (
    Target("all four at 100 %, of the instrumentator alone", 0.65, _cost("ours-100", "to_instrumentator")),
    Target("all four at 100 %, of the usual stack", 1 / 11, _cost("ours-100", "to_usual")),
    Target("all four at 10 %, of the instrumentator alone", 0.5, _cost("ours-10", "to_instrumentator")),
    Target("all four at 0 %, of the instrumentator alone", 0.45, _cost("ours-0", "to_instrumentator")),
    Target("id, of asgi-correlation-id", 1.0, _cost("ours-id", "to_peer")),
    Target("id and log line, of structlog's line", 1.0, _cost("ours-log", "to_peer")),
    Target("id and metrics, of the instrumentator", 0.5, _cost("ours-metrics", "to_peer")),
    Target("id and span, of FastAPI's own span", 1.0, _cost("ours-span", "to_peer")),
    Target("500 routes, of 1 route", 1.1, _at_500_routes("routes", "1")),
    Target("500 routes, of 1 route whose endpoint reads 1 MiB", 1.1, _at_500_routes("cold", "1024")),
    Target("a chunk, above a pass-through wrapper", 0.3, lambda results: results["scaling"]["per_chunk_us"], unit="µs"),
    Target("scrape, 1 % changed, of generate_latest", 0.2, _scrape(lambda one: one["ratio"], 10_000, 100_000)),
    Target("longest stall, 10,000 series", 5.0, _scrape(lambda one: one[STALLED]["ours"], 10_000), unit="ms"),
    Target("longest stall, 100,000 series", 20.0, _scrape(lambda one: one[STALLED]["ours"], 100_000), unit="ms"),
    Target("requests per second at 100 %, of bare", 0.8, _socket("ours-100", "of_bare_per_second"), at_least=True),
    Target("requests per second at 10 %, of bare", 0.85, _socket("ours-10", "of_bare_per_second"), at_least=True),
    Target("p99 at 100 %, of bare", 1.25, _socket("ours-100", "of_bare_p99")),
    Target("memory after ten times the requests", 1.02, lambda results: results["memory"]["growth"]),
)

RUN_TARGETS = (
    Target("100 %, store, insight, OTLP, of the instrumentator", 1.35, _run("cost", "100 %, OTLP", "to_instrumentator")),
    Target("100 %, store, OTLP, of the usual stack", 1 / 8, _run("cost", "100 %, OTLP", "to_usual")),
    Target("10 % by outcome, of the instrumentator", 0.75, _run("cost", "10 %, OTLP, no traceparent", "to_instrumentator")),
    Target("minimal, of the instrumentator", 0.62, _run("cost", "minimal, 100 %, install, no store", "to_instrumentator")),
    Target("a traceparent", 4.0, _run("adds_us", "traceparent"), unit="µs"),
    Target("add_middleware, over install", 4.0, _run("adds_us", "add_middleware"), unit="µs"),
    Target("insight, on a fine request", 3.0, _run("adds_us", "insight"), unit="µs"),
    Target("encoding of a span", 10.0, _run("encoding", "ours_us"), unit="µs"),
    Target(
        "requests per second, 100 %, of bare", 0.75, _run("sockets", "variants", "100 %", "of_bare_per_second"), at_least=True
    ),
    Target("requests/s, 10 %, of bare", 0.8, _run("sockets", "variants", "10 %", "of_bare_per_second"), at_least=True),
    Target("requests/s, OTLP, of bare", 0.66, _run("sockets", "variants", "100 %, OTLP", "of_bare_per_second"), at_least=True),
    Target("p99, 100 %, OTLP, of bare", 1.5, _run("sockets", "variants", "100 %, OTLP", "of_bare_p99")),
)
"""Of the case `as-run`, whose results alone they are held against."""
