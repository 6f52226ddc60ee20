"""Real servers that tests start: found, waited for, killed, started again at the same address, and ended."""

import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from support import PATIENCE_SECONDS, until

ROOT = Path(__file__).parents[1]
MOCK_CLUSTER = """
import sys
from confluent_kafka import Producer
cluster = Producer({"bootstrap.servers": "mock", "test.mock.num.brokers": 1, "log_level": 0})
broker = next(iter(cluster.list_topics(timeout=300).brokers.values()))
print(f"{broker.host}:{broker.port}", flush=True)
sys.stdin.read()
"""


def need(program: str, package: str = "prometheus", *places: str) -> str:
    """Find a program; skip without it, but never where the tests are what decides."""
    found = shutil.which(program) or next((str(path) for place in places for path in Path("/").glob(place)), None)
    if found is None:
        message = f"{program} is not installed: apt-get install {package}"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return found


def stop(process: subprocess.Popen[Any]) -> None:
    """End a process as an operator would."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _own_ports() -> Iterator[int]:
    """Yield ports that neither the kernel nor another worker of this run gives away before a slow server listens."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 12_000 + worker % 16 * 1_000
    start = os.getpid() % 1_000
    while True:
        yield from (first + (start + number) % 1_000 for number in range(1_000))


_PORTS = _own_ports()


def free_port() -> int:
    """Find a port that nobody listens on, and that nobody is given while its server starts."""
    for port in _PORTS:
        with socket.socket() as free, suppress(OSError):
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError


class Server:
    """A server process at one address."""

    def __init__(self, command: Callable[["Server"], list[str]], **options: Any) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="sage-obs-"))
        self.port = free_port()
        self._command = command
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it takes connections."""
        command = self._command(self)
        # A group of its own: a server's children die with it.
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, process_group=0, **quiet, **self._options)
        until(self.answers, f"connection to {command[0]}")

    def answers(self) -> bool:
        """Tell whether it takes connections."""
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as an operator does, and remove its files."""
        self._end(signal.SIGINT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def pause(self) -> None:
        """Let it hang: connections stay, and nothing is answered."""
        self._process.send_signal(signal.SIGSTOP)
        # Until every thread of it has stopped, it may answer still.
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None:
            if how is signal.SIGKILL:
                os.killpg(self._process.pid, how)
            else:
                self._process.send_signal(how)
            self._process.wait(PATIENCE_SECONDS)
            self._process = None


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Run a server until the end of the block."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def redis_server(*options: str) -> Server:
    """Build a Redis that keeps nothing."""
    program = need("redis-server", "redis-server")
    return Server(lambda server: [program, "--port", str(server.port), "--save", "", "--dir", str(server.folder), *options])


class Postgres(Server):
    """A PostgreSQL with an empty database; its user is `postgres`, and trusted."""

    def __init__(self) -> None:
        self._initdb = Path(need("initdb", "postgresql", "usr/lib/postgresql/*/bin/initdb")).resolve()
        # PostgreSQL refuses to run as root.
        owner = {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}
        super().__init__(self._started, **owner)
        if owner:
            known = pwd.getpwnam("postgres")
            os.chown(self.folder, known.pw_uid, known.pw_gid)
        flags = ["-D", str(self.folder / "data"), "-U", "postgres", "-A", "trust", "-N", "--locale=C", "-E", "UTF8"]
        subprocess.run([self._initdb, *flags], check=True, capture_output=True, cwd=self.folder, **owner)

    @property
    def dsn(self) -> str:
        """Where it is, for any client."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def answers(self) -> bool:
        ready = [self._initdb.with_name("pg_isready"), "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False, capture_output=True).returncode == 0

    def _started(self, _: Server) -> list[str]:
        files = ["-D", str(self.folder / "data"), "-k", str(self.folder), "-p", str(self.port)]
        settings = ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "restart_after_crash=off"]
        return [str(self._initdb.with_name("postgres")), *files, *settings]


class KafkaBroker(Server):
    """The mock broker of librdkafka, listening on TCP in a process of its own."""

    def __init__(self) -> None:
        super().__init__(lambda _: [sys.executable, "-c", MOCK_CLUSTER])
        self.address = ""

    def start(self) -> None:
        command = self._command(self)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._process = subprocess.Popen(command, process_group=0, **pipes)
        self.address = self._process.stdout.readline().decode().strip()
        assert self.address, "the mock broker did not start"
        self.port = int(self.address.rpartition(":")[2])

    def _end(self, how: signal.Signals) -> None:
        process = self._process
        super()._end(signal.SIGKILL)
        if process is not None:
            process.stdin.close()
            process.stdout.close()


@contextmanager
def program(command: list[str], log: Path, **env: str) -> Iterator[None]:
    """Run a program, and end it as an operator would."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=Path(__file__).parents[1], env={**os.environ, **env}, stdout=output, stderr=output
        )
    try:
        yield
    finally:
        stop(process)


@contextmanager
def prometheus(config: Path, folder: Path) -> Iterator[str]:
    """Run Prometheus; yield its address."""
    log = folder / "prometheus.log"
    flags = [
        "--web.listen-address=127.0.0.1:0",
        "--enable-feature=exemplar-storage",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        "--web.enable-admin-api",
    ]
    with program([need("prometheus"), f"--config.file={config}", *flags], log):
        address = until(lambda: re.search(r"Listening on.*address=(127\.0\.0\.1:\d+)", log.read_text()), "Prometheus")[1]
        until(lambda: httpx.get(f"http://{address}/-/ready").is_success, "Prometheus")
        yield f"http://{address}"


def query(address: str, expression: str) -> list[dict[str, Any]]:
    """Ask Prometheus for an instant vector."""
    answer = httpx.get(f"{address}/api/v1/query", params={"query": expression}, timeout=PATIENCE_SECONDS).json()
    assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result
