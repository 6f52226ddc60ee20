"""Which findings of a request are told, and in which order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sage_fastapi_obs.causes import CAUSES, Cause
from sage_fastapi_obs.request.explanation import LEAST_LOST_US, LEAST_SHARE, Explanation, Finding


def told(duration_ms: int, **lost_ms: int) -> list[str]:
    """Return the causes that are told of those found."""
    explanation = Explanation(findings=[Finding(cause, cause, lost * 1_000) for cause, lost in lost_ms.items()])  # type: ignore[arg-type]
    explanation.rank(duration_ms * 1_000)
    return [finding.cause for finding in explanation.findings]


@pytest.mark.parametrize(
    ("duration_ms", "lost_ms", "expected"),
    [
        pytest.param(1_000, {"dependencies": 950, "database": 900}, ["database"], id="a database call in a dependency"),
        pytest.param(1_100, {"dependencies": 500, "database": 600}, ["database", "dependencies"], id="one after the other"),
        pytest.param(1_000, {"dependencies": 900, "database": 400}, ["dependencies", "database"], id="most is its own"),
        pytest.param(1_000, {"waiting": 950, "call": 940}, ["call"], id="it waits for the call"),
        pytest.param(2_600, {"dependencies": 500, "thread_wait": 2_000}, ["thread_wait", "dependencies"], id="waits are apart"),
        pytest.param(900, {"serialization": 800, "dependencies": 60}, ["serialization"], id="too small a share"),
        pytest.param(800, {"serialization": 400, "delayed": 390}, ["delayed"], id="others blocked the loop meanwhile"),
        pytest.param(900, {"database": 800, "busy_threads": 300}, ["database", "busy_threads"], id="more than others took"),
        pytest.param(780, {"waiting": 86, "delayed": 694}, ["delayed", "waiting"], id="what it always waits for"),
        pytest.param(900, {"waiting": 600, "delayed": 300}, ["waiting", "delayed"], id="others took less"),
        pytest.param(500, {"dependencies": 450, "delayed": 440}, ["delayed"], id="others blocked the loop in a dependency"),
    ],
)
def test_a_time_is_told_once(duration_ms: int, lost_ms: dict[str, int], expected: list[str]) -> None:
    """What a part of a request lost to a particular cause is not told of the part again."""
    assert told(duration_ms, **lost_ms) == expected


findings = st.dictionaries(st.sampled_from([cause for cause in CAUSES if not CAUSES[cause].is_reason]), st.integers(0, 3_000))


@given(st.integers(1, 3_000), findings)
def test_particular_causes_never_give_way(duration_ms: int, lost_ms: dict[Cause, int]) -> None:
    """Each that cost enough by itself is told, and of general ones only those that are left as large."""
    stopped = sum(lost_ms.get(cause, 0) for cause in ("delayed", "busy_threads", "garbage_collection"))
    own = {cause: lost - stopped if CAUSES[cause].is_elapsed else lost for cause, lost in lost_ms.items()}
    least_ms = max(LEAST_LOST_US / 1_000, LEAST_SHARE * duration_ms)
    for cause in told(duration_ms, **lost_ms):
        assert lost_ms[cause] >= least_ms
    enough = {cause for cause, lost in own.items() if lost >= least_ms}
    assert {cause for cause in enough if not CAUSES[cause].is_general} <= set(told(duration_ms, **lost_ms))
