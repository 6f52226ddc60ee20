"""One worker of a group judges, and another when that one is killed, stopped or closed: nothing is told for that."""

import signal
from pathlib import Path

import pytest
from judges import group
from support import PATIENCE_SECONDS, until

from sage_fastapi_obs.workers.leader import PATIENCE_SECONDS as HANGING_SECONDS
from sage_fastapi_obs.workers.leader import Leadership


class Clock:
    """A clock that stands still unless told otherwise."""

    now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Make one."""
    return Clock()


def watch_for(one: Leadership, clock: Clock, seconds: float) -> bool:
    """Let a worker try each second; tell whether it leads."""
    for _ in range(round(seconds)):
        clock.now += 1
        one.try_to_lead()
    return one.is_leader


def test_one_leads(tmp_path: Path, clock: Clock):
    """The first that tries leads as long as it has a heartbeat; when it closes, the next one leads at once."""
    first, second = (Leadership(tmp_path, number, clock=clock) for number in range(2))
    assert first.try_to_lead()
    assert not second.try_to_lead()
    for _ in range(60):
        clock.now += 1
        assert first.try_to_lead()
        assert not second.try_to_lead()
    first.close()
    assert not first.is_leader
    assert second.try_to_lead()
    assert not first.try_to_lead()


def test_one_that_hangs_is_replaced(tmp_path: Path, clock: Clock):
    """Without a heartbeat for five seconds; it sees that when it goes on, and what it publishes then is nobody's."""
    first, second, third = (Leadership(tmp_path, number, clock=clock) for number in range(3))
    assert first.try_to_lead()
    assert first.publish(b"first")
    assert not watch_for(second, clock, HANGING_SECONDS - 1)
    assert watch_for(second, clock, 3)
    assert second.published() == b"first"
    assert second.publish(b"second")
    assert not first.publish(b"of one that went on")
    assert not first.is_leader
    assert not watch_for(third, clock, 1)
    assert [one.published() for one in (first, second, third)] == [b"second"] * 3
    second.close()
    assert third.try_to_lead()
    assert third.published() == b"second"
    assert {path.name for path in tmp_path.iterdir()} == {"leader", f"alerts-{(tmp_path / 'leader').stat().st_ino}.json"}


def test_one_that_was_suspended_itself_replaces_nobody(tmp_path: Path, clock: Clock):
    """When the whole machine was suspended, the leader has had no time for a heartbeat either."""
    first, second = (Leadership(tmp_path, number, clock=clock) for number in range(2))
    first.try_to_lead()
    second.try_to_lead()
    clock.now += 3600
    assert not second.try_to_lead()
    first.try_to_lead()
    assert not watch_for(second, clock, HANGING_SECONDS - 1)
    assert first.is_leader


def test_rubbish_in_the_place_of_the_file(tmp_path: Path, clock: Clock):
    """A text that says nothing is replaced; a link is not followed; without a folder an error says so."""
    (tmp_path / "leader").write_bytes(b"\xff" * 10_000)
    first = Leadership(tmp_path, 0, clock=clock)
    assert first.try_to_lead()
    (tmp_path / "leader").unlink()
    (tmp_path / "leader").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="leader"):
        first.try_to_lead()
    assert not (tmp_path / "elsewhere").exists()
    with pytest.raises(OSError, match="leader"):
        Leadership(tmp_path / "gone", 0).try_to_lead()


def test_an_alert_fires_once_over_three_changes_of_leader(tmp_path: Path):
    """Whoever leads goes on with it, all show it, and its end is told once."""
    with group(tmp_path) as workers:
        four = [workers.start() for _ in range(4)]
        workers.load(high=True)
        until(lambda: workers.told() == ["firing"] and {workers.shown(one) for one in four} == {"1"})
        for _ in range(3):
            leader = next(one for one in four if workers.leads(one))
            four.remove(leader)
            workers.kill(leader)
            until(lambda: any(workers.leads(one) and workers.shown(one) == "1" for one in four))
            assert {workers.shown(one) for one in four} == {"1"}
        workers.load(high=False)
        until(lambda: len(workers.told()) > 1)
        until(lambda: workers.shown(four[0]) == "0")
        assert workers.told() == ["firing", "resolved"]


@pytest.mark.parametrize(
    ("point", "times"),
    [("before it is published", 1), ("after it was published", 1), ("in the callback", 2), ("after it was told", 1)],
)
def test_a_leader_that_is_killed_at_any_point_of_a_notification(tmp_path: Path, point: str, times: int):
    """Callbacks are told at least once; twice only if the leader was killed while one ran."""
    with group(tmp_path) as workers:
        first, second = workers.start(point), workers.start()
        assert workers.leads(first)
        workers.load(high=True)
        assert first.wait(PATIENCE_SECONDS) == -signal.SIGKILL
        until(lambda: workers.leads(second) and workers.shown(second) == "1")
        until(lambda: len(workers.told()) == times)
        workers.load(high=False)
        until(lambda: "resolved" in workers.told())
        assert workers.told() == ["firing"] * times + ["resolved"]


def test_a_leader_that_is_stopped_is_replaced_and_steps_down(tmp_path: Path):
    """Another leads meanwhile; the one that goes on follows, and nothing is told twice."""
    with group(tmp_path) as workers:
        first, second = workers.start(), workers.start()
        workers.load(high=True)
        until(lambda: workers.told() == ["firing"])
        first.send_signal(signal.SIGSTOP)
        until(lambda: workers.leads(second) and workers.shown(second) == "1")
        first.send_signal(signal.SIGCONT)
        until(lambda: not workers.leads(first) and workers.shown(first) == "1")
        workers.load(high=False)
        until(lambda: workers.shown(first) == workers.shown(second) == "0" and len(workers.told()) > 1)
        assert workers.told() == ["firing", "resolved"]
        assert workers.leads(second)


def test_a_forked_child_keeps_nobody_from_leading(tmp_path: Path):
    """It lets go of the lock at once, so that the lock ends with the process that has it."""
    with group(tmp_path) as workers:
        first, second = workers.start(forks=True), workers.start()
        workers.kill(first)
        until(lambda: workers.leads(second))


def test_a_leader_that_is_closed_leaves_the_rules_to_another(tmp_path: Path):
    """What it had not told, the next one tells; an alert that fires goes on."""
    with group(tmp_path) as workers:
        first, second = workers.start(), workers.start()
        workers.load(high=True)
        until(lambda: workers.told() == ["firing"])
        (tmp_path / f"end-{first.pid}").touch()
        assert first.wait(PATIENCE_SECONDS) == 0
        until(lambda: workers.leads(second) and workers.shown(second) == "1")
        assert workers.told() == ["firing"]
