"""`/metrics` and `/monitoring/*`: what they answer, and to whom."""

import asyncio
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any

import httpx
import pytest
import trio
from fastapi import FastAPI
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from support import PATIENCE_SECONDS, drive, eventually, http_scope

from sage_fastapi_obs import Observability, Settings
from sage_fastapi_obs.workers.control_client import DONE
from sage_fastapi_obs.workers.other_workers import Sibling

TOKEN = "a-token-of-sixteen-or-more"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
DATA = ["/metrics", "/monitoring/health"]
PROBES = ["/monitoring/health/live", "/monitoring/health/ready"]


def build(watch, app=None, **sections):
    """Build an app that is watched, and a client for it."""
    watched = watch(**sections)
    app = FastAPI() if app is None else app
    watched.obs.install(app)
    return watched, app


def asking(app, client=("127.0.0.1", 1), **options) -> httpx.AsyncClient:
    """Open a client at an address."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(app, client=client), base_url="http://testserver", **options)


async def test_text_and_openmetrics(watch):
    """`Accept` decides; both parse, and neither has `_created`."""
    _, app = build(watch)
    async with asking(app) as client:
        await client.get("/nowhere")
        text = await client.get("/metrics")
        openmetrics = await client.get("/metrics", headers={"accept": OPENMETRICS})
    assert text.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.endswith("# EOF\n")
    assert "trace_id" in openmetrics.text
    assert "trace_id" not in text.text
    names = [
        {family.name for family in parse(body)}
        for parse, body in ((text_string_to_metric_families, text.text), (openmetrics_families, openmetrics.text))
    ]
    assert (
        names[0]
        == names[1]
        >= {"http_requests", "http_request_duration_seconds", "process_cpu_seconds", "python_gc_collections"}
    )
    assert "_created" not in text.text + openmetrics.text


async def test_gzip_and_name_filter(watch):
    """`Accept-Encoding` and `name[]` are honoured."""
    _, app = build(watch)
    async with asking(app) as client:
        await client.get("/nowhere")
        zipped = await client.get("/metrics?name[]=http_requests_total", headers={"accept-encoding": "gzip"})
        plain = await client.get("/metrics?name[]=http_requests_total", headers={"accept-encoding": "identity"})
    assert zipped.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert zipped.text == plain.text
    assert [family.name for family in text_string_to_metric_families(plain.text)] == ["http_requests"]


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("HEAD", 200), ("POST", 405), ("DELETE", 405)])
async def test_methods(watch, method, status):
    """Read only."""
    _, app = build(watch)
    async with asking(app) as client:
        answer = await client.request(method, "/metrics")
    assert answer.status_code == status
    assert bool(answer.content) == (method != "HEAD")


class Slow(Collector):
    """A collector that notes where and how often it runs."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self.entered, self.release = threading.Event(), threading.Event()

    def collect(self):
        self.threads.append(threading.get_ident())
        self.entered.set()
        self.release.wait(PATIENCE_SECONDS)
        yield GaugeMetricFamily("slow", "slow", value=1)

    def describe(self):
        return []


async def test_scrapes_run_off_the_loop_and_are_shared(watch):
    """Four scrapers at once: the loop goes on, one rendering is under way, and the others share the next."""
    watched, app = build(watch)
    slow = Slow()
    watched.obs.registry.register(slow)
    async with asking(app) as client:
        scrapes = [asyncio.create_task(client.get("/metrics")) for _ in range(4)]
        await asyncio.to_thread(slow.entered.wait, PATIENCE_SECONDS)
        await eventually(lambda: watched.obs.metrics_page.waiting == 3)
        assert len(slow.threads) == 1
        slow.release.set()
        answers = await asyncio.gather(*scrapes)
    assert all("slow 1.0" in answer.text for answer in answers)
    assert threading.get_ident() not in slow.threads
    assert len(slow.threads) <= 2


