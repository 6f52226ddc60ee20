"""The critical rules of SAGE: judged in process while the pack is on, and exported for Prometheus."""

from functools import partial

from sage_fastapi_obs.alerting.expressions import Ratio, Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule

_FAILURE = {"status": "failure"}
_critical = partial(AlertRule, condition=AlertCondition.GREATER_THAN, severity="critical")


def _failing(metric: str, by: tuple[str, ...] = ()) -> Ratio:
    return Ratio((Stat(metric, "rate", where=_FAILURE, by=by),), (Stat(metric, "rate", by=by),))


REPLAYS = _critical(
    name="ReplayAttacksDetected",
    expression=Stat("sage_replay_attacks_detected_total", "increase"),
    threshold=0,
    for_seconds=60,
    annotations={"summary": "{{ $value | humanize }} messages in 5 minutes had been seen before"},
)
SESSIONS_FAIL = _critical(
    name="HighSessionFailureRate",
    expression=_failing("sage_sessions_created_total"),
    threshold=0.1,
    for_seconds=300,
    annotations={"summary": "{{ $value | humanizePercentage }} of session creations fail"},
)
MANY_HANDSHAKES_FAIL = _critical(
    name="HighHandshakeErrorRate",
    expression=_failing("sage_handshakes_completed_total"),
    threshold=0.1,
    for_seconds=300,
    annotations={"summary": "{{ $value | humanizePercentage }} of handshakes fail, perhaps by an attack"},
)
HANDSHAKES_FAIL = _critical(
    name="SageHighErrorRate",
    expression=_failing("sage_handshakes_completed_total"),
    threshold=0.05,
    for_seconds=300,
    annotations={"summary": "{{ $value | humanizePercentage }} of handshakes fail"},
)
RESOLUTIONS_FAIL = _critical(
    name="DIDResolutionFailure",
    expression=Stat("sage_did_resolution_errors_total", "rate", by=("chain",)),
    threshold=0.5,
    for_seconds=300,
    annotations={"summary": "{{ $value | humanize }} resolutions per second fail on {{ $labels.chain }}"},
)
CHAIN_FAILS = _critical(
    name="BlockchainUnavailable",
    expression=_failing("sage_blockchain_transactions_total", ("chain",)),
    threshold=0.8,
    for_seconds=300,
    annotations={"summary": "{{ $value | humanizePercentage }} of transactions on {{ $labels.chain }} fail"},
)
RULES = (REPLAYS, SESSIONS_FAIL, MANY_HANDSHAKES_FAIL, HANDSHAKES_FAIL, RESOLUTIONS_FAIL, CHAIN_FAILS)
