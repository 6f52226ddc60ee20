"""What of a request's causes is told, and in which order."""

from hypothesis import given
from hypothesis import strategies as st

from sage_fastapi_obs.causes import ALL_CAUSES, CAUSES
from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.facts import facts_of
from sage_fastapi_obs.insight.insight_recorder import InsightRecorder
from sage_fastapi_obs.insight.observer import CauseObserver
from sage_fastapi_obs.insight.troubled_time import TroubledTime
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.explanation import Explanation, Finding, readable_time

FINDINGS = st.builds(Finding, st.sampled_from(ALL_CAUSES), st.text(max_size=3), st.integers(0, 3_000_000))
REASONS, OTHERS = {cause for cause in ALL_CAUSES if CAUSES[cause].is_reason}, {"delayed"}


def _is_particular(finding: Finding) -> bool:
    return not CAUSES[finding.cause].is_general


def _is_worth_it(finding: Finding, duration_us: int) -> bool:
    return finding.cause in REASONS or (finding.lost_us >= 50_000 and finding.lost_us * 10 >= duration_us)


def _is_stopped(finding: Finding) -> bool:
    return CAUSES[finding.cause].is_elapsed


@given(st.lists(FINDINGS, max_size=8), st.integers(0, 5_000_000))
def test_what_is_told_is_worth_it(found: list[Finding], duration_us: int) -> None:
    """Reasons always are; of what took time, that of at least 50 ms and a tenth of the duration. General ones may give way."""
    explanation = Explanation(list(found))
    explanation.rank(duration_us)
    stopped_us = sum(one.lost_us for one in found if one.cause in ("delayed", "busy_threads", "garbage_collection"))
    left = [one._replace(lost_us=max(0, one.lost_us - stopped_us)) if _is_stopped(one) else one for one in found]
    expected = [one for one in left if _is_particular(one) and _is_worth_it(one, duration_us)]
    assert sorted(map(repr, filter(_is_particular, explanation.findings))) == sorted(map(repr, expected))


@given(st.lists(FINDINGS, max_size=8))
def test_the_order_is_that_of_what_it_cost(found: list[Finding]) -> None:
    """Reasons come first, then what the request did itself by lost time, then what others did to it."""
    explanation = Explanation(list(found))
    explanation.rank(0)
    places = [0 if one.cause in REASONS else 2 if one.cause in OTHERS else 1 for one in explanation.findings]
    assert places == sorted(places)
    for place in (1, 2):
        lost = [one.lost_us for one, its in zip(explanation.findings, places, strict=True) if its == place]
        assert lost == sorted(lost, reverse=True)
    assert explanation.why == [one.text for one in explanation.findings]
    assert explanation.cause == (explanation.findings[0].cause if explanation.findings else "unknown")


def test_times_are_written_for_people() -> None:
    """Milliseconds below a second, seconds with one decimal from there on."""
    assert [readable_time(us) for us in (540_400, 999_499, 999_600, 2_149_000)] == ["540 ms", "999 ms", "1.0 s", "2.1 s"]


class Known(CauseObserver):
    """Says what it was told to say."""

    def __init__(self, *found: Finding, is_concerned: bool = False, name: str = "", calls: list[str] | None = None) -> None:
        self.found, self.is_concerned = found, is_concerned
        self.name, self.calls = name, [] if calls is None else calls

    def start(self) -> None:
        """Note it."""
        self.calls.append(f"start {self.name}")

    def stop(self) -> None:
        """Note it."""
        self.calls.append(f"stop {self.name}")

    def concerns(self, exchange: Exchange) -> bool:
        """Say it."""
        return self.is_concerned

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Say it."""
        explanation.findings.extend(self.found)


class Broken(CauseObserver):
    """Cannot explain anything."""

    def explain(self, exchange: Exchange, explanation: Explanation) -> None:
        """Fail."""
        raise LookupError


def ended(duration_us: int, status: int = 200) -> Exchange:
    exchange = Exchange({"type": "http"}, 0, 0)
    exchange.duration_us, exchange.status = duration_us, status
    facts_of(exchange)
    return exchange


def explained(exchange: Exchange, *observers: CauseObserver, errors: InternalErrors | None = None) -> Explanation | None:
    """Let observers explain an exchange, where requests from a second on are slow."""
    recorder = InsightRecorder([*observers], lambda _: 1_000_000, errors or InternalErrors(), ApplicationCode(), TroubledTime())
    recorder.request_finished(exchange)
    assert exchange.facts is None
    return exchange.explanation


def test_only_what_needs_one_is_explained() -> None:
    """A quick and fine request is not explained, unless an observer says that it concerns it."""
    slow = Finding("waiting", "waited", 500_000)
    assert explained(ended(10_000), Known(slow)) is None
    assert explained(ended(10_000), Known(slow, is_concerned=True)) is not None
    assert explained(ended(10_000, status=422), Known(slow)) is not None
    assert explained(ended(1_000_000), Known(slow)) is not None


def test_a_slow_request_without_a_known_cause_says_so() -> None:
    """It counts as `unknown`; one that is only refused says nothing."""
    explanation = explained(ended(1_000_000), Known())
    assert explanation is not None
    assert (explanation.cause, explanation.is_slow) == ("unknown", True)
    assert explained(ended(10, status=404), Known()) is None


def test_a_problem_makes_a_request_slow() -> None:
    """Whoever blocks the event loop is told of, also where that is usual on its route; whoever only waits is not."""
    blocker = explained(ended(300_000), Known(Finding("blocked_loop", "blocked", 290_000), is_concerned=True))
    waiter = explained(ended(300_000), Known(Finding("waiting", "waited", 290_000), is_concerned=True))
    assert blocker is not None
    assert waiter is not None
    assert (blocker.is_slow, waiter.is_slow) == (True, False)


def test_an_observer_that_fails_is_counted() -> None:
    """The others are asked all the same."""
    errors = InternalErrors()
    explanation = explained(ended(2_000_000), Broken(), Known(Finding("call", "called", 900_000)), errors=errors)
    assert explanation is not None
    assert explanation.why == ["called"]
    assert errors.counts == {"Insight": 1}


def test_observers_are_started_and_stopped() -> None:
    """Those that are started last are stopped first."""
    calls: list[str] = []
    recorder = InsightRecorder(
        [Known(name="first", calls=calls), Known(name="last", calls=calls)],
        lambda _: 0,
        InternalErrors(),
        ApplicationCode(),
        TroubledTime(),
    )
    recorder.start()
    recorder.stop()
    assert calls == ["start first", "start last", "stop last", "stop first"]