@pytest.mark.parametrize(
    ("monitoring", "client", "headers", "status"),
    [
        ({}, ("127.0.0.1", 1), {}, 200),
        ({}, ("10.0.0.7", 1), {}, 403),
        ({"access": "open"}, ("10.0.0.7", 1), {}, 200),
        ({"access": "token"}, ("127.0.0.1", 1), {}, 403),
        ({"access": "token", "token": TOKEN}, ("127.0.0.1", 1), {}, 401),
        ({"access": "token", "token": TOKEN}, ("127.0.0.1", 1), {"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"access": "token", "token": TOKEN}, ("127.0.0.1", 1), {"authorization": f"Basic {TOKEN}"}, 401),
        ({"access": "token", "token": TOKEN}, ("127.0.0.1", 1), {"authorization": b"Bearer \xff\xfe"}, 401),
        ({"access": "token", "token": TOKEN}, ("10.0.0.7", 1), {"authorization": f"bearer {TOKEN}"}, 200),
        ({"access": "port"}, ("127.0.0.1", 1), {}, 404),
    ],
)
async def test_who_may_read(watch, monitoring, client, headers, status):
    """Request data is for whom the settings name; the probes answer everyone, without details."""
    watched, app = build(watch, monitoring=monitoring, metrics={"port": 0})
    watched.obs.health.add("database", lambda: True)
    headers = {"host": "localhost:8000", **headers}
    scope = [(name.encode(), value if isinstance(value, bytes) else value.encode()) for name, value in headers.items()]
    for path in DATA:
        assert (await drive(app, http_scope(path, headers=scope, client=client))).sent[0]["status"] == status
    for path in PROBES:
        driven = await drive(app, http_scope(path, headers=scope, client=client))
        assert driven.sent[0]["status"] == 200
        assert (b"database" in driven.sent[1]["body"]) == (status == 200 and path.endswith("ready"))
    await watched.obs.close()


LOOPBACK = ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"]
ELSEWHERE = ["10.0.0.7", "0.0.0.0", "::", "::ffff:10.0.0.7", "fe80::1%eth0", "testclient", "localhost", "", "unix:"]
NAMES = ["localhost", "LOCALHOST", "localhost.", "shop.localhost", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]"]
FOREIGN_NAMES = [
    *("evil.example", "localhost.evil.example", "evillocalhost", "10.0.0.7", "0.0.0.0", "[fe80::1]", "[::]", "shop", "", " "),
    *("127.0.0.1.evil.example", "evil.example@localhost", "localhost@evil.example", "localhost evil.example", "localhost:x"),
    *("localhost,evil.example", "[localhost", "::1", "127.1", "2130706433", "\xe9.example", "localhost/", "[::1].evil.example"),
]
PROXIES = {
    "x-forwarded-for": "10.0.0.7",
    "x-forwarded-host": "shop.example",
    "x-forwarded-proto": "https",
    "forwarded": "for=10.0.0.7",
    "via": "1.1 vegur",
    "x-real-ip": "127.0.0.1",
    "x-client-ip": "10.0.0.7",
    "x-cluster-client-ip": "10.0.0.7",
    "true-client-ip": "10.0.0.7",
    "cf-connecting-ip": "10.0.0.7",
    "cf-ray": "8",
    "cdn-loop": "cloudflare",
    "fastly-client-ip": "10.0.0.7",
    "fly-client-ip": "10.0.0.7",
    "tailscale-user-login": "a@example.com",
    "x-envoy-external-address": "10.0.0.7",
    "x-envoy-internal": "true",
    "x-original-url": "/",
    "x-original-forwarded-for": "10.0.0.7",
    "x-amzn-trace-id": "Root=1",
    "x-azure-clientip": "10.0.0.7",
    "x-appengine-user-ip": "10.0.0.7",
    "x-varnish": "1",
}


async def may_read(app: Any, client: Any, *headers: tuple[str, str]) -> bool:
    """Ask for request data, with just these headers."""
    scope = http_scope("/metrics", client=client, headers=[(name.encode(), value.encode("latin-1")) for name, value in headers])
    status = (await drive(app, scope)).sent[0]["status"]
    assert status in (200, 403)
    return status == 200


async def test_local_is_a_client_on_this_machine(watch):
    """Loopback addresses of either family, also as one in the other, and nothing else."""
    _, app = build(watch, monitoring={})
    host = ("host", "localhost:8000")
    assert [await may_read(app, (address, 1), host) for address in LOOPBACK] == [True] * len(LOOPBACK)
    assert [await may_read(app, (address, 1), host) for address in ELSEWHERE] == [False] * len(ELSEWHERE)
    assert not await may_read(app, None, host)


async def test_local_is_asked_by_the_name_of_this_machine(watch):
    """A name that somebody else has pointed to this machine is none: that is what a page does that rebinds its own."""
    _, app = build(watch, monitoring={})
    client = ("127.0.0.1", 1)
    for port in ("", ":", ":8000"):
        assert [await may_read(app, client, ("host", name + port)) for name in NAMES] == [True] * len(NAMES)
        assert [await may_read(app, client, ("host", name + port)) for name in FOREIGN_NAMES] == [False] * len(FOREIGN_NAMES)
    assert not await may_read(app, client)
    assert not await may_read(app, client, ("host", "localhost"), ("host", "evil.example"))
    assert not await may_read(app, client, ("host", "evil.example"), ("host", "localhost"))


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:8000"])
async def test_local_is_not_for_other_sites_pages(watch, host: str):
    """A browser may ask for a person, or for a page of this very origin; not for a page of another, also on this machine."""
    _, app = build(watch, monitoring={})
    asked = ("127.0.0.1", 1), ("host", host)
    for own in ("same-origin", "none"):
        assert await may_read(app, *asked, ("sec-fetch-site", own))
        assert await may_read(app, *asked, ("sec-fetch-site", own), ("origin", f"http://{host}"))
        assert not await may_read(app, *asked, ("sec-fetch-site", own), ("origin", "https://evil.example"))
    for foreign in ("cross-site", "same-site", "anything", ""):
        assert not await may_read(app, *asked, ("sec-fetch-site", foreign))
        assert not await may_read(app, *asked, ("sec-fetch-site", "none"), ("sec-fetch-site", foreign))
    for foreign in ("https://evil.example", "http://localhost:3000", f"http://{host}.evil.example", "null", "", host):
        assert not await may_read(app, *asked, ("origin", foreign))


async def test_local_is_not_for_somebody_behind_a_proxy(watch):
    """What proxies add tells of them, whatever it says; what else clients send does not matter."""
    _, app = build(watch, monitoring={})
    asked = ("127.0.0.1", 1), ("host", "localhost")
    assert {name for name, value in PROXIES.items() if await may_read(app, *asked, (name, value))} == set()
    usual = {
        "accept": "*/*",
        "traceparent": "00-x",
        "x-request-id": "1",
        "x-prometheus-scrape-timeout-seconds": "10",
        "viable": "1",
    }
    assert await may_read(app, *asked, *usual.items())


def test_production_is_closed_by_default():
    """The preset wants a token, and without one nobody reads."""
    settings = Settings.production()
    assert settings.monitoring.access == "token"
    assert settings.monitoring.token is None


async def test_they_are_not_part_of_the_service(watch):
    """Not in OpenAPI, spans or metrics; in the log at debug level; but with ids."""
    watched, app = build(watch)
    async with asking(app) as client:
        answers = [await client.get(path) for path in DATA + PROBES]
        assert (await client.get("/openapi.json")).json()["paths"] == {}
    assert watched.series("http_requests_total").keys() == {(("method", "GET"), ("route", "/openapi.json"), ("status", "200"))}
    assert [span.name for span in watched.server_spans] == ["GET /openapi.json"]
    assert [line["level"] for line in watched.access] == ["debug"] * 4 + ["info"]
    assert [line["request_id"] for line in watched.access[:4]] == [answer.headers["x-request-id"] for answer in answers]


async def test_a_starlette_app_has_them_too(watch):
    """They are plain routes."""
    _, app = build(watch, Starlette())
    async with asking(app) as client:
        assert [(await client.get(path)).status_code for path in DATA + PROBES] == [200] * 4


async def test_health_says_healthy_or_degraded(watch):
    """Always 200 unless strict; live never asks, ready follows critical checks and the shutdown."""
    watched, app = build(watch)
    up = {"database": True, "mail": True}
    watched.obs.health.add("database", lambda: up["database"], cache_seconds=0)
    watched.obs.health.add("mail", lambda: up["mail"], cache_seconds=0, critical=False)

    async def seen() -> tuple[str, int, int, int]:
        async with asking(app) as client:
            health = await client.get("/monitoring/health")
            strict = await client.get("/monitoring/health?strict=true")
            live = await client.get("/monitoring/health/live")
            ready = await client.get("/monitoring/health/ready")
        assert health.status_code == 200
        return health.json()["status"], strict.status_code, live.status_code, ready.status_code

    assert await seen() == ("healthy", 200, 200, 200)
    up["mail"] = False
    assert await seen() == ("degraded", 503, 200, 200)
    up["database"] = False
    assert await seen() == ("degraded", 503, 200, 503)
    up.update(database=True, mail=True)
    watched.obs.health.draining = True
    assert await seen() == ("degraded", 503, 200, 503)
    async with asking(app) as client:
        assert (await client.get("/monitoring/health?strict=maybe")).status_code == 422


async def test_metrics_on_a_port_of_their_own():
    """With `port` the main app answers 404, and the port answers."""
    settings = Settings(logging={"enabled": False}, monitoring={"access": "port"}, metrics={"port": 0})
    obs = Observability(settings)
    assert obs.metrics_port is None
    others = {*threading.enumerate()}
    async with obs:
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://127.0.0.1:{obs.metrics_port}/metrics", headers={"accept": OPENMETRICS})
        assert answer.text.endswith("# EOF\n")
    assert obs.metrics_port is None
    assert not [thread for thread in threading.enumerate() if thread.name == "sage-obs-metrics" and thread not in others]


async def test_a_taken_port_is_counted_and_the_service_runs(watch):
    """The metrics port is taken: requests are served, and the failure is shown."""
    first = Observability(Settings(logging={"enabled": False}, monitoring={"access": "port"}, metrics={"port": 0}))
    async with first:
        watched, app = build(watch, monitoring={"access": "port"}, metrics={"port": first.metrics_port})
        async with asking(app) as client:
            assert (await client.get("/monitoring/health/live")).status_code == 200
        assert watched.obs.internal_errors.counts == {"MetricsPort": 1}
        await watched.obs.close()


@pytest.mark.parametrize("is_busy", [True, False])
def test_a_port_that_a_busy_worker_may_have_is_no_failure(tmp_path, is_busy):
    """Only when all others have said that they do not listen, somebody else does."""
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.socket(socket.AF_UNIX) as asked:
        asked.bind(str(tmp_path / "worker"))
        asked.listen()
        port = taken.getsockname()[1]
        obs = Observability(Settings(logging={"enabled": False}, monitoring={"access": "port"}, metrics={"port": port}))
        now = time.monotonic()
        obs.workers.find = lambda: [Sibling(1, os.getpid() + 1, True, now, now, now, 0, socket=tmp_path / "worker")]
        if not is_busy:
            threading.Thread(target=_say_no, args=(asked,), daemon=True).start()
        obs.start()
        assert obs.internal_errors.counts == ({} if is_busy else {"MetricsPort": 1})
        obs.abandon()


def _say_no(asked: socket.socket) -> None:
    with suppress(OSError):
        while True:
            connection, _ = asked.accept()
            with connection:
                connection.recv(100)
                connection.sendall(b"no" + DONE)


def test_on_trio(watch):
    """No event loop in particular."""
    _, app = build(watch)

    async def ask() -> list[int]:
        async with asking(app) as client:
            return [(await client.get(path)).status_code for path in DATA + PROBES]

    assert trio.run(ask) == [200] * 4
