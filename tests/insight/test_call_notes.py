"""What is noted of a request's calls, without any client."""

from contextvars import Context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.insight.busy_time import BusyTime, together_us
from sage_fastapi_obs.insight.call_notes import MOST_CALLEES, Callee, CallNotes
from sage_fastapi_obs.insight.calls import SlowCalls, note_call
from sage_fastapi_obs.insight.facts import facts_of
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.explanation import Explanation

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair))), max_size=12)
MANY = st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)).map(lambda pair: (min(pair), max(pair))), max_size=80)


def together(spans: list[tuple[int, int]]) -> int:
    """Count each unit of time in which something was under way."""
    return len({moment for first, last in spans for moment in range(first, last)})


@given(SPANS)
def test_time_that_overlaps_counts_once(spans: list[tuple[int, int]]):
    """Of what ends in order, the time is that in which at least one was under way."""
    busy = BusyTime()
    for first, last in sorted(spans, key=lambda span: span[1]):
        busy.add(first * 1_000, last * 1_000)
    assert busy.us == together(spans)


@given(st.lists(SPANS, max_size=5))
def test_several_are_added_up_alike(lists: list[list[tuple[int, int]]]):
    """What overlaps between several counts once, too."""
    several = [BusyTime() for _ in lists]
    for busy, spans in zip(several, lists, strict=True):
        for first, last in sorted(spans, key=lambda span: span[1]):
            busy.add(first * 1_000, last * 1_000)
    assert together_us(several) == together([span for spans in lists for span in spans])


@given(MANY)
def test_time_is_never_more_than_passed(spans: list[tuple[int, int]]):
    """In whatever order many end, no time is lost, and none is counted that did not pass."""
    busy = BusyTime()
    for first, last in spans:
        busy.add(first * 1_000, last * 1_000)
    passed = max((last for _, last in spans), default=0) - min((first for first, _ in spans), default=0)
    assert together(spans) <= busy.us <= passed


CALLS = st.lists(
    st.tuples(
        st.builds(Callee, st.sampled_from(["database", "call"]), st.sampled_from("abc"), st.sampled_from("abc")),
        st.integers(0, 100),
    ),
    max_size=60,
)


@given(CALLS, st.integers(0, 10_000_000))
def test_no_more_is_lost_than_the_request_took(calls: list[tuple[Callee, int]], duration_us: int):
    """Repeated queries and the rest of the database are together no longer than the request, and no call is."""
    exchange = Exchange({"type": "http"}, 0, 0)
    exchange.duration_us = duration_us
    notes = facts_of(exchange).calls = CallNotes()
    now_ms = 0
    for callee, took_ms in calls:
        notes.add(callee, now_ms * 1_000_000, (now_ms + took_ms) * 1_000_000)
        now_ms += took_ms
    explanation = Explanation()
    SlowCalls().explain(exchange, explanation)
    assert all(0 <= finding.lost_us <= duration_us for finding in explanation.findings)
    database_us = sum(finding.lost_us for finding in explanation.findings if finding.cause == "database")
    repeated_us = sum(finding.lost_us for finding in explanation.findings if finding.cause == "repeated_query")
    spent_us = sum(took_ms for callee, took_ms in calls if callee.kind == "database") * 1_000
    if spent_us <= duration_us:
        assert database_us + repeated_us == spent_us
    else:
        assert database_us <= max(0, duration_us - min(repeated_us, duration_us))


def test_the_number_of_statements_is_bounded():
    """However many there are, what is kept of a request does not grow, and all are counted."""
    notes = CallNotes()
    for number in range(1_000):
        notes.add(Callee("database", "SELECT", f"select {number}"), 0, 1)
    assert len(notes.by_callee) == MOST_CALLEES + 1
    assert sum(times.count for times in notes.by_callee.values()) == 1_000


@pytest.mark.parametrize(("number", "took_ms", "is_of_concern"), [(37, 2, True), (37, 1, False), (9, 50, False), (10, 5, True)])
def test_repeated_queries_are_of_concern_if_they_took_long(number: int, took_ms: int, is_of_concern: bool):
    """Ten or more of one statement, that took 50 ms or more, are told also of a request that is quick for its route."""
    watched = Observability(Settings(logging={"enabled": False}, store={"enabled": False}))
    exchange = Exchange({"type": "http"}, 0, 0, watched)

    def ask() -> None:
        current_exchange.set(exchange)
        for moment in range(number):
            note_call(Callee("database", "SELECT orders", "select ?"), moment * took_ms * 1_000_000, took_ms * 1_000)

    # Of its own: what another test has waited for is not in it.
    Context().run(ask)
    assert SlowCalls().concerns(exchange) == is_of_concern
    assert (exchange.facts.calls.by_callee.popitem()[1].line is not None) == (number >= 10)
