"""The exception of a request: the application's frame, and libraries that can be folded."""

import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from support import client

from sage_fastapi_obs.endpoints.shown_error import stack_pieces

ROWS = st.sampled_from(
    [
        "Traceback (most recent call last):",
        '  File "/srv/app/shop.py", line 14, in buy',
        '  File "/usr/lib/python3.11/asyncio/runners.py", line 190, in run',
        '  File "/srv/.venv/lib/python3.11/site-packages/starlette/routing.py", line 1, in app',
        '  | File "C:\\app\\shop.py", line 7',
        "    raise LookupError",
        "    ~~^^^^",
        "  [Previous line repeated 990 more times]",
        "LookupError: no such thing",
        "",
        'File "", line 0',
    ]
)


@given(st.lists(st.one_of(ROWS, st.text())).map("\n".join))
def test_nothing_of_a_stack_is_lost(stack: str) -> None:
    """Whatever it is, its pieces are the stack again."""
    pieces = stack_pieces(stack)
    assert "\n".join(piece.text for piece in pieces).split("\n") == stack.rstrip("\n").split("\n")
    assert all(piece.frames == 1 and piece.place for piece in pieces if piece.kind == "application")


def test_a_long_row_takes_no_longer() -> None:
    """Rows that are nearly frames are read in one pass."""
    stack = "\n".join(['  File "' + '", line 1' * 3_000 + "x", "File " * 5_000, " " * 50_000 + "x"])
    assert [piece.kind for piece in stack_pieces(stack)] == ["text"]


def test_frames_of_libraries_are_one_piece() -> None:
    """Those of the application stand alone, with their line; the standard library is a library."""
    try:
        traceback.extract_stack(f=object())  # type: ignore[arg-type]
    except AttributeError as error:
        stack = "".join(traceback.format_exception(error))
    pieces = stack_pieces(stack)
    assert [piece.kind for piece in pieces] == ["text", "application", "library", "text"]
    assert pieces[1].place is not None
    assert pieces[1].place.startswith(__file__)
    assert pieces[2].frames == stack.count(str(Path(traceback.__file__)))
    assert sys.version_info >= (3, 11)


def test_a_package_of_routes_that_is_installed_is_the_application() -> None:
    """Its line is known from the reason."""
    stack = (
        'T:\n  File "/x/site-packages/shop/api.py", line 5, in f\n    g()\n  File "/x/site-packages/lib.py", line 5, in g\nE: e'
    )
    assert [piece.kind for piece in stack_pieces(stack)] == ["text", "library", "text"]
    pieces = stack_pieces(stack, ["shop/api.py:5"])
    assert [piece.kind for piece in pieces] == ["text", "application", "library", "text"]


@pytest.mark.parametrize("logs", [True, False])
async def test_the_exception_of_a_real_request(logs: bool, watch: Any) -> None:
    """Its type, its message without secrets, the line that raised, and a few pieces."""
    watched = watch(monitoring={"access": "open", "expose_logs": logs})
    app = FastAPI()

    @app.get("/fails")
    async def fails() -> None:
        try:
            int("x")
        except ValueError as error:
            raise LookupError("<b>no</b> postgres://u:canary-secret@h/d") from error

    watched.obs.install(app)
    async with client(app) as http:
        watched.start()
        await http.get("/fails")
        listed = (await http.get("/monitoring/requests")).json()["requests"]
        answer = await http.get(f"/monitoring/requests/{listed[0]['key']}")
    await watched.obs.close()
    error = answer.json()["stories"][0]["error"]
    assert "canary-secret" not in answer.text
    assert (error["type"], error["message"][:9]) == ("LookupError", "<b>no</b>")
    assert error["place"].startswith(f"{__file__}:")
    assert [piece["kind"] for piece in error["stack"]] == ["text", "application", "text", "library", "application", "text"]
