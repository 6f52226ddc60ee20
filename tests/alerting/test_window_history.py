"""Windows and alerts go on in the next process, from what the store has of them."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram
from stored import file_of, new_store
from worlds import INTERVAL, World

from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule
from sage_fastapi_obs.alerting.window import LONGEST_SECONDS
from sage_fastapi_obs.metrics.registry_reader import RegistryReader
from sage_fastapi_obs.store.store import Store

WEEK = LONGEST_SECONDS


class Service:
    """Processes of one service, one after the other, under one clock."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder, self.settings = folder, settings
        self.stores: list[Store] = []
        self.told: list[str] = []
        self.world = self._begin(from_zero=True)

    def _begin(self, *, from_zero: bool) -> World:
        store = new_store(self.folder)
        store.history.process = f"process {len(self.stores)}"
        self.stores.append(store)
        return World(begin=False, from_zero=from_zero, history=store.history, alerts={"defaults": False}, **self.settings)

    def step(self, requests: int = 0, seconds: float = INTERVAL, status: str = "200") -> None:
        """Serve requests, and judge some seconds later."""
        if requests:
            self.world.request(status=status, times=requests)
        self.world.tick(seconds)
        self.world.status.evaluate()

    def end(self, *, killed: bool = False) -> None:
        """End the process."""
        if not killed:
            self.world.status.evaluate()
        self.world.status.abandon()
        self.stores[-1].close(time.monotonic() + 60)

    def restart(self, down_seconds: float = 0.0) -> None:
        """Put another process in its place."""
        self.end()
        self.begin_next(down_seconds)
        self.world.status.evaluate()

    def begin_next(self, down_seconds: float = 0.0, *, from_zero: bool = True) -> None:
        """Begin the process that follows one that has ended."""
        before, self.world = self.world, self._begin(from_zero=from_zero)
        self.world.now, self.world.wall = before.now + down_seconds, before.wall + down_seconds

    def requests(self, seconds: float = WEEK) -> float:
        """Return how many requests the windows have."""
        found = self.world.status.view(seconds).counter("http_requests_total")
        return sum(one.increase for one in found.values())

    def watch_failures(self, **options: Any) -> None:
        """Add a rule to the process."""
        self.world.status.alerts.add(
            AlertRule(
                name="failures",
                expression=Stat("http_requests_total", "increase", 60.0, {"status": "500"}),
                condition=AlertCondition.GREATER_THAN,
                threshold=5,
                callbacks=(self._tell,),
                resolved_callbacks=(self._tell,),
                **options,
            )
        )

    def _tell(self, notice: dict[str, Any]) -> None:
        self.told.append(notice["state"])

    def notified(self) -> list[str]:
        """Return what callbacks were told so far."""
        assert self.world.status.notifications.wait(60)
        return self.told


@contextmanager
def service(folder: Path, **settings: Any) -> Iterator[Service]:
    """Make one, and end it."""
    made = Service(folder, **settings)
    try:
        yield made
    finally:
        made.end()


def test_a_restart_keeps_the_windows(tmp_path: Path):
    """What the process before has counted is still there, by series; a counter that begins anew goes on from there."""
    with service(tmp_path) as one:
        for _ in range(20):
            one.step(requests=10)
        one.restart(down_seconds=2.0)
        assert one.requests() == 200
        one.step(requests=7)
        assert one.requests() == 207
        assert one.requests(60.0) == pytest.approx(7 + 10 * (60 - 17) / 15, abs=1)
        one.restart(down_seconds=2.0)
        one.step(requests=1, status="500")
        assert one.requests() == 208
        by_status = one.world.status.view(WEEK).counter("http_requests_total", by=("status",))
        assert {status: found.increase for (status,), found in by_status.items()} == {"200": 207, "500": 1}


