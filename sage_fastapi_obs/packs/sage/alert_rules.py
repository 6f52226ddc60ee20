"""Sessions, handshakes, cryptography and chains of SAGE."""

from dataclasses import replace
from functools import partial

from sage_fastapi_obs.alert_rules.any_service import down_alert
from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule, RuleGroup, RuleTest, alert_from_rule, threshold_alert
from sage_fastapi_obs.alert_rules.rule_test_series import SeriesShape, series
from sage_fastapi_obs.alerting.expressions import Stat, number
from sage_fastapi_obs.catalog.services import Services, service_name, with_metric, with_pack
from sage_fastapi_obs.packs.sage.default_rules import (
    CHAIN_FAILS,
    HANDSHAKES_FAIL,
    MANY_HANDSHAKES_FAIL,
    REPLAYS,
    RESOLUTIONS_FAIL,
    SESSIONS_FAIL,
)
from sage_fastapi_obs.packs.sage.memory_forecast import memory_forecast
from sage_fastapi_obs.settings import Settings

_SECONDS = "{{ $value | humanizeDuration }}"
_SHARE = "{{ $value | humanizePercentage }}"
_FAILURE = {"status": "failure"}
_ENCRYPT = Stat("sage_session_duration_seconds", "p95", where={"operation": "encrypt"})

CRITICAL = RuleGroup("sage_critical", "SAGE, critical: pack `sage`", "sage", "sage-overview", "30s", 10)
WARNING = RuleGroup("sage_warning", "SAGE, warnings: pack `sage`", "sage", "sage-overview", "30s", 11)
_warning = partial(threshold_alert, group=WARNING, severity="warning")
_OF_ALL = (
    alert_from_rule(REPLAYS, CRITICAL, seed="ReplayAttackDetected").about(
        "{{ $labels.service }} was sent messages again that it had seen before",
        "{{ $value | humanize }} replays in 5 minutes: somebody may be attacking.",
    ),
    alert_from_rule(SESSIONS_FAIL, CRITICAL).about(
        "{{ $labels.service }} fails to create sessions", f"{_SHARE} of session creations fail, more than 10 %."
    ),
    replace(alert_from_rule(MANY_HANDSHAKES_FAIL, CRITICAL), inhibits="SageHighErrorRate").about(
        "Handshakes of {{ $labels.service }} fail, perhaps by an attack", f"{_SHARE} of handshakes fail, more than 10 %."
    ),
    alert_from_rule(HANDSHAKES_FAIL, CRITICAL, seed="HighErrorRate").about(
        "Handshakes of {{ $labels.service }} fail", f"{_SHARE} of handshakes fail, more than 5 %."
    ),
    alert_from_rule(RESOLUTIONS_FAIL, CRITICAL).about(
        "{{ $labels.service }} cannot resolve identities on {{ $labels.chain }}",
        "{{ $value | humanize }} resolutions per second fail on {{ $labels.chain }}.",
    ),
    alert_from_rule(CHAIN_FAILS, CRITICAL).about(
        "{{ $labels.service }} cannot use {{ $labels.chain }}",
        f"{_SHARE} of transactions on {{{{ $labels.chain }}}} fail, more than 80 %.",
    ),
    _warning(
        "SignatureVerificationFailureHigh",
        Stat("sage_crypto_errors_total", "rate", where={"operation": "verify"}),
        1,
        minutes=5,
    ).about("Signatures sent to {{ $labels.service }} are wrong", "{{ $value | humanize }} verifications per second fail."),
    _warning("HandshakeFailures", Stat("sage_handshakes_completed_total", "rate", where=_FAILURE), 10, minutes=2).about(
        "Many handshakes of {{ $labels.service }} fail", "{{ $value | humanize }} handshakes per second fail."
    ),
    _warning("HighEncryptionLatency", _ENCRYPT, 0.01, minutes=5).about(
        "{{ $labels.service }} encrypts slowly", f"One encryption in twenty takes longer than {_SECONDS}; the limit is 10 ms."
    ),
    _warning("EncryptionSlowdown", _ENCRYPT, 0.1, minutes=5, inhibits="HighEncryptionLatency").about(
        "{{ $labels.service }} encrypts very slowly",
        f"One encryption in twenty takes longer than {_SECONDS}; the limit is 100 ms.",
    ),
    _warning("SlowHandshakes", Stat("sage_handshake_duration_seconds", "p95"), 1, minutes=5).about(
        "Handshakes of {{ $labels.service }} are slow",
        f"One handshake in twenty takes longer than {_SECONDS}; the limit is 1 s.",
    ),
    _warning("SessionExpirationHigh", Stat("sage_sessions_expired_total", "rate"), 10, minutes=5).about(
        "Many sessions of {{ $labels.service }} expire", "{{ $value | humanize }} sessions per second expire."
    ),
    _warning(
        "SessionLeakSuspected",
        Stat("sage_sessions_active", "last"),
        10_000,
        minutes=10,
        also_by=("service", "instance"),
        target={"instance": "one:9090"},
    ).about("{{ $labels.instance }} may forget to close sessions", "{{ $value }} sessions are open on {{ $labels.instance }}."),
)


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of services that have the pack `sage`, or its first part."""
    found = [one for one in services if with_pack([one], "sage") or with_pack([one], "sage-core")]
    known = [alert for alert in _OF_ALL if with_metric(found, alert.metric)]
    measured = with_pack(found, "runtime")
    return [*known, *map(_down, found), *map(_memory, measured), *([_forecast()] if measured else [])]


def _down(service: Settings) -> ExportedRule:
    name = service_name(service)
    target = {"job": name, "service": name, "instance": "one:9090"}
    return down_alert("SAGEBackendDown", CRITICAL, target, selector_of={"job": name})


def _memory(service: Settings) -> ExportedRule:
    name = service_name(service)
    alert = _warning(
        "HighMemoryUsage",
        Stat("process_resident_memory_bytes", "last", where={"job": name}),
        1e9,
        minutes=5,
        also_by=("service", "instance"),
        target={"job": name, "service": name, "instance": "one:9090"},
    ).about(
        "{{ $labels.instance }} uses much memory",
        "{{ $value | humanize1024 }}B are in use on {{ $labels.instance }}, more than 1 GB.",
    )
    # Rules of several services would otherwise be one rule twice.
    return alert.with_labels(service=name)


def _forecast() -> ExportedRule:
    target = {"job": "example", "service": "example", "instance": "one:9090"}
    memory, sessions = (series(name, target) for name in ("process_resident_memory_bytes", "sage_sessions_active"))
    slow, fast, ended = (
        {memory: SeriesShape(per_second=80_000 * rate), sessions: SeriesShape(per_second=rate)} for rate in (0.6, 1.0, 0.0)
    )
    return ExportedRule(
        name="HighMemoryForecast",
        group=WARNING,
        expr=f"{memory_forecast()} > {number(1e9)}",
        for_seconds=1800,
        severity="warning",
        metric="sage_sessions_active",
        summary="Sessions of {{ $labels.instance }} will soon take much memory",
        description="As sessions grow now, {{ $value | humanize1024 }}B will be in use on {{ $labels.instance }} in 4 hours, "
        "more than 1 GB.",
        test=RuleTest(slow, fast, 3600, {"service": "example", "instance": "one:9090"}, after=ended),
    )
