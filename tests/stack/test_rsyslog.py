"""A real log shipper reads the file and sends it on: the documents are the lines."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loguru import logger
from receivers import Bulk, serving
from support import PATIENCE_SECONDS, Ticking, drive, http_scope, until

from sage_fastapi_obs import ObservabilityMiddleware

pytestmark = pytest.mark.stack

CONFIG = """
global(workDirectory="{folder}" maxMessageSize="512k")
module(load="imfile")
module(load="mmjsonparse")
module(load="omelasticsearch")
template(name="whole" type="list") {{ property(name="$!all-json-plain") }}
input(type="imfile" File="{lines}" Tag="shop" ruleset="ship" addMetadata="off")
ruleset(name="ship") {{
  action(type="mmjsonparse" cookie="")
  action(type="omelasticsearch" server="127.0.0.1" serverport="{port}" searchIndex="shop" searchType="" template="whole"
         bulkmode="on" action.resumeRetryCount="-1")
}}
"""
MODULES = ("imfile", "mmjsonparse", "omelasticsearch")
HARD = ['quote " and \\', "line\nbreak\tand \x1b[31m", "Zoë ☕ 🦆", "</script>", "%s {0}", "\x01\x7f", ""]
"""A NUL is missing here: rsyslog, which is written in C, ends a text with it."""


def need_rsyslog() -> str:
    """Find the program with its modules; skip without it, but never where the tests are what decides."""
    found = shutil.which("rsyslogd") or shutil.which("rsyslogd", path="/usr/sbin")
    if found is None or not all(list(Path("/usr/lib").glob(f"**/rsyslog/{name}.so")) for name in MODULES):
        message = "rsyslog is not installed: apt-get install rsyslog rsyslog-elasticsearch"
        pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    return found


@pytest.fixture
def shipped(tmp_path: Path) -> Iterator[tuple[Path, Bulk]]:
    """Run rsyslog from a file to a bulk endpoint."""
    program, lines = need_rsyslog(), tmp_path / "lines.jsonl"
    lines.write_text("")
    with serving(Bulk()) as bulk:
        config = tmp_path / "rsyslog.conf"
        config.write_text(CONFIG.format(folder=tmp_path, lines=lines, port=bulk.server_port))
        command = [program, "-n", "-f", str(config), "-i", str(tmp_path / "pid")]
        with (tmp_path / "err").open("wb") as err:
            process = subprocess.Popen(command, stdout=err, stderr=err)
        try:
            yield lines, bulk
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)


def test_documents_of_a_shipper_are_the_lines(shipped: tuple[Path, Bulk], watch: Any) -> None:
    """Escapes, nesting, numbers and stacks survive the way, also over a rotation; no line is missing."""
    path, bulk = shipped

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/boom":
            raise ValueError('no "way"\n')
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"ok"})

    # The clock stands still: a pause of the machine after the last byte would be background work, with a line of its own.
    watched = watch(logging={"output": str(path), "rotate_bytes": 80_000}, clock=Ticking(step_ns=0))
    watched.obs.start()
    around = ObservabilityMiddleware(app, observability=watched.obs)
    for number, text in enumerate(HARD):
        logger.bind(text=text, nested={"list": [1, 2.5, None, True, {"deep": text}]}).info(f"{number}: {text}")
        asyncio.run(drive(around, http_scope(f"/items/{text}")))
    asyncio.run(drive(around, http_scope("/boom")))
    # A shipper finds a rotated file by having read it before.
    assert until(lambda: len(bulk.documents) == len(path.read_text().splitlines()))
    for number in range(300):
        logger.bind(number=number).info("x" * 200)
    asyncio.run(watched.obs.close())

    files = [*path.parent.glob("lines.jsonl.2*"), path]
    lines = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    assert len(files) == 2
    ours = {"sage_fastapi_obs", "sage_fastapi_obs.access", __name__}
    assert [line for line in lines if line["logger"] not in ours] == []
    assert len(lines) == 1 + 2 * len(HARD) + 1 + 300
    until(lambda: len(bulk.documents) >= len(lines))
    said = (path.parent / "err").read_text()
    by_time = [sorted(found, key=json.dumps) for found in (list(bulk.documents.values()), lines)]
    for document, line in zip(*by_time, strict=True):
        assert document == line, said
