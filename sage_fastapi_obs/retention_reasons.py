"""Why a request is kept: the words of `Exchange.kept`, which lines, spans, metrics and the store show."""

from typing import Literal, get_args

FAILED = "failed"
SLOW = "slow"
ASKED = "asked"
"""It carried the debug token."""
REFUSED = "refused"
"""It was answered with a 4xx by one of the app's routes."""
FIRST = "first"
"""It is the first of its route in a while."""
UPSTREAM = "upstream"
"""The caller's trace is sampled."""
RATIO = "ratio"
"""Its own trace is sampled."""
NOT_KEPT = "no"
UNDECIDED = ""
Reason = Literal["failed", "slow", "asked", "refused", "first", "upstream", "ratio"]
REASONS: tuple[Reason, ...] = get_args(Reason)
"""The strongest first."""
OUTCOMES = REASONS[:5]
"""Reasons that the outcome gives, whether the trace is sampled or not."""
PROBLEMS = frozenset({FAILED, SLOW, ASKED})
"""Reasons for which somebody will read the lines below the level, too."""
