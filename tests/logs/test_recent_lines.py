"""The store of recent lines: found by any id, bounded, and off where nobody asked for it."""

import asyncio
import gc
import inspect
import threading
import tracemalloc
from typing import Any

import orjson
import pytest
from fastapi import FastAPI
from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from loguru import logger
from support import client, drive, http_scope, times

from sage_fastapi_obs import Observability, ObservabilityMiddleware, RequestLogger, Settings
from sage_fastapi_obs.logs.recent_lines import OVERHEAD_BYTES, Entry, RecentLines, entry

IDS = strategies.sampled_from(["a", "b", "c", "d", None])


def encoded(number: int, size: int = 0) -> bytes:
    """Make a line whose time is its number."""
    return orjson.dumps({"timestamp": f"{number:09}", "level": "info", "message": "x" * size})


class Keeping(RuleBasedStateMachine):
    """The store against a plain list of all lines ever kept."""

    @initialize(lines=strategies.integers(1, 12), size=strategies.integers(1_500, 8_000))
    def build(self, lines: int, size: int) -> None:
        self.recent = RecentLines(lines, size)
        self.most_lines, self.most_bytes = lines, size
        self.kept: list[Entry] = []
        self.made = 0

    @rule(correlation=IDS, request=IDS, trace=IDS, size=strategies.integers(0, 9_000))
    def keep(self, correlation: Any, request: Any, trace: Any, size: int) -> None:
        self.made += 1
        kept = (correlation, request, trace, encoded(self.made, size))
        self.recent.keep(kept)
        self.kept.append(kept)
        while len(self.kept) > self.most_lines or self._size() > self.most_bytes:
            self.kept.pop(0)

    def _size(self) -> int:
        return sum(len(entry[3]) + OVERHEAD_BYTES for entry in self.kept)

    @rule(wanted=strategies.sampled_from(["a", "b", "c", "d", "e", ""]), limit=strategies.integers(1, 5))
    def find(self, wanted: str, limit: int) -> None:
        expected = [orjson.loads(entry[3])["timestamp"] for entry in self.kept if wanted in entry[:3]]
        assert [line.timestamp for line in self.recent.find(wanted, limit)] == expected[-limit:]

    @invariant()
    def is_bounded(self) -> None:
        if hasattr(self, "recent"):
            assert len(self.recent) == len(self.kept) <= self.most_lines
            assert self.recent.size == self._size() <= self.most_bytes


Keeping.TestCase.settings = settings(deadline=None, max_examples=times(60), stateful_step_count=40)
TestKeeping = Keeping.TestCase


def test_lines_come_by_their_time() -> None:
    """A line that waited for the end of its request was kept after younger ones, and is shown before them."""
    recent = RecentLines(10, 2**20)
    for number in (3, 1, 2):
        recent.keep(("c", "r", None, encoded(number)))
    assert [int(line.timestamp) for line in recent.find("c", 10)] == [1, 2, 3]


