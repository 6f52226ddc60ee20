"""`sage-obs mcp` over the file of a store: what it answers, what only a running service can, and what is not shown."""

import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from kept_requests import filled, kept, line, path_of, span
from mcp import Client
from support import PATIENCE_SECONDS

from sage_fastapi_obs.cli import main
from sage_fastapi_obs.cli.assistants.marked_answer import MOST_CHARACTERS
from sage_fastapi_obs.cli.assistants.mcp_server import mcp_server
from sage_fastapi_obs.cli.request_sources import StoreFile
from sage_fastapi_obs.store.store import Store

TOKEN = "a-token-of-the-pages-7613"
SECRETS = {"password": "hunter2-of-somebody", "note": f"the token is {TOKEN}", "card": "4111 1111 1111 1111"}


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Store]:
    """Fill a store: a failure with secrets that the service did not know, a large request, slow ones."""
    lines = [line("\u202e\U000e0041\ufe0f 漢字", data=SECRETS)]
    failed = kept(0, lines=lines, failed=True, status=500, error_type="LookupError", request_id="broken")
    many = [line(f"line {number} " + "x" * 500) for number in range(400)]
    spans = [span("root", kind="SERVER"), *(span(f"s{number}", "root", number) for number in range(400))]
    large = kept(1, lines=many, spans=spans, request_id="large")
    slow = [kept(number, duration_us=number * 1_000, cause="call", why=f"waited {number} ms") for number in range(2, 30)]
    other = kept(30, duration_us=90_000, cause="from-a-later-version")
    refused = kept(31, duration_us=1, cause="refused", route=None)
    with filled(tmp_path / "stores", failed, large, *slow, other, refused) as store:
        yield store


@asynccontextmanager
async def assistant(path: Path) -> AsyncIterator[Any]:
    """Connect a client; returns what asks, and reads the answer."""
    async with Client(mcp_server(partial(StoreFile, path), [TOKEN])) as client:

        async def ask(tool: str, **arguments: Any) -> tuple[Any, str]:
            found = await client.call_tool(tool, arguments)
            text = found.content[0].text
            return json.loads(text.split("\n")[2]), text

        yield ask


@pytest.mark.usefixtures("stored")
async def test_a_store_answers_what_it_can(tmp_path: Path) -> None:
    """Lists, reasons and routes of kept requests; alerts are those of the running service."""
    async with assistant(path_of(tmp_path / "stores")) as ask:
        failing, _ = await ask("failing_requests")
        assert [one["request_id"] for one in failing["requests"]] == ["broken"]
        assert (await ask("failing_requests", status="404"))[0] == {"requests": [], "is_complete": True}
        reasons, _ = await ask("why_slow", limit=2)
        assert [(one["cause"], one["requests"], one["max_ms"], one.get("why")) for one in reasons["causes"]] == [
            ("call", 28, 29.0, "waited 29 ms"),
            ("from-a-later-version", 1, 90.0, None),
        ]
        assert [one["duration_ms"] for one in reasons["slowest"]] == [90, 29]
        assert (await ask("request_trace", id=reasons["causes"][0]["example"]))[0]["stories"][0]["request"]["duration_ms"] == 29
        routes, _ = await ask("routes")
        assert [(one["route"], one["kept"], one["failed"]) for one in routes["routes"]] == [
            ("GET /items/{item_id}", 31, 1),
            ("GET (no route)", 1, 0),
        ]
        refused, _ = await ask("alerts")
        assert "name the running service with --url" in refused["error"]


@pytest.mark.usefixtures("stored")
async def test_secrets_and_invisible_characters_are_not_shown(tmp_path: Path) -> None:
    """Whatever a store has in it: secrets by name and by shape, the token of the pages, what nobody can see."""
    async with assistant(path_of(tmp_path / "stores")) as ask:
        trace, text = await ask("request_trace", id="broken")
        assert trace["stories"][0]["lines"][0]["data"] == {
            "password": "REDACTED",
            "note": "the token is REDACTED",
            "card": "REDACTED",
        }
        assert r"\u202e\udb40\udc41\ufe0f" in text
        assert "漢字" in text
        assert not any(secret in text for secret in (TOKEN, "hunter2", "4111"))


@pytest.mark.usefixtures("stored")
async def test_an_answer_is_bounded_and_says_what_is_missing(tmp_path: Path) -> None:
    """Beginning and end of what is too long are kept, small values whole."""
    async with assistant(path_of(tmp_path / "stores")) as ask:
        trace, text = await ask("request_trace", id="large")
        assert MOST_CHARACTERS / 2 < len(text) < MOST_CHARACTERS + 1_000
        (story,) = trace["stories"]
        assert story["request"]["request_id"] == "large"
        lines = story["lines"]
        (cut,) = (at for at, one in enumerate(lines) if isinstance(one, str))
        assert lines[cut] == f"… {400 - (len(lines) - 1)} left out"
        assert (lines[0]["message"][:7], lines[-1]["message"][:9]) == ("line 0 ", "line 399 ")
        assert text.splitlines()[-1].startswith("This is not all: ")
        assert "Ask for less to see more" in text


async def test_a_store_that_is_not_there_is_said(tmp_path: Path) -> None:
    """In the answer: the service may start later."""
    path = tmp_path / "shop.sqlite3"
    path.write_bytes(b"no database")
    async with assistant(path) as ask:
        assert "cannot read the store" in (await ask("failing_requests"))[0]["error"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--url", "localhost"], "localhost is no address of a service: use one like http://localhost:8000"),
        (["--url", "ftp://name:secret@host"], "ftp://…@host is no address of a service"),
    ],
)
def test_a_wrong_address_is_said_at_once(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Before any assistant asks, in one line."""
    assert main(["mcp", *arguments]) == 1
    out, err = capsys.readouterr()
    assert (out, said in err, "secret" in err, err.count("\n")) == ("", True, False, 1)


def test_ctrl_c_ends_it() -> None:
    """At once, also where the input goes on."""
    command = [sys.executable, "-m", "sage_fastapi_obs", "mcp", "--url", "http://127.0.0.1:1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as server:
        assert server.stdin
        assert server.stdout
        server.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        server.stdin.flush()
        assert b'"id":1' in server.stdout.readline()
        server.send_signal(signal.SIGINT)
        assert server.wait(PATIENCE_SECONDS) == -signal.SIGINT


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where the SDK is not installed."""
    monkeypatch.delitem(sys.modules, "sage_fastapi_obs.cli.assistants.mcp_server")
    monkeypatch.setitem(sys.modules, "mcp", None)
    assert main(["mcp"]) == 1
    assert "pip install 'sage_fastapi_obs[mcp]'" in capsys.readouterr().err
