"""Routes side by side and one in detail: what they tell is what the windows hold, and a route is never read as a pattern."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import INTERVAL, World

from sage_fastapi_obs.alerting.route_report import RouteReports
from sage_fastapi_obs.alerting.summary import busiest_routes

ROUTES = ("/a", "/a/{b}", "=~.*", "!~x")
"""The last ones look like patterns of label matchers."""
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(("GET", "POST")), st.sampled_from(ROUTES), st.sampled_from((200, 404, 422, 500)), st.floats(0, 20)
    ),
    max_size=12,
)


def world_of(ticks) -> World:
    """Build a world in which requests ended before each tick."""
    world = World(from_zero=True, begin=False)
    world.status.windows.sample()
    for requests in ticks:
        for method, route, status, seconds in requests:
            series = world.requests.with_values(method, route, str(status))
            series.pending.append((round(seconds * 1_000_000), 10, 100, None, None))
        world.tick()
        world.status.windows.sample()
    return world


@given(st.lists(REQUESTS, min_size=1, max_size=8))
def test_parts_add_up_to_the_whole(ticks):
    """Statuses, buckets of the heatmap and rates of all steps add up to the requests of a route, for every route."""
    world = world_of(ticks)
    reports = RouteReports(world.status)
    listed = reports.list(300.0)
    assert listed.routes_total == len({(method, route) for requests in ticks for method, route, _, _ in requests})
    for row in listed.routes:
        own = [one for requests in ticks for one in requests if one[:2] == (row.method, row.route)]
        detail = reports.detail(row.method, row.route, 300.0)
        assert row.count == pytest.approx(len(own))
        assert sum(detail.statuses.values()) == pytest.approx(len(own))
        assert sum(map(sum, detail.counts)) == pytest.approx(len(own))
        assert sum((rate or 0) * INTERVAL for rate in row.requests) == pytest.approx(len(own))
        assert {len(counts) for counts in detail.counts} <= {0, len(detail.bounds_ms) + 1}
        assert {len(series) for series in detail.series.values()} == {len(detail.time)}


@given(st.lists(REQUESTS, min_size=1, max_size=4), st.text(max_size=20), st.text(max_size=20))
def test_a_route_is_compared_and_never_read_as_a_pattern(ticks, method, route):
    """Whatever is asked for, only the requests of exactly that method and route are counted."""
    world = world_of(ticks)
    for asked in ((method, route), ("GET", "=~.*"), ("=~.*", "/a"), ("GET", "=~(a+)+$")):
        detail = RouteReports(world.status).detail(*asked, 300.0)
        own = [one for requests in ticks for one in requests if one[:2] == asked]
        assert sum(detail.statuses.values()) == pytest.approx(len(own))
        assert (detail.route is None) is (not own)


def test_the_list_says_what_the_summary_says():
    """The figures of a route are those of the summary, to the last digit."""
    world = world_of([[("GET", "/a", 200, 0.2), ("GET", "/a", 500, 1.5), ("POST", "/b", 201, 0.1)]] * 3)
    _, expected = busiest_routes(world.status.view(300.0), None)
    shown = RouteReports(world.status).list(300.0).routes
    assert [row.model_dump(exclude={"requests"}) for row in shown] == [one.model_dump() for one in expected]
