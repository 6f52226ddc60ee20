"""Requests that are not recorded: by their path, and by the URLs that OpenTelemetry's variables exclude."""

from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.instrumentation.asgi import get_host_port_url_tuple
from opentelemetry.util.http import get_excluded_urls
from support import client, http_scope, times

from sage_fastapi_obs.request.excluded_requests import ExcludedRequests

OF_FASTAPI, OF_ALL = "OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "OTEL_PYTHON_EXCLUDED_URLS"
PATTERNS = st.lists(st.sampled_from(["health", "ping$", "^http://shop", "items/[0-9]+", ":8000", "", ".*", "b.d"]), max_size=3)
PATHS = st.sampled_from(["/", "/health", "/healthy/x", "/a/ping", "/ping/a", "/items/4", "/items/x", "/bad"])
HOSTS = st.sampled_from([None, b"shop.example", b"localhost:8000", b""])
SERVERS = st.sampled_from([("testserver", 80), ("10.0.0.1", 8000), None])


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OF_FASTAPI, raising=False)
    monkeypatch.delenv(OF_ALL, raising=False)


@settings(max_examples=times(200))
@given(of_fastapi=st.none() | PATTERNS, of_all=st.none() | PATTERNS, path=PATHS, host=HOSTS, server=SERVERS)
def test_the_urls_are_those_that_opentelemetry_excludes(
    of_fastapi: list[str] | None, of_all: list[str] | None, path: str, host: bytes | None, server: Any
):
    """By either variable, whatever host the client names, and where there is none."""
    headers = [] if host is None else [(b"host", host)]
    scope = http_scope(path, headers=headers, server=server)
    with pytest.MonkeyPatch.context() as patched:
        for variable, given_patterns in ((OF_FASTAPI, of_fastapi), (OF_ALL, of_all)):
            if given_patterns is not None:
                patched.setenv(variable, ",".join(filter(None, given_patterns)))
        theirs = get_excluded_urls("FASTAPI").url_disabled(get_host_port_url_tuple(scope)[2])
        excluded = ExcludedRequests(())
    assert (scope in excluded) is theirs
    assert not theirs or path.startswith(excluded.beginnings)


async def test_an_excluded_url_is_not_recorded(watch: Any, monkeypatch: pytest.MonkeyPatch):
    """As a path of the settings is not: the request has ids, and neither a span nor metrics. Others have all."""
    monkeypatch.setenv(OF_ALL, "health,ready$")
    watched = watch()
    monkeypatch.delenv(OF_ALL)
    app = FastAPI()
    for path in ("/v1/healthz", "/v1/ready", "/v1/ready/or/not", "/metrics"):
        app.add_api_route(path, lambda: None)
    watched.obs.install(app)
    async with watched.obs, client(app) as http:
        for path in ("/v1/healthz", "/v1/ready", "/v1/ready/or/not"):
            assert "x-request-id" in (await http.get(path)).headers
    assert [span.attributes["url.path"] for span in watched.server_spans] == ["/v1/ready/or/not"]
    assert {dict(labels)["route"] for labels in watched.series("http_requests_total")} == {"/v1/ready/or/not"}


def test_without_the_variables_only_paths_are_asked_for():
    """A request that begins otherwise is not looked at any further."""
    excluded = ExcludedRequests(("/metrics", "/monitoring"))
    assert excluded.beginnings == ("/metrics", "/monitoring")
    found = {path for path in ("/metrics", "/metrics/x", "/metricsx", "/monitoring/a", "/") if http_scope(path) in excluded}
    assert found == {"/metrics", "/metrics/x", "/monitoring/a"}
    assert http_scope("/api/metrics", root_path="/api") in excluded


def test_a_mistake_in_the_variables_is_said(monkeypatch: pytest.MonkeyPatch):
    """The service starts, the other patterns count, and the mistake is named."""
    monkeypatch.setenv(OF_ALL, "*,health,(")
    excluded = ExcludedRequests(())
    assert http_scope("/health") in excluded
    assert http_scope("/other") not in excluded
    assert [OF_ALL in remark for remark in excluded.remarks] == [True, True]


async def test_the_mistake_is_logged_at_the_start(watch: Any, monkeypatch: pytest.MonkeyPatch):
    """As a warning."""
    monkeypatch.setenv(OF_ALL, "*")
    watched = watch()
    async with watched.obs:
        pass
    assert [line["level"] for line in watched.lines if OF_ALL in line["message"]] == ["warn"]


def test_a_long_url_is_looked_at_in_part(monkeypatch: pytest.MonkeyPatch):
    """What a client sends does not decide for how long a pattern is looked for."""
    monkeypatch.setenv(OF_ALL, "needle")
    excluded = ExcludedRequests(())
    assert http_scope("/" + "x" * 100_000 + "needle") not in excluded
    assert http_scope("/needle" + "x" * 100_000) in excluded
    assert http_scope("/", headers=[(b"host", b"h" * 100_000)]) not in excluded
