"""Scripts for operators: each says what it would do, and those that ask Prometheus are run against a real one."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from running import ROOT, serving
from servers import need, query
from support import PATIENCE_SECONDS, until

pytestmark = pytest.mark.stack

SCRIPTS = ROOT / "scripts"
NOWHERE = "http://127.0.0.1:9"
DRY = {
    "daily-check.sh": [],
    "weekly-maintenance.sh": [],
    "verify-backup.sh": ["/nowhere"],
    "cardinality-report.sh": ["5"],
    "import-dashboard.sh": [],
    "log-query.sh": ["--service", "customer-id", "--level", "error"],
    "smoke.sh": [],
    "monthly_report.py": ["--service", "customer-id"],
    "load_test.py": ["http://127.0.0.1:9/items"],
    "find_unstructured_logs.py": [str(ROOT / "example_app")],
}
"""What an operator runs, with arguments that are needed; tools of developers are not among them."""
OF_DEVELOPERS = {
    "document_alerts.py",
    "document_capacity.py",
    "document_metrics.py",
    "document_settings.py",
    "install-servers.sh",
    "draw_dashboards.py",
    "screenshots.py",
}


def run(script: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a script with nowhere to go but what it is given."""
    command = [sys.executable] if script.endswith(".py") else [need("sh")]
    if script.endswith(".sh"):
        need("curl")
        need("jq")
    urls = dict.fromkeys(("PROMETHEUS_URL", "ALERTMANAGER_URL", "GRAFANA_URL", "LOKI_URL", "ELASTICSEARCH_URL"), NOWHERE)
    if script == "weekly-maintenance.sh":
        del urls["ELASTICSEARCH_URL"]
    full = {**os.environ, **urls, "PYTHONPATH": str(ROOT), **env}
    done = [*command, str(SCRIPTS / script), *arguments]
    return subprocess.run(done, capture_output=True, text=True, check=False, env=full, timeout=PATIENCE_SECONDS)


def test_every_script_is_here():
    """No script is forgotten by the tests below."""
    assert {path.name for path in SCRIPTS.iterdir() if path.suffix in {".sh", ".py"}} - OF_DEVELOPERS == set(DRY)


