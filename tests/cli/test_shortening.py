"""What an assistant gets is never longer than there is room for, whatever was recorded, and keeps what says most."""

import json
import unicodedata
from typing import Any

from hypothesis import example, given, strategies

from sage_fastapi_obs.cli.assistants.shortening import LEAST_VALUE, Shortening, encoded
from sage_fastapi_obs.privacy.redaction import BUILT_IN

TEXTS = strategies.text(max_size=30) | strategies.sampled_from(
    ["x" * 900, "\u202e" * 300, "\ud800", "漢字" * 200, '"\\\n' * 90]
)
VALUES = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats(allow_nan=False) | TEXTS,
    lambda inner: strategies.lists(inner, max_size=8) | strategies.dictionaries(TEXTS, inner, max_size=8),
    max_leaves=40,
)


def nested(levels: int) -> Any:
    """Build a list in lists."""
    value: Any = "innermost"
    for _ in range(levels):
        value = [value]
    return value


@given(value=VALUES, room=strategies.integers(LEAST_VALUE, 2_000))
@example(value=["y"] * 5_000, room=500)
@example(value={f"name-{number}": number for number in range(5_000)}, room=500)
@example(value={"n" * 5_000: {"m" * 5_000: "x" * 5_000}}, room=500)
@example(value=10**4_000, room=100)
@example(value="\x7f\x1b\u2028", room=100)
@example(value=nested(400), room=1_000)
def test_it_fits(value: Any, room: int) -> None:
    """As JSON that can be read, and of which each character can be seen; whole where there is room."""
    shortening = Shortening(BUILT_IN, [])
    text = shortening.shortened_json(value, room)
    assert len(text) <= room
    read = json.loads(text)
    assert all(unicodedata.category(character)[0] != "C" for character in text)
    if not shortening.left_out and not shortening.shortened and "REDACTED" not in text and "…" not in text:
        assert encoded(read) == encoded(value)


def test_beginning_and_end_are_kept() -> None:
    """Of lists and texts; small values beside large ones stay whole, and all that is missing is counted."""
    value = {
        "id": "request-1",
        "lines": [{"number": number, "text": "x" * 300} for number in range(100)],
        "stack": "a" * 9_000 + "b",
    }
    shortening = Shortening(BUILT_IN, [])
    read = json.loads(shortening.shortened_json(value, 4_000))
    assert read["id"] == "request-1"
    numbers = [line["number"] for line in read["lines"] if isinstance(line, dict)]
    assert numbers == [0, 1, 2, 98, 99]
    assert read["lines"][3] == "… 95 left out"
    assert (read["stack"][:2], read["stack"][-1]) == ("aa", "b")
    assert (shortening.left_out, shortening.shortened) == (95, 1)


def test_secrets_are_hidden_before_anything_is_cut() -> None:
    """By name, by shape, and those that are given; a cut never goes through one."""
    key = "sk-" + "a1B2" * 12
    value = {
        "password": ["x"],
        "text": ("y " * 40 + key) * 30,
        "Authorization": "x",
        "own": "the pages' own",
        "empty_token": "",
    }
    for room in range(200, 3_000, 37):
        text = Shortening(BUILT_IN, ["pages' own"]).shortened_json(value, room)
        assert "a1B2" not in text
        assert "pages" not in text
    read = json.loads(text)
    assert (read["password"], read["Authorization"], read["own"]) == ("REDACTED", "REDACTED", "the REDACTED")
    assert read["empty_token"] == ""