def test_threads_keep_and_ask_at_once() -> None:
    """Nothing is lost or counted twice, and questions are answered meanwhile."""
    recent = RecentLines(500, 2**20)
    start = threading.Barrier(5)
    answers: list[int] = []

    def keep(worker: int) -> None:
        start.wait()
        for number in range(2_000):
            recent.keep((f"w-{worker}", None, None, encoded(number)))

    def ask() -> None:
        start.wait()
        for _ in range(50):
            found = [int(line.timestamp) for worker in range(4) for line in recent.find(f"w-{worker}", 500)]
            answers.append(len(found))

    threads = [threading.Thread(target=keep, args=(worker,)) for worker in range(4)] + [threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 50
    assert len(recent) == 500
    assert recent.size == 500 * (len(encoded(0)) + OVERHEAD_BYTES)


def test_its_size_is_true() -> None:
    """What it says to take, ids and all, is no less than what it takes."""
    most = 2 * 2**20
    recent = RecentLines(1_000_000, most)
    gc.collect()
    tracemalloc.start()
    for number in range(20_000):
        laid = {"correlation_id": f"{number:036}", "request_id": f"{number:036}", "trace_id": f"{number:032}"}
        recent.keep(entry(laid, encoded(number, 100) + b"\n"))
    # Threads of others allocate meanwhile.
    ours = [tracemalloc.Filter(inclusive=True, filename_pattern=name) for name in (__file__, inspect.getfile(RecentLines))]
    taken = sum(each.size for each in tracemalloc.take_snapshot().filter_traces(ours).statistics("filename"))
    tracemalloc.stop()
    assert len(recent) < 20_000
    assert most * 0.8 < taken <= most * 1.02


def shop(obs: Observability) -> FastAPI:
    """Build an app that logs, calls itself wrong, and fails."""
    app = FastAPI()
    obs.install(app)

    @app.get("/orders/{order}")
    async def read(order: int, log: RequestLogger) -> dict[str, int]:
        log.debug("looking", operation="read_order", order=order)
        log.info("found", operation="read_order")
        if order == 13:
            raise LookupError("no such order")
        return {"order": order}

    return app


async def test_any_of_three_ids_leads_to_the_story(watch: Any) -> None:
    """Correlation, request and trace id find the same lines; each has time, level, operation, message and error."""
    watched = watch(monitoring={"log_buffer_size": 100}, logging={"level": "info", "flight_recorder": True})
    async with client(shop(watched.obs)) as http:
        await http.get("/orders/7")
        answer = await http.get("/orders/13", headers={"X-Correlation-ID": "req_12345"})
    trace_id = watched.access[1]["trace_id"]
    stories = [
        watched.obs.query_logs_by_correlation_id(wanted) for wanted in ("req_12345", answer.headers["x-request-id"], trace_id)
    ]
    assert stories[0] == stories[1] == stories[2]
    story = stories[0]
    assert sorted((line.level, line.message, line.operation) for line in story) == [
        ("debug", "looking", "read_order"),
        ("error", "request failed", None),
        ("info", "found", "read_order"),
    ]
    assert [line.timestamp for line in story] == sorted(line.timestamp for line in story)
    error = next(line for line in story if line.level == "error")
    assert error.error.message == "no such order"
    assert "LookupError" in error.error.stack_trace
    assert (error.route, error.status) == ("/orders/{order}", 500)
    assert [line.error for line in story if line.level != "error"] == [None, None]
    assert len(watched.obs.query_logs_by_correlation_id("req_12345", limit=1)) == 1
    assert watched.obs.query_logs_by_correlation_id("req_1234") == []


async def test_the_store_keeps_json_whatever_the_output_shows(watch: Any) -> None:
    """Console lines are kept with all their fields."""
    watched = watch(monitoring={"log_buffer_size": 100}, logging={"format": "console"})
    async with client(shop(watched.obs)) as http:
        answer = await http.get("/orders/7")
    story = watched.obs.query_logs_by_correlation_id(answer.headers["x-request-id"])
    assert [line.message for line in story] == ["looking", "found", "request completed"]
    assert story[0].data == {"order": 7}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (Settings(), False),
        (Settings.production(), False),
        (Settings.dev(), True),
        (Settings.dev(monitoring={"log_buffer_size": 0}), False),
        (Settings.dev(logging={"enabled": False}), False),
        (Settings.production(monitoring={"log_buffer_size": 5}), True),
        (Settings(monitoring={"expose_logs": True}), True),
    ],
)
def test_lines_are_kept_where_they_are_asked_for(settings: Settings, kept: bool) -> None:
    """By default only where they are shown; without a store nothing is found."""
    obs = Observability(settings)
    assert (obs.logs.recent_lines is not None) == kept
    assert obs.query_logs_by_correlation_id("anything") == []


async def test_a_store_that_fails_costs_no_request(watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its fault is counted."""
    watched = watch(monitoring={"log_buffer_size": 100})
    monkeypatch.setattr(watched.obs.logs.recent_lines, "keep", lambda *_: 1 / 0)
    async with client(shop(watched.obs)) as http:
        assert (await http.get("/orders/7")).status_code == 200
    assert watched.obs.internal_errors.counts["Logs"] >= 3


async def test_requests_at_once_find_their_own_lines(watch: Any) -> None:
    """Lines of tasks and threads are found under the id of their request only."""
    watched = watch(monitoring={"log_buffer_size": 10_000})
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/{number}")
    async def read(number: int) -> None:
        await asyncio.gather(*(asyncio.to_thread(logger.info, f"{number}-{part}") for part in range(5)))

    async with client(app) as http:
        await asyncio.gather(*(http.get(f"/{number}", headers={"X-Correlation-ID": f"c-{number}"}) for number in range(30)))
    for number in range(30):
        story = [line.message for line in watched.obs.query_logs_by_correlation_id(f"c-{number}")]
        assert sorted(story) == [*(f"{number}-{part}" for part in range(5)), "request completed"]


async def test_memory_stays_within_the_limit(watch: Any) -> None:
    """However many requests there are, the store takes no more than it may."""
    store = {"log_buffer_size": 1_000_000, "log_buffer_bytes": 2**20}
    watched = watch(logging={"output": "/dev/null"}, monitoring=store, tracing={"enabled": False})

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body"})

    watching = ObservabilityMiddleware(app, observability=watched.obs)
    for _ in range(2_000):
        await drive(watching, http_scope())
    watched.obs.logs.flush()
    assert watched.obs.logs.recent_lines.size <= 2**20
    gc.collect()
    tracemalloc.start()
    for _ in range(3_000):
        await drive(watching, http_scope())
    # Lines that have gathered are not the store's.
    watched.obs.logs.flush()
    gc.collect()
    # Of ours alone: threads of other tests may allocate meanwhile.
    ours = tracemalloc.Filter(inclusive=True, filename_pattern="*/sage_fastapi_obs/*")
    grown = sum(each.size for each in tracemalloc.take_snapshot().filter_traces([ours]).statistics("filename"))
    tracemalloc.stop()
    assert grown > 2**19
    assert watched.obs.logs.recent_lines.size <= 2**20
    # What is let go was there before the measurement, so that at most a whole store looks new.
    assert grown < 2**20 * 1.1
