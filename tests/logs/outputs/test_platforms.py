"""Systems without Unix's calls: the package loads there, and writes lines."""

import json
import subprocess
import sys
from pathlib import Path

from support import PATIENCE_SECONDS

WITHOUT_UNIX = """
import asyncio, os, select, sys
import fastapi, httpx, loguru, multiprocessing, opentelemetry.sdk.trace, prometheus_client
sys.modules["fcntl"] = None
del select.poll, os.register_at_fork, os.O_NONBLOCK, os.O_NOCTTY
from sage_fastapi_obs import Observability, Settings, SettingsError
async def asked(app, obs):
    async with obs, httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        assert (await http.get("/nowhere")).status_code == 404
        assert (await http.get("/metrics")).status_code == 200
for output in ("stdout", sys.argv[1]):
    app = fastapi.FastAPI()
    obs = Observability(Settings(logging={"output": output}, monitoring={"access": "open"}))
    obs.install(app)
    asyncio.run(asked(app, obs))
try:
    Observability(Settings(logging={"output": sys.argv[1], "rotate_bytes": 5000}))
except SettingsError as refused:
    print(refused)
"""


def test_a_system_without_unix_calls(tmp_path: Path) -> None:
    """Import, standard output as a pipe, and a file; what cannot work is refused while building."""
    path = tmp_path / "lines.jsonl"
    command = [sys.executable, "-W", "error", "-c", WITHOUT_UNIX, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    *lines, refusal = done.stdout.splitlines()
    assert refusal.startswith("logging.rotate_bytes and rotate_hours: ")
    for rows in (lines, path.read_text().splitlines()):
        messages = [json.loads(row)["message"] for row in rows]
        assert messages.count("request completed") == 1
