"""`sage-obs show` and `case` through the pages of a real service, and what other servers answer."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from kept_requests import filled, kept, line, path_of, span
from servers import free_port
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.cli import main, request_sources
from sage_fastapi_obs.endpoints.router import monitoring_router
from sage_fastapi_obs.store.store import Store

TOKEN = "a-token-of-sixteen-or-more"
Serve = Callable[[Any], Awaitable[str]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve apps with uvicorn; return their addresses."""
    running: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []

    async def start(app: Any) -> str:
        port = free_port()
        server = uvicorn.Server(uvicorn.Config(app, port=port, log_config=None, lifespan="off"))
        running.append((server, asyncio.create_task(server.serve())))
        while not server.started:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.01)
        return f"http://127.0.0.1:{port}"

    yield start
    for server, task in running:
        server.should_exit = server.force_exit = True
        await task


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Store]:
    """Store a failure among others, and a request whose id is a path."""
    spans = [span("root", kind="SERVER"), span("inner", "root", 1)]
    others = [kept(number, duration_us=number * 1_000) for number in range(1, 1_200)]
    failed = kept(0, request_id="a/b?c=d#e", spans=spans, lines=[line("a secret of a line")], failed=True, status=500)
    with filled(tmp_path / "stores", *others, failed) as store:
        yield store


async def run(*arguments: str) -> int:
    """Run the command while the loop serves."""
    return await asyncio.to_thread(partial(main, [*arguments]))


def app_of(store: Store, **monitoring: Any) -> Starlette:
    """Build an app with the pages of a store."""
    obs = Observability(
        Settings(
            monitoring={"access": "token", "token": TOKEN, "expose_logs": True, **monitoring},
            store={"enabled": False},
            logging={"enabled": False},
        )
    )
    router = monitoring_router(
        *(obs.settings, obs.metrics_page, obs.status, obs.logs, store, None, obs.workers, obs._levels),
        *(obs.numbers.families, obs.settings),
    )
    return Starlette(routes=router.routes)


