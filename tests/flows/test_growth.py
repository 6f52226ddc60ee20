"""Whatever clients send, and however long the service runs, nothing grows."""

import gc
import random
import tracemalloc
from collections import Counter

import pytest
from fastapi import FastAPI
from support import PATIENCE_SECONDS, drive, http_scope, no_cycles_of_ours, times

from sage_fastapi_obs import Observability, ObservabilityMiddleware, Settings
from sage_fastapi_obs.catalog import OVERFLOW

HOSTILE = times(2_000)
WARM_UP = 5_000
REQUESTS = times(10_000, 500_000)
MOST_GROWTH_BYTES = 256 * 1024


def all_series(obs: Observability) -> int:
    """Count the series of the registry, but for those of what looks slow on a busy machine."""
    slow = ("http_background_duration_seconds", "http_slow_requests")
    return sum(len(metric.samples) for metric in obs.registry.collect() if metric.name not in slow)


@pytest.mark.soak
async def test_hostile_paths_methods_and_hosts_add_a_handful_of_series(watch):
    """However many of each make two new label sets: unknown method, and no route."""
    watched = watch(logging={"level": "critical"})
    app = FastAPI()
    app.add_api_route("/items/{item}", lambda item: item)
    watched.obs.install(app)
    dice = random.Random(7)
    await drive(app, http_scope("/items/1"))
    await drive(app, http_scope("/nowhere"))
    await drive(app, http_scope("/items/1", "BREW"))
    await drive(app, http_scope("/nowhere", "BREW"))
    before = all_series(watched.obs)
    for _ in range(HOSTILE):
        path = dice.choice(["/", "/items/"]) + dice.randbytes(8).hex()
        method = dice.choice(["GET", dice.randbytes(4).hex().upper()])
        await drive(app, http_scope(path, method, headers=[(b"host", dice.randbytes(6).hex().encode())]))
    assert all_series(watched.obs) == before
    assert set(watched.series("http_requests_total")) <= {
        (("method", method), ("route", route), ("status", status))
        for method in ("GET", "_OTHER")
        for route in ("/items/{item}", "unmatched")
        for status in ("200", "404", "405")
    }


async def test_values_of_open_labels_are_limited(watch):
    """An app that invents statuses and exceptions fills one more value, and the overflow is counted."""
    watched = watch(metrics={"max_label_values": 5}, logging={"level": "critical"})

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": int(scope["path"][1:]), "headers": []})
        await send({"type": "http.response.body"})

    middleware = ObservabilityMiddleware(app, observability=watched.obs)
    for status in range(200, 260):
        await drive(middleware, http_scope(f"/{status}"))
    statuses = {dict(key)["status"] for key in watched.series("http_requests_total")}
    assert statuses == {"200", "201", "202", "203", "204", OVERFLOW}
    assert watched.value("observability_label_overflow_total", label="status") == 55
    assert sum(watched.series("http_requests_total").values()) == 60


async def answer(scope, receive, send) -> None:
    """Answer as small as can be."""
    await send({"type": "http.response.start", "status": 200 if scope["path"] < "/8" else 404, "headers": []})
    await send({"type": "http.response.body", "body": b"x"})


async def test_a_request_leaves_no_work_for_the_garbage_collector(watch):
    """Nothing of ours refers to itself in a circle."""
    watched = watch(logging={"output": "/dev/null"})
    app = ObservabilityMiddleware(answer, observability=watched.obs)

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message) -> None: ...

    await app(http_scope("/1"), receive, send)
    with no_cycles_of_ours(100):
        for _ in range(100):
            await app(http_scope("/1"), receive, send)


@pytest.mark.soak
@pytest.mark.parametrize("sample_rate", [0.0, 1.0])
async def test_memory_is_flat(tmp_path, sample_rate):
    """After a warm-up, requests leave nothing behind; in the long form half a million of them."""
    requests = REQUESTS if sample_rate == 0.0 else REQUESTS // 4
    settings = Settings(logging={"output": "/dev/null"}, tracing={"sample_rate": sample_rate})
    obs = Observability(settings)
    app = ObservabilityMiddleware(answer, observability=obs)

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message) -> None: ...

    async def serve(count: int) -> None:
        for number in range(count):
            await app(http_scope(f"/{number}", "GET" if number % 3 else f"M{number}"), receive, send)
        # What waits to be written is no growth, and on a busy machine waits for long.
        obs.logs.flush()
        assert obs.store is not None
        assert obs.store.flush(PATIENCE_SECONDS)
        gc.collect()

    async def left_behind() -> Counter[str]:
        """Trace what the same number of requests leaves behind: bytes, by the line that made them."""
        tracemalloc.start()
        await serve(WARM_UP // 10)
        left = tracemalloc.take_snapshot()
        tracemalloc.stop()
        # Windows fill with time, not with requests.
        left = left.filter_traces([tracemalloc.Filter(inclusive=False, filename_pattern="*/alerting/window*")])
        return Counter({str(line.traceback): line.size for line in left.statistics("lineno")})

    async with obs:
        await serve(WARM_UP)
        before = await left_behind()
        gc.collect()
        objects = len(gc.get_objects())
        await serve(requests)
        assert abs(len(gc.get_objects()) - objects) < 500
        growth = await left_behind()
    growth.subtract(before)
    assert growth.total() < MOST_GROWTH_BYTES, growth.most_common(10)
    assert obs.internal_errors.counts == {}
