"""A comparison for people, and for programs."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

from sage_fastapi_obs.contract.comparison import Affected, Comparison, Difference

_MOST_EFFECTS = 3
"""That are said of one place; it asks for more in the same way."""


def comparison_text(comparison: Comparison, unread: Sequence[str]) -> str:
    """Say what has changed, and what that breaks."""
    return "\n".join(_lines(comparison, unread))


def _lines(comparison: Comparison, unread: Sequence[str]) -> Iterator[str]:
    affecting = [change for change in comparison.changes if change.affected]
    for change in affecting:
        yield change.text if not change.is_addition else f"{change.text} is new"
        yield from _affected(change)
        yield ""
    if others := [change.text for change in comparison.changes if not (change.is_addition or change.affected)]:
        yield "nothing that is known here asks for these:"
        yield from (f"  {text}" for text in others)
        yield ""
    if added := [change.text for change in comparison.changes if change.is_addition and not change.affected]:
        yield f"new: {', '.join(added)}"
    for use, reason in comparison.searched:
        yield f"not understood, so only searched for names: {_place(use.kind, use.name, use.part, use.file)}: {reason}"
    yield from (f"not read: {one}" for one in unread)
    places = {(one.kind, one.name) for change in affecting for one in change.affected if one.is_fatal}
    if comparison.is_compatible:
        yield "the contract holds"
    elif places:
        yield f"broken: {', '.join(sorted(f'{kind} {name}' for kind, name in places))}"
    else:
        yield "the contract has changed, and nothing that is known here is broken by it"


def _affected(change: Difference) -> Iterator[str]:
    parts: dict[tuple[str, str, str], list[str]] = {}
    for (kind, name, part, file), found in groupby(change.affected, key=attrgetter("kind", "name", "part", "file")):
        asked = [*found]
        verb = "breaks" if any(one.is_fatal for one in asked) else "changes"
        effects = [*dict.fromkeys(one.effect for one in asked)]
        more = f", and {len(effects) - _MOST_EFFECTS} more" if len(effects) > _MOST_EFFECTS else ""
        effect = "; ".join(effects[:_MOST_EFFECTS]) + more
        parts.setdefault((verb, _place(kind, name, "", file), effect), []).append(part)
    for (verb, place, effect), names in parts.items():
        yield f"  {verb} {place}: {effect}"
        yield from (f"    {name}" for name in names if name)


def _place(kind: str, name: str, part: str, file: str) -> str:
    return f"{kind} {name}{f' > {part}' if part else ''}{f' ({file})' if file else ''}"


def comparison_json(comparison: Comparison, unread: Sequence[str]) -> dict[str, Any]:
    """Return the same for programs."""
    return {
        "compatible": comparison.is_compatible,
        "changes": [_change(change) for change in comparison.changes],
        "not_understood": [
            {"kind": use.kind, "name": use.name, "part": use.part, "file": use.file, "reason": reason}
            for use, reason in comparison.searched
        ],
        "not_read": [*unread],
    }


def _change(change: Difference) -> dict[str, Any]:
    subject = {name: value for name, value in change.subject._asdict().items() if value}
    return {
        "subject": subject,
        "text": change.text,
        "addition": change.is_addition,
        "affected": [*map(_place_json, change.affected)],
    }


def _place_json(one: Affected) -> dict[str, Any]:
    return {
        "kind": one.kind,
        "name": one.name,
        "part": one.part,
        "file": one.file,
        "effect": one.effect,
        "breaks": one.is_fatal,
    }