@pytest.mark.parametrize("script", DRY)
def test_a_dry_run_says_what_would_be_done_and_asks_nobody(script: str):
    """With --dry-run a script ends well although nothing that it asks is there, and says so."""
    done = run(script, "--dry-run", *DRY[script], SNAPSHOT="yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert "would" in done.stdout


@pytest.mark.parametrize("script", [name for name in DRY if name.endswith(".sh")])
def test_wrong_arguments_are_told_what_is_right(script: str):
    """An unknown argument ends a script before it does anything, with its usage."""
    if script == "import-dashboard.sh":
        pytest.skip("takes any file")
    done = run(script, "--wrong", "--more")
    assert done.returncode == 2
    assert f"scripts/{script}" in done.stderr


def test_the_daily_check_finds_what_fires(stored: str):
    """A target that is down and an alert that fires are named, with its runbook; a missing Alertmanager is noticed."""
    done = run("daily-check.sh", PROMETHEUS_URL=stored, ERRORS_LIMIT="0", DISK_LIMIT="101")
    assert done.returncode == 1, done.stderr
    assert re.search(r"^LOOK   down: gone 127\.0\.0\.1:\d+$", done.stdout, re.MULTILINE)
    assert done.stdout.count("down:") == 1
    assert "Watchdog" not in done.stdout
    assert "LOOK   warning alert of the night: SomethingIsWrong (docs/runbooks/SomethingIsWrong.md)" in done.stdout
    assert "LOOK   Alertmanager does not answer" in done.stdout
    assert re.search(r"^ok     all [1-9]\d* disks are below 101 %$", done.stdout, re.MULTILINE)
    assert re.search(r"LOOK   [1-9]\d* requests failed in 24 hours", done.stdout)
    full = run("daily-check.sh", PROMETHEUS_URL=stored, DISK_LIMIT="0")
    assert re.search(r"^LOOK   disk / of 127\.0\.0\.1:\d+ is \d+ % full$", full.stdout, re.MULTILINE)


def test_the_daily_check_does_not_trust_silence():
    """Without Prometheus nothing is well."""
    done = run("daily-check.sh")
    assert done.returncode == 1
    assert "LOOK   Prometheus does not answer" in done.stdout


class Tired(BaseHTTPRequestHandler):
    """Stands for a Prometheus that answers what is easy, and is too busy for the rest."""

    def do_GET(self) -> None:
        asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)["query"]
        easy = asked in (["up == 0"], ["count(up)"])
        self.send_response(200 if easy else 503)
        self.end_headers()
        self.wfile.write(b'{"data": {"result": []}}')

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_daily_check_does_not_take_a_refusal_for_a_quiet_night():
    """What Prometheus could not say is looked at, and not taken for nothing."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Tired) as server:
        answering = threading.Thread(target=server.serve_forever)
        answering.start()
        try:
            done = run("daily-check.sh", PROMETHEUS_URL=f"http://127.0.0.1:{server.server_address[1]}", DISK_LIMIT="101")
        finally:
            server.shutdown()
            answering.join()
    assert done.returncode == 1
    assert "ok     all 0 targets are up" in done.stdout
    assert "LOOK   Prometheus does not say which alerts fired" in done.stdout
    assert "LOOK   Prometheus does not say how full disks are" in done.stdout
    assert "LOOK   Prometheus does not say how many requests failed" in done.stdout
    assert "no alert fired" not in done.stdout


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("import-dashboard.sh", [str(ROOT / "grafana/dashboards/security.json")]),
        ("log-query.sh", ["--id", "x"]),
        ("log-query.sh", ["--in", "elasticsearch", "--id", "x"]),
        ("cardinality-report.sh", []),
    ],
)
def test_a_server_that_is_not_there_is_a_failure(script: str, arguments: list[str]):
    """Nobody answers: the script says so, and its exit code does."""
    done = run(script, *arguments, GRAFANA_API_KEY="key")
    assert done.returncode != 0
    assert "curl: " in done.stderr


def test_the_report_of_cardinality_names_what_is_large(stored: str):
    """Names, labels and jobs are listed with their numbers, the largest first."""
    done = run("cardinality-report.sh", "5", PROMETHEUS_URL=stored)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"\d+ series, \d+ chunks", done.stdout)
    for title in ("series by name", "values by label", "series by pair", "series by job"):
        numbers = [
            int(number)
            for number in re.findall(r"^ +(\d+) ", done.stdout.split(f"{title}\n")[1].split("\n\n")[0], re.MULTILINE)
        ]
        assert numbers
        assert numbers == sorted(numbers, reverse=True)


STEPS = ["backup", "log indices older than 30 days", "store of Prometheus", "snapshot of Prometheus"]
STEPS += ["images that nothing has used for a week"]


def steps(text: str) -> list[str]:
    """List what a weekly maintenance has begun, but its first and last line."""
    return re.findall("^== (.+)$", text, re.MULTILINE)[1:-1]


def test_the_weekly_maintenance_keeps_the_newest_snapshots(stored: str):
    """Prometheus makes one where that is wanted, and older ones go, beside it: whatever runs a command there is given."""
    assert "SNAPSHOT is not yes: none" in run("weekly-maintenance.sh").stdout
    data = httpx.get(f"{stored}/api/v1/status/flags").json()["data"]["storage.tsdb.path"]
    settings = {"SNAPSHOT": "yes", "PROMETHEUS_URL": stored, "PROMETHEUS_DATA": data, "IN_PROMETHEUS": "env BESIDE=1"}
    made = []
    for _ in range(3):
        # Names begin with the second, and two of one second are in no order.
        second = int(time.time())
        until(lambda second=second: int(time.time()) > second, "second")
        done = run("weekly-maintenance.sh", **settings)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        made += re.findall(r'"status":"success","data":\{"name":"(\d+T[^"]+)', done.stdout)
    assert "there is no block yet" in done.stdout
    assert done.stdout.endswith("== done\n")
    assert {path.name for path in (Path(data) / "snapshots").iterdir()} == {*made[1:]}
    assert f"deleted {data}/snapshots/{made[0]}" in done.stdout


def test_the_weekly_maintenance_goes_on_after_a_failure(tmp_path: Path):
    """The backup comes first; what fails is said at once and at the end, and stops nothing else."""
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho Cannot connect to the Docker daemon >&2\nexit 1\n")
    docker.chmod(0o755)
    done = run(
        "weekly-maintenance.sh",
        BACKUP_DIR=str(tmp_path),
        ELASTICSEARCH_URL=NOWHERE,
        SNAPSHOT="yes",
        PRUNE="docker",
        PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    )
    assert done.returncode == 1
    assert steps(done.stdout) == STEPS
    wrong = [STEPS[0], STEPS[1], STEPS[3], STEPS[4]]
    assert re.findall("^  FAILED: (.+)$", done.stdout, re.MULTILINE) == wrong
    assert done.stdout.endswith(f"== done, but FAILED: {', '.join(wrong)}\n")
    assert "--web.enable-admin-api" in done.stdout
    assert "PRUNE is no, docker or crictl, not podman" in run("weekly-maintenance.sh", PRUNE="podman").stdout


def test_the_monthly_report_is_filled(stored: str, tmp_path: Path):
    """What was observed of the service stands where the template has names, with what its settings promise, and no more."""
    until(lambda: query(stored, "count_over_time(max(up)[1h:15s])"), "a look at it")
    out = tmp_path / "report.md"
    settings = str(ROOT / "deploy/services/customer-id.yaml")
    done = run(
        "monthly_report.py",
        "--prometheus",
        stored,
        "--service",
        "customer-id",
        "--until-now",
        "--settings",
        settings,
        "--out",
        str(out),
    )
    assert done.returncode == 0, done.stderr
    text = out.read_text()
    available = re.search(r"^\| availability \| (\d\d\.\d{3}) % \| 99.9 % \|$", text, re.MULTILINE)
    assert available is not None
    # One of seven requests of the service is answered 503, the others are not.
    assert 80 < float(available[1]) < 90
    assert re.search(r"^\| mean response time \| [\d.]+ ms \| 1000 ms \|$", text, re.MULTILINE)
    assert re.search(r"^\| downtime.* \| 0 min \| 43 min \|$", text, re.MULTILINE)
    unobserved = re.search(r"^\| not observed.* \| (\d+) min \| \|$", text, re.MULTILINE)
    assert 43_000 < int(unobserved[1]) <= 43_200
    assert "| requests per day | no data |" in text
    used = re.search(r"^\| storage.* \| (\d+) of (\d+) GB \| (\d+) of \d+ GB \|$", text, re.MULTILINE)
    assert 0 < int(used[1]) <= int(used[3]) < int(used[2])
    assert re.search(r"^- GET /\S+: [\d.]+ ms on average$", text, re.MULTILINE)
    assert "SomethingIsWrong" not in text
    assert "$" not in text
    other = run("monthly_report.py", "--prometheus", stored, "--service", "sage-backend", "--until-now")
    lasted = re.search(r"^- SomethingIsWrong \(warning\): (\d+) min$", other.stdout, re.MULTILINE)
    assert int(lasted[1]) <= 43_200 - int(unobserved[1]) + 10
    lost = run("monthly_report.py", "--prometheus", stored, "--service", "gone", "--until-now").stdout
    minutes = [int(found) for found in re.findall(r"^\| (?:downtime|not observed).*? \| (\d+) min \|", lost, re.MULTILINE)]
    assert sum(minutes) == pytest.approx(43_200, abs=1)
    assert run("monthly_report.py", "--prometheus", NOWHERE, "--service", "x").stderr.startswith(f"{NOWHERE} does not answer")


def test_load_is_counted(tmp_path: Path):
    """Each request that was sent is counted once; others are noticed; visitors come to services that run elsewhere."""
    with serving("example_app.app:create_app", tmp_path, SAGE_OBS_LOGGING__OUTPUT=str(tmp_path / "lines")) as port:
        url = f"http://127.0.0.1:{port}/api/items"
        good = run("load_test.py", url, "--requests", "200")
        assert good.returncode == 0, good.stderr
        assert "answered {'200': 200}, counted {'200': 200}" in good.stdout
        wrong = run("load_test.py", f"{url}/1", "--requests", "10")
        assert wrong.returncode == 1
        assert "The metrics do not say what was sent" in wrong.stderr
        visits = [sys.executable, "-m", "example_app.visits", "--rate", "20", "--seconds", "2", f"http://127.0.0.1:{port}"]
        done = subprocess.run(visits, cwd=ROOT, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
        assert int(done.stdout.split(" visits")[0]) > 0, done.stderr


def backup(folder: Path, content: bytes = b"x" * 5000) -> Path:
    """Write a backup with its checksum."""
    (folder / "data").write_bytes(os.urandom(len(content)))
    path = folder / "backup.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder / "data", "data")
    path.with_name("backup.tar.gz.sha256").write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  backup.tar.gz\n")
    return path


def test_a_good_backup_is_believed_and_a_bad_one_is_not(tmp_path: Path):
    """Age, size, checksum and content are each looked at."""
    path = backup(tmp_path)
    assert run("verify-backup.sh", str(tmp_path)).stdout.startswith(f"ok     backup {path}: ")
    complaints = []
    os.utime(path, (time.time() - 200_000,) * 2)
    complaints.append(run("verify-backup.sh", str(tmp_path)))
    backup(tmp_path)
    complaints.append(run("verify-backup.sh", str(tmp_path), MIN_BYTES="1000000"))
    path.write_bytes(path.read_bytes()[:-100])
    complaints.append(run("verify-backup.sh", str(tmp_path)))
    path.with_name("backup.tar.gz.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())
    complaints.append(run("verify-backup.sh", str(tmp_path)))
    path.with_name("backup.tar.gz.sha256").unlink()
    complaints.append(run("verify-backup.sh", str(tmp_path)))
    path.unlink()
    complaints.append(run("verify-backup.sh", str(tmp_path)))
    assert [done.returncode for done in complaints] == [1] * 6
    words = ("older than", "has only", "its checksum differs", "cannot be unpacked", "has no checksum", "there is none")
    assert all(word in done.stdout for word, done in zip(words, complaints, strict=True))


def test_a_query_for_lines_cannot_be_smuggled_in():
    """What would end a quoted word is refused, in each store."""
    for store in ("loki", "elasticsearch", "athena"):
        for word in ('x" or 1=1', "x' OR '1'='1", "x}", "$(id)", "`id`"):
            done = run("log-query.sh", "--dry-run", "--in", store, "--service", word)
            assert done.returncode == 2
            assert "not a plain word" in done.stderr
    sql = run(
        "log-query.sh", "--dry-run", "--in", "athena", "--service", "customer-id", "--level", "error", "--since", "2d"
    ).stdout
    assert "\"service\" = 'customer-id' AND \"level\" = 'error'" in sql


class Store(BaseHTTPRequestHandler):
    """Stands for Loki (GET) and Elasticsearch (POST) with a line of each of five minutes; gives as many as are asked for."""

    def do_GET(self) -> None:
        asked = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        newest = [[f"{minute}000000000", json.dumps({"minute": minute})] for minute in range(4, -1, -1)]
        self._answer({"data": {"result": [{"values": newest[: int(asked["limit"][0])]}]}})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        is_newest_first = asked["sort"] == [{"@timestamp": "desc"}]
        lines = [{"_source": {"minute": minute}} for minute in sorted(range(5), reverse=is_newest_first)]
        self._answer({"hits": {"hits": lines[: asked["size"]]}})

    def _answer(self, content: object) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(content).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.mark.parametrize("store", ["loki", "elasticsearch"])
def test_a_search_finds_the_newest_lines(store: str):
    """If there are more lines than are asked for, those of now are shown and not the oldest; the newest is the first."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        done = run("log-query.sh", "--in", store, "--most", "3", LOKI_URL=url, ELASTICSEARCH_URL=url)
        server.shutdown()
    assert [json.loads(line)["minute"] for line in done.stdout.splitlines()] == [4, 3, 2], done.stderr


def test_calls_that_put_values_into_text_are_found(tmp_path: Path):
    """Prints and formatted lines are listed by line; structured ones are not."""
    (tmp_path / "old.py").write_text(
        'print("x")\nlogger.info(f"user {x}")\nself.log.error("a" + b)\nlog.warning("%s", x)\n'
        'logger.info("fine", user=1)\nlogger.bind(a=1).info("fine")\nmath.log(x, y)\n'
    )
    done = run("find_unstructured_logs.py", str(tmp_path))
    assert done.returncode == 1
    assert [int(line.split(":")[1]) for line in done.stdout.splitlines()] == [1, 2, 3, 4]
    (tmp_path / "old.py").write_text('logger.info("fine", user=1)\n')
    assert run("find_unstructured_logs.py", str(tmp_path)).returncode == 0
