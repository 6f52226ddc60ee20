"""Which methods server spans name: the environment may say, with OpenTelemetry's variables."""

from typing import Any

import pytest
from fastapi import FastAPI
from opentelemetry.util.http import sanitize_method
from support import drive, http_scope

ALL = "OTEL_PYTHON_INSTRUMENTATION_HTTP_CAPTURE_ALL_METHODS"
KNOWN = "OTEL_INSTRUMENTATION_HTTP_KNOWN_METHODS"


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALL, raising=False)
    monkeypatch.delenv(KNOWN, raising=False)


async def named(watched: Any, method: str) -> tuple[str, Any, Any]:
    """Make a request; return the name of its span, its method, and what the client called that."""
    app = FastAPI()
    app.add_api_route("/files", lambda: None, methods=["GET", "PROPFIND", "PURGE"])
    watched.obs.install(app)
    async with watched.obs:
        await drive(app, http_scope("/files", method=method))
    (span,) = watched.server_spans
    return span.name, span.attributes["http.request.method"], span.attributes.get("http.request.method_original")


async def test_a_method_of_the_conventions_is_named(watch: Any):
    """Others are not, unless the environment asks for them: anybody may send any word."""
    assert await named(watch(), "GET") == ("GET /files", "GET", None)
    assert await named(watch(), "PROPFIND") == ("HTTP /files", "_OTHER", "PROPFIND")


async def test_the_environment_lists_the_known_methods(watch: Any, monkeypatch: pytest.MonkeyPatch):
    """The list stands in place of that of the conventions, and is fixed once the parts are built."""
    monkeypatch.setenv(KNOWN, "GET, PROPFIND,,no method,")
    assert await named(watch(), "PROPFIND") == ("PROPFIND /files", "PROPFIND", None)
    watched = watch()
    monkeypatch.delenv(KNOWN)
    assert await named(watched, "PURGE") == ("HTTP /files", "_OTHER", "PURGE")


@pytest.mark.parametrize("nothing", ["", " ", ",", "5,6"])
async def test_a_list_without_methods_changes_nothing(watch: Any, monkeypatch: pytest.MonkeyPatch, nothing: str):
    """An empty variable, as platforms set it, leaves the methods of the conventions."""
    monkeypatch.setenv(KNOWN, nothing)
    assert await named(watch(), "GET") == ("GET /files", "GET", None)


async def test_all_methods_are_named_where_that_is_asked_for(watch: Any, monkeypatch: pytest.MonkeyPatch):
    """Of any method as OpenTelemetry's own reader says; what is too long for one, or no word, is still none."""
    monkeypatch.setenv(ALL, "1")
    assert await named(watch(), "PURGE") == ("PURGE /files", sanitize_method("PURGE"), None)
    for hostile in ("X" * 33, "A B", "\x00", "é", "5" * 16):
        name, method, original = await named(watch(), hostile)
        assert (name.partition(" ")[0], method) == ("HTTP", "_OTHER")
        assert original is not None