def test_the_time_without_a_process_is_a_gap(tmp_path: Path):
    """It is not watched, and nothing has happened in it; what happens at once after a start is no older than that."""
    with service(tmp_path) as one:
        for _ in range(40):
            one.step(requests=10)
        one.restart(down_seconds=3600.0)
        one.step(requests=30)
        view = one.world.status.view(300.0)
        assert view.covered_seconds == 2 * INTERVAL
        assert one.requests(300.0) == 30
        assert one.requests(2 * 3600.0) == 430
        assert one.world.status.view(2 * 3600.0).covered_seconds == pytest.approx(42 * INTERVAL)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 50),
            st.sampled_from([1.0, 7.0, 15.0, 40.0, 90.0]),
            st.sampled_from([None, None, None, 0.0, 10.0, 100.0, 10_000.0]),
        ),
        max_size=20,
    )
)
def test_nothing_is_lost_or_doubled_by_restarts(steps: list[tuple[int, float, float | None]]):
    """Whenever a process ends and however long there is none, the windows have each request once."""
    with TemporaryDirectory() as folder, service(Path(folder)) as one:
        one.step()
        total = 0
        for requests, seconds, down_seconds in steps:
            one.step(requests, seconds)
            total += requests
            if down_seconds is not None:
                one.restart(down_seconds)
            assert one.requests() == pytest.approx(total)
            watched = [tick.watched for tick in one.world.status.windows.ticks]
            assert watched == sorted(watched)


def test_a_registry_that_was_in_use_before_is_no_increase(tmp_path: Path):
    """After a restart, as at the first start, what it has is where counting begins."""
    with service(tmp_path) as one:
        one.step(requests=10)
        one.step(requests=10)
        one.end()
        one.begin_next(60, from_zero=False)
        one.world.request(times=1_000)
        one.world.request(route="/other", times=500)
        one.world.status.evaluate()
        assert one.requests() == 20
        one.step(requests=3)
        assert one.requests() == 23


def test_an_alert_that_still_fires_is_told_once(tmp_path: Path):
    """Over restarts and kills; when it is over, that is told by the process that is there then."""
    with service(tmp_path) as one:
        one.watch_failures()
        one.step(requests=10, status="500")
        assert one.notified() == ["firing"]
        for killed in (False, True):
            one.end(killed=killed)
            one.begin_next(1)
            one.watch_failures()
            one.step(requests=10, status="500")
            assert [alert.state for alert in one.world.status.alerts.alerts()] == ["firing"]
            assert one.notified() == ["firing"]
        for _ in range(6):
            one.step()
        assert one.notified() == ["firing", "resolved"]


@pytest.mark.parametrize("down_seconds", [100.0, 86_400.0, 30 * 86_400.0])
def test_what_was_resolved_meanwhile_is_told(tmp_path: Path, down_seconds: float):
    """However long there was no process; also by a rule that is added after the start."""
    with service(tmp_path) as one:
        one.watch_failures()
        one.step(requests=10, status="500")
        assert one.notified() == ["firing"]
        one.restart(down_seconds)
        one.step(requests=1)
        one.watch_failures()
        for _ in range(6):
            one.step(requests=1)
        assert one.notified() == ["firing", "resolved"]


def test_pending_time_goes_on_without_the_gap(tmp_path: Path):
    """A condition has to hold for as long as it is watched, before and after a restart."""
    with service(tmp_path) as one:
        one.watch_failures(for_seconds=120.0)
        for _ in range(5):
            one.step(requests=10, status="500")
        one.end()
        one.begin_next(3600)
        one.watch_failures(for_seconds=120.0)
        states = []
        for _ in range(6):
            one.step(requests=10, status="500")
            states += [alert.state for alert in one.world.status.alerts.alerts()]
        assert states[0] == "pending"
        assert "firing" in states
        assert one.notified() == ["firing"]


