"""How long requests were on their way from a proxy, whatever it writes and whatever a client sends."""

from collections.abc import Callable
from decimal import Decimal, localcontext
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from support import Watched, client

from sage_fastapi_obs.insight.queue_time import queue_us

NOW_NS = 1_790_000_000_123_456_789
UNITS_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
LATER_NS = NOW_NS + 250_000_000
PROXIES = {
    "nginx": b"t=1790000000.123",
    "nginx, without the letter": b"1790000000.123",
    "Heroku": b"1790000000123",
    "HAProxy": b"t=1790000000123456",
    "Apache": b"t=1790000000123456 D=1234",
    "Apache, no letter": b" 1790000000123456 D=99",
    "nanoseconds": b"1790000000123456789",
    "Python": b"1790000000.1234567",
    "two proxies": b"t=1790000000.123, t=1790000000.300",
}


@pytest.mark.parametrize("proxy", PROXIES)
def test_every_proxy_is_understood(proxy: str) -> None:
    """Seconds, milliseconds, microseconds and nanoseconds are told apart by their size."""
    assert abs((queue_us(PROXIES[proxy], LATER_NS) or 0) - 250_000) <= 500


@given(
    st.sampled_from([*UNITS_NS]),
    st.integers(0, 600_000_000_000),
    st.booleans(),
    st.integers(0, 12),
    st.integers(10**18, 4 * 10**18),
)
def test_a_time_in_any_unit_gives_the_same(unit: str, waited_ns: int, lettered: bool, decimals: int, now_ns: int) -> None:
    """A time is read as decimal arithmetic reads it, in each unit and with any number of decimals, of this century's years."""
    with localcontext(prec=60):
        written = round(Decimal(now_ns - waited_ns) / UNITS_NS[unit], decimals)
        exact_ns = now_ns - int(written * UNITS_NS[unit])
    found = queue_us(f"{'t=' if lettered else ''}{written:f}".encode(), now_ns)
    if exact_ns > 600 * 10**9 or exact_ns < -100 * 10**6:
        assert found is None
    else:
        assert found is not None
        assert abs(found - max(0, exact_ns) // 1_000) <= 1


@given(st.one_of(st.binary(max_size=200), st.from_regex(rb"(t=)*[0-9.,;eE+\- D=]{0,100}")))
def test_what_clients_make_up_is_a_bounded_time_or_none(value: bytes) -> None:
    """Whatever is in the header, there is a time between 0 and 600 seconds, or none."""
    found = queue_us(value, NOW_NS)
    assert found is None or 0 <= found <= 600 * 10**6


@pytest.mark.parametrize(
    "value",
    [
        *(
            b"",
            b"t=",
            b"-1790000000",
            b"1e9",
            b"nan",
            b"t=t=1790000000",
            b"0x1790000000",
            "١٧٩٠٠٠٠٠٠٠".encode(),
            b"1790000000x",
        ),
        *(b"1789999400", b"1790000001", b"9" * 100_000, b"0" * 19, b"12345678", b"1790000000" + b"0" * 10, b"\xff1790000000"),
    ],
)
def test_times_that_cannot_be_meant_are_refused(value: bytes) -> None:
    """What is no time, lies more than ten minutes back, or in the future, is left out."""
    assert queue_us(value, NOW_NS) is None


def test_a_clock_that_is_a_little_ahead_gives_zero() -> None:
    """The clocks of two machines differ: a request from the next tenth of a second has not waited."""
    assert queue_us(b"1790000000.200", NOW_NS) == 0
    assert queue_us(b"1790000000.224", NOW_NS) is None


async def requested(watched: Watched, *values: str) -> list[dict[str, Any]]:
    app = FastAPI()
    watched.obs.install(app)

    @app.get("/items/{item_id}")
    async def read(item_id: int) -> int:
        return item_id

    async with watched.obs, client(app) as http:
        for value in values:
            await http.get("/items/1", headers={"X-Request-Start": value})
    return watched.access


async def test_the_line_and_a_histogram_have_the_time(watch: Callable[..., Watched]) -> None:
    """With the header named, each request has its time on the line and in a histogram of its route, in equal numbers."""
    watched = watch(insight={"queue_header": "X-Request-Start"}, wall_clock=lambda: LATER_NS)
    lines = await requested(watched, "t=1790000000.123456", "t=1790000000.373456", "soon")
    assert [line.get("queue_ms") for line in lines] == [250.0, 0.0, None]
    assert watched.value("http_request_queue_seconds_sum", route="/items/{item_id}") == 0.25
    assert watched.value("http_request_queue_seconds_count", route="/items/{item_id}") == 2
    assert all("why" not in line for line in lines)


async def test_without_the_setting_a_client_can_say_what_it_likes(watch: Callable[..., Watched]) -> None:
    """A header that nobody vouches for is not read."""
    watched = watch(wall_clock=lambda: LATER_NS)
    lines = await requested(watched, "t=1790000000.123456")
    assert "queue_ms" not in lines[0]
    assert watched.series("http_request_queue_seconds_count") == {}
