"""What memory SAGE will use: forecast from how the number of open sessions grows, and what a session has cost so far."""

_MEMORY, _SESSIONS = "process_resident_memory_bytes", "sage_sessions_active"
SECONDS_AHEAD = 4 * 3600
"""How far the forecast looks."""
TREND = "1h"
"""The time over which the growth of sessions is looked at."""
_COST = "1d"
"""The time over which the memory of a session is: what is above the lowest memory, for sessions above the fewest."""


def memory_forecast(scope: str = "") -> str:
    """Write the forecast in PromQL, in bytes, for each instance; `scope`: matchers of the series.

    An instance with no more sessions than at its quietest has none.
    """
    memory, sessions = (f"{metric}{{{scope}}}" if scope else metric for metric in (_MEMORY, _SESSIONS))
    growth = f"(predict_linear({sessions}[{TREND}], {SECONDS_AHEAD}) - {sessions})"
    cost = f"({memory} - min_over_time({memory}[{_COST}])) / ({sessions} - min_over_time({sessions}[{_COST}]) > 0)"
    return f"max by (service, instance) ({memory} + {growth} * {cost})"
