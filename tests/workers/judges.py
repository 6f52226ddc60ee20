"""Processes that judge one rule as the workers of a group do: whichever leads tells of `load_ratio` above 1."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge
from support import PATIENCE_SECONDS, until

from sage_fastapi_obs import Settings
from sage_fastapi_obs.alerting.alert_states import read
from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.alerting.rules import AlertCondition, AlertRule
from sage_fastapi_obs.alerting.service_status import ServiceStatus
from sage_fastapi_obs.health.readiness import Health
from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.metrics.registry_reader import RegistryReader
from sage_fastapi_obs.workers.leader import Leadership

TURN_SECONDS = 0.02
HANGING_SECONDS = 3.0


class DyingLeadership(Leadership):
    """Kills its process at a point of a notification."""

    point = ""

    def publish(self, found: bytes) -> bool:
        """Do the same, and die before or after."""
        alerts = [alert for rule in read(found).rules for _, alert in rule.alerts if alert.state == "firing"]
        due = any(alert.untold for alert in alerts)
        told = any(alert.notified_by and not alert.untold for alert in alerts)
        self._die("before it is published", due)
        still = super().publish(found)
        self._die("after it was published", due)
        self._die("after it was told", told)
        return still

    def _die(self, point: str, is_here: bool) -> None:
        if is_here and point == self.point:
            os.kill(os.getpid(), signal.SIGKILL)


class Judging:
    """One worker."""

    def __init__(self, folder: Path, slot: int, point: str = "") -> None:
        self.folder = folder
        self.leadership = DyingLeadership(folder, slot, patience_seconds=HANGING_SECONDS)
        self.leadership.point = point
        registry = CollectorRegistry()
        self.load = Gauge("load_ratio", "l", registry=registry)
        errors = InternalErrors()
        self.status = ServiceStatus(
            Settings(monitoring={"interval_seconds": 1}, alerts={"defaults": False}),
            RegistryReader(registry, errors),
            Health(),
            errors,
            lambda *_: None,
            from_zero=True,
            clock=time.monotonic,
            wall_clock=time.time,
        )
        self.status.alerts.add(
            AlertRule(
                name="load",
                expression=Stat("load_ratio"),
                condition=AlertCondition.GREATER_THAN,
                threshold=1,
                callbacks=(self._tell,),
                resolved_callbacks=(self._tell,),
            )
        )
        self.leadership.try_to_lead()
        self.status.join(self.leadership)

    def _tell(self, notice: dict[str, Any]) -> None:
        with (self.folder / "told").open("a") as told:
            told.write(f"{notice['state']}\n")
        self.leadership._die("in the callback", notice["state"] == "firing")

    def turn(self) -> None:
        """Do what a worker's thread does again and again."""
        self.leadership.try_to_lead()
        self.load.set(5 if (self.folder / "high").exists() else 0)
        self.status.evaluate()
        shown = len(self.status.alerts.alerts("firing"))
        state = self.folder / f"state-{os.getpid()}"
        state.with_suffix(".new").write_text(f"{self.leadership.is_leader:d} {shown}")
        state.with_suffix(".new").replace(state)


def main(folder: str, slot: str, point: str, forks: str) -> None:
    """Judge until the file `end-PID` is there."""
    judging = Judging(Path(folder), int(slot), point)
    if forks:
        child = os.fork()
        if not child:
            # Lives on when its parent is killed.
            while not (Path(folder) / "end").exists():
                time.sleep(TURN_SECONDS)
            os._exit(0)
    while not any((Path(folder) / name).exists() for name in (f"end-{os.getpid()}", "end")):
        judging.turn()
        time.sleep(TURN_SECONDS)
    judging.status.close()
    judging.leadership.close()


class Group:
    """Some workers in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, point: str = "", *, forks: bool = False) -> subprocess.Popen[bytes]:
        """Start one more, and wait until it judges or follows."""
        arguments = [str(self.folder), str(len(self.processes)), point, "forks" if forks else ""]
        path = os.pathsep.join(each for each in sys.path if each)
        process = subprocess.Popen([sys.executable, __file__, *arguments], env={**os.environ, "PYTHONPATH": path})
        self.processes.append(process)
        until(lambda: self._state(process))
        return process

    def _state(self, process: subprocess.Popen[bytes]) -> str:
        path = self.folder / f"state-{process.pid}"
        return path.read_text() if path.exists() else ""

    def leads(self, process: subprocess.Popen[bytes]) -> bool:
        """Tell whether one says that it leads."""
        return self._state(process).startswith("1")

    def shown(self, process: subprocess.Popen[bytes]) -> str:
        """Return how many alerts one shows as firing."""
        return self._state(process).partition(" ")[2]

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """Kill one, and forget what it said."""
        process.kill()
        process.wait(PATIENCE_SECONDS)
        (self.folder / f"state-{process.pid}").unlink()

    def load(self, *, high: bool) -> None:
        """Let the load be high or low from now on."""
        (self.folder / "high").touch() if high else (self.folder / "high").unlink()

    def told(self) -> list[str]:
        """Return what callbacks were told."""
        path = self.folder / "told"
        return path.read_text().split() if path.exists() else []


@contextmanager
def group(folder: Path) -> Iterator[Group]:
    """Make a group, and end all its workers."""
    made = Group(folder)
    try:
        yield made
    finally:
        (folder / "end").touch()
        for process in made.processes:
            process.kill()
            process.wait(PATIENCE_SECONDS)


if __name__ == "__main__":
    main(*sys.argv[1:])