def test_another_rule_of_the_name_begins_anew(tmp_path: Path):
    """A threshold that was changed for a restart is another rule: its alerts are told."""
    with service(tmp_path) as one:
        one.watch_failures()
        one.step(requests=10, status="500")
        assert one.notified() == ["firing"]
        one.restart()
        one.world.status.alerts.add(
            AlertRule(
                name="failures",
                expression=Stat("http_requests_total", "increase", 60.0, {"status": "500"}),
                condition=AlertCondition.GREATER_THAN,
                threshold=6,
                callbacks=(one._tell,),
            )
        )
        one.step()
        assert one.notified() == ["firing", "firing"]


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE ticks SET content = x'00' WHERE id % 2",
        "UPDATE ticks SET content = substr(content, 1, length(content) - 9) || zeroblob(9) WHERE id % 2",
        "UPDATE ticks SET content = 'text', watched = 'text' WHERE id % 2",
        "UPDATE ticks SET at_ns = 1e300 WHERE id % 2",
        "UPDATE series SET content = x'789c00' WHERE metric = 'result_success_total'",
        "UPDATE series SET content = 5, bases = 'text' WHERE metric = 'result_success_total'",
        "DELETE FROM series WHERE metric = 'load_ratio'",
        "UPDATE judge SET states = x'7b'",
        "UPDATE judge SET states = '[]'",
    ],
)
def test_damaged_rows_are_left_out(tmp_path: Path, damage: str):
    """And counted; what can be read goes on, and is written again."""
    with service(tmp_path) as one:
        for _ in range(20):
            one.world.result()
            one.step(requests=10)
        one.end()
        with sqlite3.connect(file_of(tmp_path)) as connection:
            connection.execute(damage)
        connection.close()
        one.begin_next(1.0)
        one.step(requests=5)
        assert 5 <= one.requests() <= 205
        one.restart()
        one.step(requests=5)
        assert 10 <= one.requests() <= 210


@pytest.mark.parametrize(
    "damage", ["DELETE FROM judge", "UPDATE judge SET run = x'00'", "DELETE FROM series", "DELETE FROM ticks"]
)
def test_without_what_it_needs_it_begins_anew(tmp_path: Path, damage: str):
    """Nothing of the process before is known then, and all is written again."""
    with service(tmp_path) as one:
        for _ in range(20):
            one.step(requests=10)
        one.end()
        with sqlite3.connect(file_of(tmp_path)) as connection:
            connection.execute(damage)
        connection.close()
        one.begin_next()
        one.step(requests=5)
        assert one.requests() == 5
        one.restart()
        assert one.requests() == 5


def test_a_process_that_was_killed_as_it_began_leaves_nothing(tmp_path: Path):
    """It has named itself, and has not judged yet: the next one begins anew, and that is no fault."""
    store = new_store(tmp_path)
    assert store.history.acquire("before")
    store.history.begin("before", None)
    store.history.release()
    store.close(time.monotonic() + 60)
    with service(tmp_path) as one:
        one.step(requests=5)
        assert one.world.internal_errors.counts == {}
        one.restart()
        assert one.requests() == 5


def test_another_observability_of_the_process_begins_anew(tmp_path: Path):
    """Tests and second apps in one process do not meet."""
    with service(tmp_path) as one:
        one.step(requests=10)
        name = one.stores[-1].history.process
        one.end()
        one.begin_next(0)
        one.stores[-1].history.process = name
        one.step(requests=3)
        assert one.requests() == 3


def test_two_processes_at_once_do_not_mix(tmp_path: Path):
    """One writes; the other begins to when that one has ended, and goes on behind it, without what it counted until then."""
    with service(tmp_path) as one, service(tmp_path) as other:
        other.stores[-1].history.process = "other"
        for _ in range(5):
            one.step(requests=10)
            other.step(requests=1)
        assert (one.requests(), other.requests()) == (50, 5)
        one.end()
        other.step(requests=1)
        assert other.requests() == 51
        other.restart()
        assert other.requests() == 51


def test_the_rows_are_bounded(tmp_path: Path):
    """Seven days of samples are thinned out in the store as in memory; more than an eighth of the limit is not used."""
    with service(tmp_path) as one:
        for _ in range(600):
            one.step(requests=1, seconds=600.0)
        one.stores[-1].flush(60)
        with sqlite3.connect(file_of(tmp_path)) as connection:
            ids = [id_ for (id_,) in connection.execute("SELECT id FROM ticks ORDER BY id")]
        connection.close()
        assert ids == [tick.row for tick in one.world.status.windows.ticks]
        assert len(ids) < 200
        one.stores[-1].history._most_bytes = 20_000
        one.step(requests=1)
        with sqlite3.connect(file_of(tmp_path)) as connection:
            (size,) = connection.execute("SELECT sum(length(content)) FROM ticks").fetchone()
        connection.close()
        assert size <= 20_000


