"""`make stack-native`: demo services, Prometheus and Alertmanager on this machine, configured as in their containers."""

import argparse
import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from example_app.processes import end, is_taken, when_told_to_end
from example_app.traffic import Traffic

ROOT = Path(__file__).parents[1]
SERVICES = {"sage-backend": 8000, "ai-textbook-core": 8001, "customer-id": 3001, "rfs-demo": 8002}
"""Ports on which the services are reached from outside of their containers."""
PROMETHEUS, ALERTMANAGER, SINK, NODE, FLUENT_BIT = 9091, 9093, 9094, 9100, 2020
PROGRAMS = {"prometheus": ("prometheus",), "alertmanager": ("prometheus-alertmanager", "alertmanager")}
"""What the programs are called, by distribution."""
START_SECONDS = 60.0
MISSING = 2


@dataclass(frozen=True)
class Part:
    """One process of the stack."""

    name: str
    command: Sequence[str]
    ready: str
    """URL that answers when it is up; empty: nothing to wait for."""
    environment: dict[str, str] = field(default_factory=dict)
    shows: bool = False
    """Whether what it prints is for the user."""


def main() -> None:
    """Run the stack until Ctrl-C, or for some seconds."""
    arguments = argparse.ArgumentParser(prog="python -m example_app.stack", description=__doc__)
    arguments.add_argument("--rate", type=float, default=5.0, help="visits per second and service")
    arguments.add_argument("--seconds", type=float, default=None, help="end by itself")
    arguments.add_argument("--offset", type=int, default=0, help="added to all ports")
    given = arguments.parse_args()
    programs = {name: _found(names) for name, names in PROGRAMS.items()}
    ports = [port + given.offset for port in (*SERVICES.values(), PROMETHEUS, ALERTMANAGER, SINK)]
    if taken := [*filter(is_taken, ports)]:
        sys.exit(f"ports in use: {', '.join(map(str, taken))}; move all of them with --offset 10000")
    with tempfile.TemporaryDirectory(prefix="stack-") as folder:
        asyncio.run(Stack(programs, Path(folder), given.offset).run(given.rate, given.seconds))


