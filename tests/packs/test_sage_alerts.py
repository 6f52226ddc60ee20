"""The critical rules of SAGE, judged in the process that does SAGE's work."""

from collections.abc import Callable

import pytest
from support import Watched

from sage_fastapi_obs import Settings
from sage_fastapi_obs.packs import sage
from sage_fastapi_obs.packs.sage.default_rules import RULES

NAMES = {rule.name for rule in RULES}


class Clock:
    """Time that passes only when it is told to, in seconds."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def judged(watched: Watched) -> set[str]:
    """Name the rules of SAGE that are judged."""
    return NAMES & {rule.name for rule in watched.obs.status.alerts.rules}


def shake(failed: int, of: int) -> None:
    """Shake hands, and fail to at times."""
    for number in range(of):
        with sage.handshake("server", "did:a", "did:b") as step:
            if number < failed:
                step.fail("invalid")


def create(failed: int, of: int) -> None:
    """Create sessions, and fail to at times."""
    for number in range(of):
        with sage.session_creation("s") as step:
            if number < failed:
                step.fail("invalid")


def resolve(failed: int, of: int) -> None:
    """Resolve identities on a chain, and fail to at times."""
    for number in range(of):
        with sage.did_resolution("solana") as step:
            if number < failed:
                step.fail(TimeoutError())


def transact(failed: int, of: int) -> None:
    """Send transactions to a chain, and fail to at times."""
    for number in range(of):
        sage.record_blockchain_transaction("ethereum", "update", "error" if number < failed else "success")


def replay(failed: int, of: int) -> None:
    """Get messages again."""
    for _ in range(failed):
        sage.record_replay_attack()


# In 15 seconds: work, how often it fails just below the threshold, just above, and of how many.
TROUBLES: dict[str, tuple[Callable[[int, int], None], int, int, int]] = {
    "HighHandshakeErrorRate": (shake, 2, 3, 20),
    "SageHighErrorRate": (shake, 1, 2, 20),
    "HighSessionFailureRate": (create, 2, 3, 20),
    "DIDResolutionFailure": (resolve, 7, 8, 20),
    "BlockchainUnavailable": (transact, 16, 17, 20),
    "ReplayAttacksDetected": (replay, 0, 1, 20),
}


@pytest.mark.parametrize("name", sorted(TROUBLES))
async def test_each_critical_alert_fires_and_ends(watch, name: str):
    """A rule is silent just below its threshold, fires above it, and is over when the trouble is."""
    work, below, above, of = TROUBLES[name]
    clock = Clock()
    monitoring = {"access": "open", "interval_seconds": 300}
    watched = watch(metrics={"packs": ["sage"]}, alerts={"defaults": True}, monitoring=monitoring, status_clock=clock)
    status = watched.obs.status

    def firing() -> bool:
        return name in [alert.rule.name for alert in status.alerts.alerts("firing")]

    def pass_minutes(minutes: int, failed: int) -> None:
        for _ in range(minutes * 4):
            clock.now += 15
            work(failed, of)
            status.evaluate()

    async with watched.obs:
        pass_minutes(15, below)
        assert not firing()
        pass_minutes(15, above)
        assert firing()
        pass_minutes(7, below)
        assert not firing()
    assert watched.obs.internal_errors.counts == {}


async def test_they_are_judged_while_the_pack_is_on(watch):
    """From the start, or as soon as the pack is switched on; the first part of the pack has those of its metrics."""
    on = watch(metrics={"packs": ["http", "sage"]}, alerts={"defaults": True})
    part = watch(metrics={"packs": ["http", "sage-core"]}, alerts={"defaults": True})
    later = watch(metrics={"packs": ["http"]}, alerts={"defaults": True})
    assert judged(on) == NAMES
    assert judged(part) == {"HighHandshakeErrorRate", "SageHighErrorRate"}
    assert judged(later) == set()
    later.obs.enable_pack("sage")
    assert judged(later) == NAMES


async def test_they_can_be_switched_off_and_replaced(watch):
    """Without default rules none is judged, and a rule of one's own of the same name stays."""
    off = watch(metrics={"packs": ["sage"]}, alerts={"defaults": False})
    off.obs.enable_pack("sage")
    no_metrics = watch(metrics={"packs": ["sage"], "enabled": False}, alerts={"defaults": True})
    own = {"name": "SageHighErrorRate", "metric": "sage_handshakes_failed_total", "threshold": 7.0}
    replaced = watch(metrics={"packs": ["http"]}, alerts={"defaults": True, "rules": [own]})
    replaced.obs.enable_pack("sage")
    assert judged(off) == judged(no_metrics) == set()
    assert [rule.threshold for rule in replaced.obs.status.alerts.rules if rule.name == own["name"]] == [7.0]


def test_they_say_whom_to_notify(watch):
    """Those who are called for incidents hear of the beginning and of the end."""
    watched = watch(metrics={"packs": ["sage"]}, alerts={"defaults": True})
    rules = [rule for rule in watched.obs.status.alerts.rules if rule.name in NAMES]
    assert all((len(rule.callbacks), len(rule.resolved_callbacks)) == (1, 1) for rule in rules)
    assert Settings().alerts.defaults
