"""Who held an event loop, judged from clocks and samples."""

from hypothesis import given
from hypothesis import strategies as st

from sage_fastapi_obs.insight.loop_block import Sample, judge, who_computed, who_held, without
from sage_fastapi_obs.insight.loop_thread import ClockReading
from sage_fastapi_obs.request.exchange import Exchange

MS = 1_000_000
LEAST = 100 * MS
START = ClockReading(0, 0, 0, 0, 0)


def after(elapsed: int, loop: int = 0, others: int = 0, loop_waited: int = 0, own_waited: int = 0) -> ClockReading:
    """Read the clocks so many milliseconds later."""
    return ClockReading(*(ms * MS for ms in (elapsed, loop, loop + others, loop_waited, own_waited)))


def exchange() -> Exchange:
    """Make a request."""
    return Exchange({"type": "http"}, 0, 0)


def sample(start: int, end: int, whose: Exchange | None, own: int | None = None, who: str = "observed") -> Sample:
    """See a line of a request for some time."""
    return Sample(start * MS, end * MS, (end - start if own is None else own) * MS, who, whose, "app/x.py:3")


def test_what_is_seen_in_time_is_observed() -> None:
    """A watch thread that wakes in time sees who has the loop, whether it computes or sleeps."""
    assert who_held(START, after(50), 0, is_same=False) == "observed"
    assert who_held(START, after(52, loop=50), 2 * MS, is_same=False) == "observed"


def test_who_comes_late_blames_nobody() -> None:
    """A watch thread that was kept from the interpreter may see what came after the call that held it."""
    assert who_held(START, after(400, loop=380, own_waited=3), 350 * MS, is_same=False) == "nobody"
    assert who_held(START, after(400, loop=380, own_waited=3), 350 * MS, is_same=True) == "nobody"


def test_a_thread_that_looks_at_itself_has_computed() -> None:
    """What it finds has held the interpreter if it has computed since the block began, or had no processor."""
    assert who_computed(START, after(400, loop=380, others=5), 0) == "observed"
    assert who_computed(START, after(400, loop=150, loop_waited=230), 0) == "observed"
    # The block began later.
    assert who_computed(START, after(200, loop=110), 0) == "nobody"
    assert who_computed(START, after(200, loop=110), 60 * MS) == "observed"


def test_a_thread_that_has_waited_for_the_interpreter_is_not_blamed() -> None:
    """Who looks at itself after others had the interpreter has done nothing."""
    assert who_computed(START, after(400, loop=20, others=370), 0) == "threads"
    assert who_computed(START, after(400, loop=20, others=100), 0) == "nobody"
    # One that held it and slept.
    assert who_computed(START, after(400, loop=20), 0) == "nobody"
    assert who_computed(START, after(400, loop=60, others=120, loop_waited=300), 0) == "nobody"


def test_other_threads_are_never_a_route() -> None:
    """Where other threads had the processor, the code that the loop happened to be at is not to blame."""
    assert who_held(START, after(400, loop=20, others=370), 350 * MS, is_same=True) == "threads"
    assert who_held(START, after(50, others=45), 0, is_same=True) == "threads"
    # A loaded machine leaves them little, and lets the loop's thread wait for a processor and for the interpreter in turn.
    loaded = after(400, loop=20, others=120, loop_waited=300, own_waited=100)
    assert who_held(START, loaded, 350 * MS, is_same=True) == "nobody"


def test_a_loaded_machine_blames_nobody() -> None:
    """Where neither the loop nor another thread had the processor, nobody of this process is to blame."""
    assert who_held(START, after(400, loop=20, own_waited=300), 350 * MS, is_same=False) == "nobody"
    assert who_held(START, after(400, loop=20, own_waited=5), 350 * MS, is_same=True) == "nobody"
    assert who_held(START, after(400, loop=150, loop_waited=230, own_waited=300), 350 * MS, is_same=False) == "nobody"


