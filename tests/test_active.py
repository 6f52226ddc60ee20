"""Loggers, operations, metrics, packs, clients and the RFS functions all act on one and the same `Observability`."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from support import PATIENCE_SECONDS, Watched, client

from sage_fastapi_obs import create_logger, declare_counter, enable_pack, get_correlation_id, operation
from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.clients.track import track_dependency
from sage_fastapi_obs.monitoring import AlertCondition, MetricType, collect_metric, create_alert_rule, remove_alert_rule
from sage_fastapi_obs.operations.correlation_context import correlation_header
from sage_fastapi_obs.packs.business.api import transaction_completed

DECLARED = declare_counter("rings_total", "Rings.")
RULE = "rings"


def run_operation() -> None:
    with operation("ring"):
        pass


def call_dependency() -> None:
    with track_dependency("bell", "ring"):
        pass


def counted(name: str, **labels: str) -> Callable[[Watched], bool]:
    return lambda watched: bool(watched.value(name, **labels))


WAYS: dict[str, tuple[Callable[[], Any], Callable[[Watched], bool]]] = {
    "a logger": (
        lambda: create_logger("bell").info("ring"),
        lambda watched: any(line["message"] == "ring" for line in watched.lines),
    ),
    "an operation": (run_operation, counted("operations_total", operation="ring", status="success")),
    "a declared metric": (DECLARED.inc, counted("rings_total")),
    "a pack": (transaction_completed, counted("business_transactions_total")),
    "a pack switched on": (lambda: enable_pack("security"), lambda watched: "security" in watched.obs.instruments.packs),
    "a client": (call_dependency, counted("dependency_calls_total", system="bell", operation="ring", status="success")),
    "a metric by its name": (lambda: collect_metric("ringing", 1, MetricType.GAUGE), counted("ringing")),
    "a rule": (
        lambda: create_alert_rule(RULE, "rings_total", AlertCondition.GREATER_THAN, 1),
        lambda watched: RULE in [rule.name for rule in watched.obs.status.alerts.rules],
    ),
    "an internal error": (
        lambda: count_internal_error("bell", ValueError()),
        counted("observability_internal_errors_total", component="bell"),
    ),
}


@pytest.fixture
def two(watch: Callable[..., Watched]) -> tuple[Watched, Watched]:
    """Build two, for two apps of one process."""
    return watch(metrics={"packs": ["http", "business"]}), watch(metrics={"packs": ["http", "business"]})


@pytest.mark.parametrize("way", WAYS)
async def test_in_a_request_all_act_on_the_one_of_its_app(two: tuple[Watched, Watched], way: str) -> None:
    """Whatever a route calls acts on its own app's, although another app has started later."""
    act, has_acted = WAYS[way]
    mine, other = two
    app = FastAPI()
    mine.obs.install(app)

    @app.get("/")
    async def route() -> None:
        act()

    try:
        async with mine.obs, other.obs, client(app) as http:
            assert (await http.get("/")).status_code == 200
            assert (has_acted(mine), has_acted(other)) == (True, False)
    finally:
        remove_alert_rule(RULE)


@pytest.mark.parametrize("way", [way for way in WAYS if way != "a logger"])
async def test_outside_requests_all_act_on_the_one_that_started_last(two: tuple[Watched, Watched], way: str) -> None:
    """In a job or a script there is no request: the last started one, and after its close the one before it."""
    act, has_acted = WAYS[way]
    first, last = two
    async with first.obs:
        async with last.obs:
            act()
            assert (has_acted(first), has_acted(last)) == (False, True)
            remove_alert_rule(RULE)
        act()
        assert has_acted(first)
        remove_alert_rule(RULE)


async def test_lines_outside_requests_go_to_the_one_that_started_first(two: tuple[Watched, Watched]) -> None:
    """The output of a process does not change while it runs, whoever starts in it later."""
    act, has_acted = WAYS["a logger"]
    first, last = two
    async with first.obs, last.obs:
        act()
    assert (has_acted(first), has_acted(last)) == (True, False)


async def test_settings_are_those_of_the_same_one(watch: Callable[..., Watched]) -> None:
    """The name of the header for correlation ids follows it, in a request and outside."""
    mine, other = watch(http={"correlation_header": "X-Mine"}), watch(http={"correlation_header": "X-Other"})
    app = FastAPI()
    mine.obs.install(app)
    app.add_api_route("/", lambda: (correlation_header(), get_correlation_id() is not None))
    async with mine.obs, other.obs, client(app) as http:
        assert (await http.get("/")).json() == ["X-Mine", True]
        assert correlation_header() == "X-Other"


SCRIPT = """
from test_active import WAYS
for way, (act, _) in WAYS.items():
    if way != "a pack switched on":
        act()
"""


def test_without_any_nothing_is_recorded_and_nothing_raised() -> None:
    """In a process that starts none, all this code runs; only the switch of a pack raises, as it would do nothing."""
    subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT], check=True, timeout=PATIENCE_SECONDS, cwd=Path(__file__).parent
    )
