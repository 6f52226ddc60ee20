"""A process that is a worker without a server: takes a slot, starts requests by name, and does what its input says."""

import ctypes
import json
import os
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sage_fastapi_obs.internal_errors import InternalErrors
from sage_fastapi_obs.request.in_flight import Record
from sage_fastapi_obs.store.location import StoreKey
from sage_fastapi_obs.workers import siblings, slot
from sage_fastapi_obs.workers.death import Death
from sage_fastapi_obs.workers.siblings import FORMAT
from sage_fastapi_obs.workers.slot import Slot
from sage_fastapi_obs.workers.worker import Worker


def exchange(request_id: str, path: str = "/items") -> Any:
    """Return what a record is made of."""
    return SimpleNamespace(
        kind="http",
        request_id=request_id,
        trace_id="1" * 32,
        method="GET",
        path=path,
        wall_ns=time.time_ns(),
        record=None,
        streamed=False,
        duration_us=5,
        received_bytes=1,
        sent_bytes=2,
    )


def serve(service: str, connection: Any, user: int | None = None, version: str = FORMAT) -> None:
    """Do what comes, and tell what happens, until the end; as another user, or a version of another layout of the files."""
    siblings.FORMAT, slot._MAGIC = version, int.from_bytes(f"SAGEOBS{version}".encode())
    if user is not None:
        os.setgid(user)
        os.setuid(user)
    told: list[Any] = []

    class Report:
        """Tells of deaths."""

        def write(self, death: Death) -> None:
            """Tell of one."""
            told.append(["died", death.number, death.reason, death.evidence, death.at, [one.request_id for one in death.lost]])

    class Numbers:
        """Tells what would be counted."""

        def share(self, *_: object) -> None:
            """Do nothing."""

        save = leave = abandon = share

        def count_done(self, _: Slot, record: Record) -> None:
            """Tell of a request."""
            told.append(["done", record.number, record.duration_us])

    numbers, errors = Numbers(), InternalErrors()
    worker = Worker(
        StoreKey(service, "/"),
        None,
        numbers=numbers,
        report=Report(),
        where=lambda: "app/report.py:14",
        warn=lambda message, fields: told.append([message, fields]),
        errors=errors,
    )
    worker.start()
    in_flight = worker.in_flight
    requests: dict[str, Any] = {}
    while True:
        action, *arguments = connection.recv()
        answer: Any = None
        if action == "slot":
            group = worker.group
            answer = None if group is None or group.own is None else (group.own.number, str(group.folder))
        elif action == "begin":
            requests[arguments[0]] = begun = exchange(*arguments)
            in_flight.request_started(begun)
        elif action == "done":
            records = in_flight.records
            assert records is not None
            _, answer = records.done(requests.pop(arguments[0]), 0)
        elif action == "finish":
            in_flight.request_finished(requests.pop(arguments[0]))
        elif action == "tick":
            worker.tick()
        elif action == "told":
            answer, told[:] = [*told, *([["errors", dict(errors.counts)]] if errors.counts else [])], []
        elif action == "stopping":
            worker.note_stop()
        elif action == "fork":
            answer = os.fork()
            if not answer:
                signal.pause()
        elif action == "close":
            worker.close()
        elif action == "segfault":
            ctypes.string_at(0)
        connection.send(answer)


class Process:
    """One such worker, from its parent."""

    def __init__(self, service: str, **options: Any) -> None:
        context = get_context("spawn")
        self._connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(service, other), kwargs=options, daemon=True)
        self.process.start()
        other.close()

    def do(self, *action: Any) -> Any:
        """Have it do something, and return its answer."""
        self._connection.send(action)
        return self._connection.recv()

    def send(self, *action: Any) -> None:
        """Have it do something that it does not survive."""
        self._connection.send(action)

    @property
    def pid(self) -> int:
        """Its number."""
        assert self.process.pid is not None
        return self.process.pid


def main() -> None:
    """Be a server whose only worker begins requests, and then wait to be killed with it."""
    worker = Process(sys.argv[1])
    for request_id in sys.argv[2:]:
        worker.do("begin", request_id)
    sys.stdout.write(json.dumps([worker.pid, worker.do("slot")]) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