def test_a_late_look_goes_on_with_what_was_seen_before() -> None:
    """A thread that has only waited for a processor, and finds the same step, knows that it went on."""
    assert who_held(START, after(400, own_waited=340), 350 * MS, is_same=True) == "observed"


def test_code_that_the_system_has_kept_from_the_processor_is_not_blamed() -> None:
    """A request whose short work took long, since other processes had the processors, did not block the loop."""
    innocent = exchange()
    block = judge([sample(0, 400, innocent, own=20)], 400 * MS, 0, least_ns=LEAST, backlog_ns=0)
    assert block.cause is None


def test_the_collector_is_named_where_it_fills_half_of_a_block() -> None:
    """Who happened to make the object that started the collector is not to blame."""
    samples = [sample(0, 400, exchange())]
    assert judge(samples, 400 * MS, 200 * MS, least_ns=LEAST, backlog_ns=0).cause == "garbage_collection"
    assert judge(samples, 400 * MS, 150 * MS, least_ns=LEAST, backlog_ns=0).cause == "blocked_loop"


def test_threads_are_named_where_they_fill_half_of_a_block() -> None:
    """Threads that compute are the cause, and the block has no holder."""
    block = judge([sample(0, 400, exchange(), who="threads")], 400 * MS, 0, least_ns=LEAST, backlog_ns=0)
    assert (block.cause, block.holders) == ("busy_threads", [])


def test_two_in_a_row_are_both_named() -> None:
    """Each has its own time, and the longer one is the first."""
    short, long = exchange(), exchange()
    samples = [sample(0, 150, short), sample(150, 500, long)]
    block = judge(samples, 500 * MS, 0, least_ns=LEAST, backlog_ns=0)
    assert [(one.exchange, one.held_ns // MS) for one in block.holders] == [(long, 350), (short, 150)]


@given(st.lists(st.tuples(st.integers(1, 300), st.integers(0, 3)), min_size=1, max_size=20))
def test_nobody_is_blamed_for_more_than_it_was_seen_with(seen: list[tuple[int, int]]) -> None:
    """However holders follow each other, each has the time in which it was seen, and all together no more than the block."""
    requests = [exchange() for _ in range(4)]
    samples, end = [], 0
    for length, number in seen:
        samples.append(sample(end, end + length, requests[number]))
        end += length
    block = judge(samples, end * MS, 0, least_ns=LEAST, backlog_ns=0)
    times = {holder.exchange: holder.held_ns for holder in block.holders}
    assert times == {
        one: total for number, one in enumerate(requests) if (total := sum(ms * MS for ms, n in seen if n == number))
    }
    assert sum(times.values()) == end * MS
    assert (block.cause == "blocked_loop") == (max(times.values()) >= LEAST)


OWN = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)).map(sorted), max_size=10)


@given(OWN, st.integers(0, 1_500))
def test_nobody_is_blamed_for_a_thread_that_has_no_processor(times: list[list[int]], waited: int) -> None:
    """What the system tells afterwards of the wait for a processor is taken off once, and no sample has less than nothing."""
    samples = [sample(100 * number, 100 * number + whole, None, own) for number, (own, whole) in enumerate(times)]
    left = without(samples, waited * MS)
    known = sum(whole - own for own, whole in times)
    expected = sum(own for own, _ in times) - max(0, waited - known)
    assert sum(one.own_ns for one in left) == max(0, expected) * MS
    assert all(0 <= one.own_ns <= before.own_ns for one, before in zip(left, samples, strict=True))
    assert [one._replace(own_ns=0) for one in left] == [one._replace(own_ns=0) for one in samples]


def test_a_request_that_ran_while_its_thread_was_kept_away_is_not_blamed() -> None:
    """A loaded machine may take the processor from the loop for long; that is known once it has one again."""
    running = exchange()
    seen = [sample(50 * number, 50 * number + 50, running) for number in range(8)]
    block = judge(without(seen, 390 * MS), 400 * MS, 0, least_ns=LEAST, backlog_ns=0)
    assert block.cause is None
