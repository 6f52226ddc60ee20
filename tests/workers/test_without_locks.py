"""A system without locks on files, as Windows: one clear warning, and each worker answers for itself."""

import json
import subprocess
import sys
from pathlib import Path

from support import PATIENCE_SECONDS

SERVICE = """
import asyncio, json, os, sys
import httpx
from fastapi import FastAPI

sys.modules["fcntl"] = None
for name in ("O_NOFOLLOW", "O_CLOEXEC", "geteuid", "posix_fallocate", "pidfd_open"):
    if hasattr(os, name):
        delattr(os, name)

from sage_fastapi_obs import Observability, Settings

app = FastAPI()
obs = Observability(Settings(service={"name": "shop"}, logging={"output": sys.argv[1]}, monitoring={"access": "open"}))
obs.install(app)

async def ask():
    async with obs, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        pages = ("/metrics", "/monitoring/workers", "/monitoring/stacks", "/monitoring/loggers", "/monitoring/health")
        answers = {page: await client.get(page) for page in pages}
    print(json.dumps({page: answer.status_code for page, answer in answers.items()}))
    print(json.dumps(answers["/monitoring/workers"].json()["workers"]))

asyncio.run(ask())
print(json.dumps(obs.internal_errors.counts))
"""


def test_each_worker_answers_for_itself_and_says_so(tmp_path: Path) -> None:
    """Every page answers, the row of the only worker is there, nothing fails inside, and a line says why."""
    lines = tmp_path / "lines"
    command = [sys.executable, "-W", "ignore", "-c", SERVICE, str(lines)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stderr
    statuses, workers, errors = map(json.loads, done.stdout.splitlines())
    assert set(statuses.values()) == {200}
    assert [(row["state"], row["last_death"]) for row in workers] == [("running", None)]
    assert errors == {}
    said = [json.loads(line) for line in lines.read_text().splitlines()]
    alone = [line for line in said if "answers for itself alone" in line["message"]]
    assert [(line["level"], line["data"]["reason"]) for line in alone] == [("warn", "this system has no locks on files")]