@pytest.mark.parametrize("prefix", ["/monitoring", "/internal/obs"])
async def test_the_pages_show_what_the_store_shows(
    prefix: str, serve: Serve, stored: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Page by page; with the token of the options, or that of the environment."""
    url = await serve(app_of(stored, prefix=prefix))
    url += "" if prefix == "/monitoring" else f"{prefix}/"
    path = path_of(tmp_path / "stores")
    for what in (["slow"], ["why"], ["errors"], ["routes"], ["a/b?c=d#e"], ["slow", "--json", "--limit=700"]):
        assert await run("show", *what, f"--store={path}") == 0
        shown = capsys.readouterr().out
        assert await run("show", *what, f"--url={url}", f"--token={TOKEN}") == 0
        assert capsys.readouterr().out == shown
    monkeypatch.setenv("SAGE_OBS_MONITORING__TOKEN", TOKEN)
    assert await run("case", "a/b?c=d#e", f"--url={url}", f"--out={tmp_path / 'case.json.gz'}") == 0
    capsys.readouterr()
    assert await run("show", str(tmp_path / "case.json.gz")) == 0
    assert "a secret of a line" in capsys.readouterr().out


async def test_pages_that_show_no_lines(serve: Serve, stored: Store, capsys: Any) -> None:
    """Spans are shown without them, and why."""
    url = await serve(app_of(stored, expose_logs=False))
    assert await run("show", "a/b?c=d#e", f"--url={url}", f"--token={TOKEN}") == 0
    shown = capsys.readouterr().out
    assert "inner" in shown
    assert "a secret" not in shown
    assert "(lines are not shown: set monitoring.expose_logs)" in shown


async def test_alerts_and_traffic_of_a_service(serve: Serve, watch: Any, capsys: Any) -> None:
    """Alerts that fire, with their labels, and figures of all requests by route; for programs with the rules, as JSON."""
    rule = {"name": "Tea", "metric": "http_requests_total", "by": ["route"], "where": {"status": "418"}, "threshold": 0}
    watched = watch(monitoring={"access": "open"}, alerts={"defaults": False, "rules": [rule]}, store={"enabled": False})
    app = Starlette(routes=[Route("/tea/{cup}", lambda _: Response(status_code=418), methods=["GET"])])
    watched.obs.install(app)
    url = await serve(app)
    watched.obs.status.evaluate()
    async with httpx.AsyncClient() as client:
        assert [(await client.get(f"{url}/tea/{number}")).status_code for number in range(3)] == [418] * 3
    watched.obs.status.evaluate()
    assert await run("show", "alerts", f"--url={url}") == 0
    title, row = capsys.readouterr().out.splitlines()
    assert title.split() == ["state", "severity", "since", "value", "alert"]
    assert re.fullmatch(r"firing +warning +\S+Z +3 +Tea route=/tea/\{cup\}", row)
    assert await run("show", "alerts", f"--url={url}", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [(one["name"], one["state"]) for one in found["rules"]] == [("Tea", "firing")]
    assert await run("show", "traffic", f"--url={url}") == 0
    title, row = capsys.readouterr().out.splitlines()
    assert title.split() == ["requests", "failed", *("p50", "ms", "p95", "ms", "p99", "ms"), "route"]
    assert re.fullmatch(r" +3 +0( +[0-9.]+){3}  GET /tea/\{cup\}", row)


def answering(content: bytes, status: int = 200) -> Starlette:
    """Build an app that answers everything alike."""
    return Starlette(routes=[Route("/{path:path}", lambda _: Response(content, status))])


def endless() -> Starlette:
    """Build an app whose answers do not end."""

    async def spaces() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65_536
            # Or the loop never learns that the client has gone.
            await asyncio.sleep(0)

    return Starlette(routes=[Route("/{path:path}", lambda _: StreamingResponse(spaces()))])


NEVER_ENDING = {"requests": [], "next": "1", "is_complete": True}


@pytest.mark.parametrize(
    ("app", "said"),
    [
        (answering(b"<html>"), "is not what it should be: Invalid JSON"),
        (answering(b"{}"), "is not what it should be: requests: Field required"),
        (answering(b"[" * 100_000), "recursion limit"),
        (answering(b'{"detail": "too many are waiting"}', 503), "answers 503: too many are waiting"),
        (answering(b"", 302), "answers 302: this is no page of sage_fastapi_obs"),
        (answering(b"<html>", 404), "answers 404: this is no page of sage_fastapi_obs"),
        (answering(b'{"detail": "\x1b[2J\x1b[31m"}'.replace(b"\x1b", rb"\u001b"), 403), r"answers 403: \x1b[2J\x1b[31m"),
        (endless(), "larger than 16 MiB"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_other_servers_answer_is_said(app: Starlette, said: str, serve: Serve, capsys: Any) -> None:
    """In one line that no terminal obeys."""
    url = await serve(app)
    assert await run("show", "slow", f"--url={url}") == 1
    out, err = capsys.readouterr()
    assert (out, said in err, "\x1b" in err) == ("", True, False)
    assert err.count("\n") == 1


async def test_an_answer_that_goes_on_and_on(serve: Serve, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """It is left, though there is always a sign of the service."""

    async def drops() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await asyncio.sleep(0.01)

    monkeypatch.setattr(request_sources, "_SECONDS", 0.3)
    url = await serve(Starlette(routes=[Route("/{path:path}", lambda _: StreamingResponse(drops()))]))
    assert await run("show", "slow", f"--url={url}") == 1
    assert "the answer has no end after" in capsys.readouterr().err


async def test_pages_without_end(serve: Serve, capsys: Any) -> None:
    """A list that always has more is left at some point."""
    url = await serve(answering(json.dumps(NEVER_ENDING).encode()))
    assert await run("show", "slow", f"--url={url}") == 0
    assert "(there are older requests, too)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:1", "does not answer"),
        ("localhost:8000", "is no address of a service"),
        ("ftp://localhost", "is no address of a service"),
        ("http://", "is no address of a service"),
        ("http://[::1", "does not answer"),
        ("http://localhost:99999999", "does not answer"),
        ("http://\x1b[31m", "does not answer"),
        ("http://local host", "is no address of a service"),
    ],
)
async def test_an_address_without_a_service_is_said(url: str, said: str, capsys: Any) -> None:
    """In one line."""
    assert await run("show", "slow", f"--url={url}") == 1
    err = capsys.readouterr().err
    assert said in err
    assert (err.count("\n"), "\x1b" in err) == (1, False)
