"""The page and its files: what is answered, with which headers, under which address."""

import gzip
import os
import subprocess
import sys
import zipfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import pytest
from anyio import fail_after, to_thread
from fastapi import APIRouter, FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount
from support import PATIENCE_SECONDS, drive, http_scope

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.endpoints.page.static_files import SECURITY_HEADERS, static_files

ROOT = Path(__file__).parents[3]
FOLDER = Path(str(files("sage_fastapi_obs.endpoints.page") / "static"))


def watched_app(**monitoring: Any) -> FastAPI:
    """Build an app with the pages."""
    app = FastAPI()
    settings = Settings(monitoring={"access": "open", **monitoring}, logging={"output": "stderr"}, store={"enabled": False})
    Observability(settings).install(app)
    return app


def asking(app: Any, **options: Any) -> httpx.AsyncClient:
    """Open a client of an app."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", **options)


async def test_the_page_is_not_kept_and_runs_nothing_of_others():
    """Its policy lets a browser load and ask nothing but the service itself, without scripts or styles in the text."""
    async with asking(watched_app()) as client:
        page = await client.get("/monitoring/")
        file = await client.get("/monitoring/static/index.html")
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["cache-control"] == "no-store"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    for answer in (page, file):
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
        assert not [name for name in answer.headers if name.startswith("access-control-")]


async def test_every_file_is_served_compressed_and_asked_for_again_only_if_it_changed():
    """Each file of the folder arrives as it is, with gzip where the browser knows it, and as 304 where it has it."""
    names = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}  # noqa: ASYNC240 - a few
    assert names == {*static_files()}
    async with asking(watched_app()) as client:
        for name in names:
            plain = await client.get(f"/monitoring/static/{name}", headers={"accept-encoding": "identity"})
            zipped = await client.get(f"/monitoring/static/{name}")
            known = await client.get(f"/monitoring/static/{name}", headers={"if-none-match": zipped.headers["etag"]})
            assert plain.content == zipped.content == (FOLDER / name).read_bytes()
            assert "content-encoding" not in plain.headers
            assert zipped.headers["content-encoding"] == "gzip"
            assert zipped.headers["vary"] == "Accept-Encoding"
            assert gzip.decompress(static_files()[name].compressed) == plain.content
            assert (known.status_code, known.content, known.headers["etag"]) == (304, b"", zipped.headers["etag"])


@pytest.mark.parametrize(
    "path",
    [
        "/monitoring/static/../page_routes.py",
        "/monitoring/static/..%2fpage_routes.py",
        "/monitoring/static/%2e%2e/page_routes.py",
        "/monitoring/static//etc/passwd",
        "/monitoring/static/..\\page_routes.py",
        "/monitoring/static/views/../index.html",
        "/monitoring/static/index.html\0",
        "/monitoring/static/INDEX.HTML",
        "/monitoring/static/",
        "/monitoring/static/.",
    ],
)
async def test_nothing_but_the_files_of_the_list_is_served(path: str):
    """However a path is written, it is a name of the list or of nothing."""
    # As it is: a client would write it in another way.
    answer = await drive(watched_app(), http_scope(path))
    assert answer.sent[0]["status"] == 404


def _included() -> Any:
    app = FastAPI()
    obs = Observability(Settings(monitoring={"access": "open"}, logging={"enabled": False}, store={"enabled": False}))
    router = APIRouter(prefix="/inner")
    router.include_router(obs.router)
    app.include_router(router, prefix="/outer")
    return app


@pytest.mark.parametrize(
    ("app", "page"),
    [
        (watched_app(), "/monitoring/"),
        (watched_app(prefix="/ops/obs"), "/ops/obs/"),
        (_included(), "/outer/inner/monitoring/"),
        (Starlette(routes=[Mount("/api", watched_app())]), "/api/monitoring/"),
    ],
    ids=["plain", "prefix", "include_router", "mount"],
)
async def test_the_address_without_its_slash_leads_to_the_page_anywhere(app: Any, page: str):
    """The redirect is relative, so that the page's own relative addresses are right below every prefix."""
    async with asking(app, follow_redirects=True) as client:
        for path in (page, page.rstrip("/")):
            answer = await client.get(path)
            assert (answer.status_code, answer.url.path) == (200, page)
            script = await client.get(str(answer.url.join("static/index.html")))
            data = await client.get(str(answer.url.join("overview")))
            assert (script.status_code, data.status_code) == (200, 200)


@pytest.mark.parametrize("stripped", [False, True], ids=["path as sent", "prefix removed by the proxy"])
async def test_a_proxy_may_add_a_prefix(stripped: bool):
    """Behind a proxy that serves the app below a path, the page, its files and its data are below that path, too."""
    path = "" if stripped else "/public"
    scope = http_scope(f"{path}/monitoring", root_path="/public")
    redirect = await drive(watched_app(), scope)
    location = dict(redirect.sent[0]["headers"])[b"location"].decode()
    assert httpx.URL("https://host.test/public/monitoring").join(location).path == "/public/monitoring/"
    for below in ("", "static/index.html", "overview"):
        answer = await drive(watched_app(), http_scope(f"{path}/monitoring/{below}", root_path="/public"))
        assert answer.sent[0]["status"] == 200


async def test_the_page_answers_where_the_app_has_no_thread_left():
    """That is when it is wanted: what it needs threads for does not wait for those of the application."""
    limiter = to_thread.current_default_thread_limiter()
    app = watched_app(token="a-token-of-sixteen-or-more", expose_logs=True)
    pages = ["", "static/index.html", "overview", "health", "summary", "alerts", "workers", "stacks", "loggers", "openapi.json"]
    taken = [object() for _ in range(int(limiter.total_tokens))]
    for holder in taken:
        limiter.acquire_on_behalf_of_nowait(holder)
    try:
        async with asking(app) as client:
            for page in pages:
                with fail_after(PATIENCE_SECONDS):
                    answer = await client.get(f"/monitoring/{page}")
                assert (page, answer.status_code) == (page, 200)
    finally:
        for holder in taken:
            limiter.release_on_behalf_of(holder)


SERVED_FROM_A_WHEEL = """
import sage_fastapi_obs
from fastapi import FastAPI
from starlette.testclient import TestClient

app = FastAPI()
settings = sage_fastapi_obs.Settings(monitoring={"access": "open"}, logging={"enabled": False})
sage_fastapi_obs.Observability(settings).install(app)
client = TestClient(app)
print(sage_fastapi_obs.__file__)
print(client.get("/monitoring/").text)
"""


def test_a_wheel_serves_the_page(tmp_path: Path):
    """What is installed from a wheel has the page with all its files, and serves it also from the archive."""
    build = f"from hatchling.build import build_wheel; print(build_wheel({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", build], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name.partition("/page/static/")[2] for name in archive.namelist() if "/page/static/" in name}
    assert held == {*static_files()}
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    command = [sys.executable, "-c", SERVED_FROM_A_WHEEL]
    served = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert served.stdout.startswith(str(wheel))
    assert served.stdout.endswith(static_files()["index.html"].body.decode() + "\n")