class GroupJudge:
    """A worker's share, without files."""

    run = "the group"

    def __init__(self, *, is_leader: bool) -> None:
        self.is_leader = is_leader

    def publish(self, _: bytes) -> bool:
        """Show nobody."""
        return self.is_leader

    def published(self) -> bytes | None:
        """Return nothing."""
        return None


def test_a_worker_that_takes_over_has_the_same_numbers(tmp_path: Path):
    """All read the same counters, of which none begins anew; whoever leads, the windows have each request once."""
    registry = CollectorRegistry()
    requests = Counter("requests", "r", ["route"], registry=registry)
    with service(tmp_path) as one, service(tmp_path) as other:
        for number, each in enumerate((one, other)):
            each.stores[-1].history.process = f"worker {number}"
            each.world.status.windows._read = RegistryReader(registry, each.world.internal_errors)
            each.world.status.join(GroupJudge(is_leader=each is one))

        def counted(each: Service) -> float:
            found = each.world.status.view(WEEK).counter("requests_total")
            return sum(one.increase for one in found.values())

        requests.labels("/early").inc(40)
        one.step()
        requests.labels("/").inc(10)
        one.step()
        other.world.tick(INTERVAL)
        other.step()
        assert (counted(one), counted(other)) == (50, 50)
        requests.labels("/").inc(5)
        requests.labels("/more").inc(5)
        other.step()
        other.step()
        assert counted(other) == 60
        one.end(killed=True)
        other.world.status._judge.is_leader = True
        other.step()
        assert counted(other) == 60
        requests.labels("/").inc(1)
        other.step()
        assert counted(other) == 61


def test_a_worker_that_takes_over_from_a_newer_sample_counts_nothing_twice(tmp_path: Path):
    """What the leader stored after the last sample of the next leader is higher than that: no counter began anew for it."""
    registry = CollectorRegistry()
    requests = Counter("requests", "r", registry=registry)
    with service(tmp_path) as one, service(tmp_path) as other:
        for number, each in enumerate((one, other)):
            each.stores[-1].history.process = f"worker {number}"
            each.world.status.windows._read = RegistryReader(registry, each.world.internal_errors)
            each.world.status.join(GroupJudge(is_leader=each is one))
        requests.inc(40)
        one.step()
        other.step()
        requests.inc(10)
        one.step()
        one.end(killed=True)
        other.world.status._judge.is_leader = True
        other.step(seconds=INTERVAL + 1)
        requests.inc(1)
        other.step()
        found = other.world.status.view(WEEK).counter("requests_total")
        assert sum(each.increase for each in found.values()) == 51


def test_a_rule_that_is_new_in_this_process_says_how_often_it_would_have_fired(tmp_path: Path):
    """In the samples of the processes before; one that was judged before says nothing at a restart."""
    with service(tmp_path) as one:
        one.watch_failures()
        for _ in range(3):
            one.step(requests=10, status="500")
        one.end()
        one.begin_next(1)
        one.watch_failures()
        one.world.status.alerts.add(
            AlertRule(name="new", expression=Stat("http_requests_total"), condition=AlertCondition.GREATER_THAN, threshold=1)
        )
        one.step()
        one.world.status.review.log_news()
        said = [message for _, message, _ in one.world.said if "would have fired" in message]
        assert said == ["alert rule new would have fired once in the samples that are kept"]


def test_a_rule_that_the_leader_does_not_have_is_a_problem(tmp_path: Path):
    """It is said once, after two intervals; no longer when the leader has it."""
    with service(tmp_path) as leader, service(tmp_path / "other") as one:
        published: list[bytes] = []
        judge = GroupJudge(is_leader=False)
        judge.published = lambda: published[-1] if published else None  # type: ignore[method-assign]
        one.world.status.join(judge)
        one.watch_failures()

        def publish() -> None:
            leader.step()
            published.append(leader.world.status.alerts.written(leader.world.now))
            one.step()
            one.world.status.review.log_news()

        publish()
        assert one.world.status.review.problems() == {}
        for _ in range(4):
            publish()
        assert "while the application starts" in one.world.status.review.problems()["failures"]
        assert [message.partition(":")[0] for level, message, _ in one.world.said if level == "warn"] == [
            "alert rule failures is not judged"
        ]
        leader.watch_failures()
        publish()
        assert one.world.status.review.problems() == {}


