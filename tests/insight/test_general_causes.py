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
        pytest.param(500, {"dependencies": 450, "delayed": 440}, ["delayed"], id="others blocked the loop in a dependency"),
    ],
)
def test_a_time_is_told_once(duration_ms: int, lost_ms: dict[str, int], expected: list[str]) -> None:
    """What a part of a request lost to a particular cause is not told of the part again."""
    assert told(duration_ms, **lost_ms) == expected


findings = st.dictionaries(st.sampled_from([cause for cause in CAUSES if not CAUSES[cause].is_reason]), st.integers(0, 3_000))


@given(st.integers(1, 3_000), findings)
def test_particular_causes_never_give_way(duration_ms: int, lost_ms: dict[Cause, int]) -> None:
    """Each that cost enough is told, and of general ones only those that are left as large."""
    for cause in told(duration_ms, **lost_ms):
        assert lost_ms[cause] * 1_000 >= max(LEAST_LOST_US, LEAST_SHARE * duration_ms * 1_000)
    enough = {cause for cause, lost in lost_ms.items() if lost * 1_000 >= max(LEAST_LOST_US, LEAST_SHARE * duration_ms * 1_000)}
    assert {cause for cause in enough if not CAUSES[cause].is_general} <= set(told(duration_ms, **lost_ms))