class Stack:
    """All processes: started in order, stopped in reverse."""

    def __init__(self, programs: dict[str, str], folder: Path, offset: int) -> None:
        self._programs = programs
        self._folder = folder
        self._ports = {name: port + offset for name, port in SERVICES.items()}
        self._prometheus, self._alertmanager, self._sink = (port + offset for port in (PROMETHEUS, ALERTMANAGER, SINK))
        self._stopping = asyncio.Event()

    async def run(self, rate: float, seconds: float | None) -> None:
        """Start everything, send visitors, and stop it all again."""
        when_told_to_end(self._stopping.set)
        async with AsyncExitStack() as running:
            ended = [await running.enter_async_context(self._running(part)) for part in self.parts()]
            visits = [asyncio.create_task(Traffic(self._url(name), rate).run()) for name in self._ports]
            self._say_where_to_look()
            stopping = asyncio.create_task(self._stopping.wait())
            done, _ = await asyncio.wait([stopping, *ended], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            for task in (stopping, *visits):
                task.cancel()
            await asyncio.gather(stopping, *visits, return_exceptions=True)
            lost = [task.result() for task in ended if task in done]
            if lost and not self._stopping.is_set():
                print(f"{lost[0]} has ended by itself; its last words are in {self._folder / lost[0]}.log:", file=sys.stderr)
                print((self._folder / f"{lost[0]}.log").read_text()[-2000:], file=sys.stderr)
                sys.exit(1)
        print("stopped", flush=True)

    def parts(self) -> list[Part]:
        """List the processes in the order in which they are started."""
        sink = [sys.executable, "-m", "example_app.alert_sink", "--host", "127.0.0.1", "--port", str(self._sink)]
        return [Part("alert-sink", sink, "", shows=True), *map(self._service, self._ports), *self._servers()]

    def _service(self, name: str) -> Part:
        port, url = self._ports[name], self._url(name)
        environment = {
            "SAGE_OBS_FILE": str(ROOT / "deploy" / "services" / f"{name}.yaml"),
            # One machine has one port 9090; here each service shows its metrics where it serves.
            "SAGE_OBS_MONITORING__ACCESS": "local",
            # Nothing here takes spans.
            "SAGE_OBS_TRACING__EXPORTER": "none",
            "SAGE_OBS_LOGGING__OUTPUT": str(self._folder / f"{name}.jsonl"),
            "EXAMPLE_URL": url,
        }
        command = [sys.executable, "-m", "uvicorn", "--factory", "example_app.app:create_app", "--port", str(port)]
        return Part(name, [*command, "--log-level", "warning"], f"{url}/monitoring/health/live", environment)

    def _servers(self) -> list[Part]:
        told, watching = (self._local(name) for name in ("alertmanager-demo.yml", "prometheus.yml"))
        listening = "--web.listen-address=127.0.0.1:"
        alertmanager = [f"--config.file={told}", f"--storage.path={self._folder / 'alertmanager'}", "--cluster.listen-address="]
        prometheus = [f"--config.file={watching}", f"--storage.tsdb.path={self._folder / 'prometheus'}"]
        return [
            Part(
                "alertmanager",
                [self._programs["alertmanager"], *alertmanager, f"{listening}{self._alertmanager}"],
                f"http://127.0.0.1:{self._alertmanager}/-/ready",
            ),
            Part(
                "prometheus",
                [
                    self._programs["prometheus"],
                    *prometheus,
                    "--enable-feature=exemplar-storage",
                    f"{listening}{self._prometheus}",
                ],
                f"http://127.0.0.1:{self._prometheus}/-/ready",
            ),
        ]

    def _local(self, name: str) -> Path:
        """Copy a configuration file with the addresses of this machine in the place of the containers' names."""
        here = {f"{service}:9090": f"127.0.0.1:{port}" for service, port in self._ports.items()}
        here |= {
            "prometheus:9090": f"127.0.0.1:{self._prometheus}",
            "alertmanager:9093": f"127.0.0.1:{self._alertmanager}",
            "alert-sink:9094": f"127.0.0.1:{self._sink}",
            "node-exporter:9100": f"127.0.0.1:{NODE}",
            "fluent-bit:2020": f"127.0.0.1:{FLUENT_BIT}",
        }
        text = (ROOT / "prometheus" / name).read_text()
        text = re.sub("|".join(map(re.escape, here)), lambda found: here[found[0]], text)
        target = self._folder / name
        target.write_text(text.replace("rules/*.yml", f"{ROOT}/prometheus/rules/*.yml"))
        return target

    def _url(self, name: str) -> str:
        return f"http://127.0.0.1:{self._ports[name]}"

    @asynccontextmanager
    async def _running(self, part: Part) -> AsyncIterator["asyncio.Task[str]"]:
        with (self._folder / f"{part.name}.log").open("wb") as log:
            output = None if part.shows else log
            # A session of its own: Ctrl-C is for the stack, which then stops its parts in order.
            process = await asyncio.create_subprocess_exec(
                *part.command, cwd=ROOT, env=os.environ | part.environment, stdout=output, stderr=log, start_new_session=True
            )

        async def over() -> str:
            await process.wait()
            return part.name

        ended = asyncio.create_task(over())
        try:
            await self._wait_until_ready(part, ended)
            yield ended
        finally:
            await end(process)
            await ended

    async def _wait_until_ready(self, part: Part, ended: "asyncio.Task[str]") -> None:
        deadline = asyncio.get_running_loop().time() + START_SECONDS
        async with httpx.AsyncClient(trust_env=False) as client:
            while part.ready and not ended.done() and not self._stopping.is_set():
                try:
                    if (await client.get(part.ready)).is_success:
                        return
                except httpx.TransportError:
                    pass
                if asyncio.get_running_loop().time() > deadline:
                    sys.exit(f"{part.name} did not answer at {part.ready} within {START_SECONDS:.0f} s")
                await asyncio.sleep(0.1)

    def _say_where_to_look(self) -> None:
        urls = "\n".join(f"  {name:<18}{self._url(name)}/docs" for name in self._ports)
        print(
            f"""
{urls}
  Prometheus        http://127.0.0.1:{self._prometheus}/alerts  (targets: /targets)
  Alertmanager      http://127.0.0.1:{self._alertmanager}
  log lines         {self._folder}/*.jsonl

Alerts are printed here as they come. Where Fluent Bit or node-exporter do not run, there is one about that after five minutes.
To make more: curl -X POST '{self._url("sage-backend")}/trouble?seconds=600'
Ctrl-C stops it.
""",
            flush=True,
        )


def _found(names: Sequence[str]) -> str:
    for name in names:
        if path := shutil.which(name):
            return path
    print(f"{names[0]} is not installed: make servers, or apt-get install prometheus prometheus-alertmanager", file=sys.stderr)
    sys.exit(MISSING)


if __name__ == "__main__":
    main()