def test_a_follower_shows_alerts_of_rules_that_only_the_leader_has(tmp_path: Path):
    """So that all workers show the same; it does not judge them when it begins to lead, and forgets them."""
    with service(tmp_path) as leader, service(tmp_path / "other") as one:
        leader.watch_failures(labels={"team": "shop"})
        leader.step(requests=10, status="500")
        judge = GroupJudge(is_leader=False)
        judge.published = lambda: leader.world.status.alerts.written(leader.world.now)  # type: ignore[method-assign]
        one.world.status.join(judge)
        one.step()
        shown, judged = (each.world.status.alerts.alerts("firing") for each in (one, leader))
        assert [alert.summary() for alert in shown] == [alert.summary() for alert in judged]
        judge.is_leader = True
        one.step()
        assert one.world.status.alerts.alerts("firing") == []


def test_a_worker_that_leads_no_more_lets_the_next_one_write(tmp_path: Path):
    """As after a stop, when another has taken its place meanwhile."""
    registry = CollectorRegistry()
    requests = Counter("requests", "r", registry=registry)
    with service(tmp_path) as one, service(tmp_path) as other:
        for number, each in enumerate((one, other)):
            each.stores[-1].history.process = f"worker {number}"
            each.world.status.windows._read = RegistryReader(registry, each.world.internal_errors)
            each.world.status.join(GroupJudge(is_leader=each is one))
        one.step()
        other.step()
        for former, leader in ((one, other), (other, one)):
            leader.world.status._judge.is_leader = True
            requests.inc()
            leader.step()
            former.world.status._judge.is_leader = False
            former.step()
            requests.inc()
            leader.step()
            found = leader.stores[-1].history.read(GroupJudge.run)
            assert found is not None
            assert found.process == leader.stores[-1].history.process
            assert [row.id for row in found.ticks] == [tick.row for tick in leader.world.status.windows.ticks]
        counted = one.world.status.view(WEEK).counter("requests_total")
        assert sum(each.increase for each in counted.values()) == 4


def test_a_leader_that_is_stopped_keeps_nobody_from_storing(tmp_path: Path):
    """The next leader stores at once; the one that was stopped still believes to lead when it goes on, and writes nothing."""
    registry = CollectorRegistry()
    requests = Counter("requests", "r", registry=registry)
    with service(tmp_path) as one, service(tmp_path) as other:
        for number, each in enumerate((one, other)):
            each.stores[-1].history.process = f"worker {number}"
            each.world.status.windows._read = RegistryReader(registry, each.world.internal_errors)
            each.world.status.join(GroupJudge(is_leader=each is one))

        def stored() -> tuple[str, int]:
            found = other.stores[-1].history.read(GroupJudge.run)
            assert found is not None
            return found.process, found.ticks[-1].id

        one.step()
        other.step()
        assert stored()[0] == "worker 0"
        other.world.status._judge.is_leader = True
        requests.inc()
        other.step()
        process, last = stored()
        assert process == "worker 1"
        one.step()
        assert stored() == (process, last)
        one.world.status._judge.is_leader = False
        for _ in range(3):
            one.step()
            other.step()
        assert stored() == (process, last + 3)


def test_a_metric_that_is_another_after_an_update_begins_anew(tmp_path: Path):
    """With other buckets it has no past; the other metrics keep theirs, over further restarts."""
    with service(tmp_path) as one:
        for buckets in ((1.0, 2.0, 3.0, 4.0), (1.0, 2.0), (1.0,)):
            weight = Histogram("weight", "w", registry=one.world.registry, buckets=buckets)
            for _ in range(5):
                weight.observe(1.5)
                one.step(requests=10)
            found = one.world.status.view(WEEK).histogram("weight")
            assert sum(each.count for each in found.values()) in (4, 5)
            one.restart()
            assert one.world.internal_errors.counts == {}
        assert one.requests() == 150
