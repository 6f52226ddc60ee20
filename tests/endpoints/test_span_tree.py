"""Spans as a tree: where each stands, whatever ids and parents they name."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings, strategies
from support import times

from sage_fastapi_obs.endpoints.span_tree import DEEPEST, SpanNode, span_tree

START = 1_700_000_000_000_000_000


def span(span_id: str, parent_id: str | None = None, at_ms: float = 0, **more: Any) -> dict[str, Any]:
    """Make a span as the store has it."""
    times = {"started_ns": START + int(at_ms * 1_000_000), "duration_us": 1_500}
    return {"name": f"do {span_id}", "kind": "INTERNAL", "span_id": span_id, "parent_id": parent_id, **times, **more}


def shape(nodes: list[SpanNode]) -> list[Any]:
    """Write a tree as lists: ids, with what stands below them, and marks."""
    return [
        (node.span_id, *([node.misplaced] if node.misplaced else []), *([shape(node.children)] if node.children else []))
        for node in nodes
    ]


def walk(nodes: list[SpanNode], parent: SpanNode | None = None) -> Iterator[tuple[SpanNode, SpanNode | None]]:
    """Yield each node and what it stands below."""
    for node in nodes:
        yield node, parent
        yield from walk(node.children, node)


def test_spans_stand_below_their_parents_in_order_of_time() -> None:
    """With offsets and durations in milliseconds, and all else that was stored of them."""
    event = {"name": "retry", "at_ns": START + 2_000_000, "attributes": {"try": 2}}
    rows = span("rows", "query", 6, status="ERROR", description="gone", attributes={"n": 1}, events=[event], scope="db")
    (root,) = span_tree([("r", [span("b", "r", 9), rows, span("query", "r", 4), span("r", "of the caller")])], START)
    assert shape([root]) == [("r", [("query", [("rows",)]), ("b",)])]
    found = root.children[0].children[0]
    assert (found.offset_ms, found.duration_ms, found.status, found.description) == (6, 1.5, "ERROR", "gone")
    assert (found.attributes, found.scope, found.events[0].offset_ms) == ({"n": 1}, "db", 2)


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        ([], []),
        ([span("a", "missing", 1), span("r")], [("r", [("a", "parent missing")])]),
        ([span("a", None, 1), span("r")], [("r", [("a", "parent missing")])]),
        ([span("r"), span("a", "a", 1)], [("r", [("a", "cycle")])]),
        ([span("r"), span("a", "b", 1), span("b", "a", 2)], [("r", [("a", "cycle", [("b",)])])]),
        ([span("r", "a"), span("a", "r", 1)], [("r", [("a",)])]),
        ([span("r", "r")], [("r",)]),
        ([span("r"), span("a", "r", 1), span("a", "r", 2), span("b", "a", 3)], [("r", [("a", [("b",)]), ("a",)])]),
        ([span("x", None, 1), span("y", "x", 2)], [("x", [("y",)])]),
        ([span("x", "gone", 1), span("y", "z", 2, kind="SERVER")], [("y", [("x", "parent missing")])]),
    ],
    ids=str,
)
def test_odd_parents(spans: list[dict[str, Any]], expected: list[Any]) -> None:
    """Those without a parent here stand below the request's own span, marked; circles are cut; an id may repeat."""
    assert shape(span_tree([("r", spans)], START)) == expected


def test_a_request_stands_below_the_call_that_made_it() -> None:
    """Requests of one trace make one tree; those whose caller is not here stand beside each other."""
    called = [span("server", "call", 2, kind="SERVER"), span("inner", "server", 3)]
    calling = [span("r", "elsewhere", kind="SERVER"), span("call", "r", 1, kind="CLIENT")]
    other = [span("late", "elsewhere", 9, kind="SERVER"), span("orphan", "gone", 10)]
    trees = span_tree([("late", other), ("server", called), ("r", calling)], START)
    assert shape(trees) == [("r", [("call", [("server", [("inner",)])])]), ("late", [("orphan", "parent missing")])]
    circle = span_tree([("a", [span("a", "b")]), ("b", [span("b", "a", 1)])], START)
    assert shape(circle) == [("a", "cycle", [("b",)])]


@pytest.mark.parametrize("odd", [None, "x", 2**64, -(2**70), 1.5, float("nan"), True, [], {}])
def test_misshapen_values_are_left_out(odd: Any) -> None:
    """A span of which something is of the wrong type keeps the rest."""
    names = ("name", "kind", "span_id", "parent_id", "started_ns", "duration_us", "status", "attributes", "events", "links")
    for name in names:
        with_events = {**span("r"), "events": [odd, {"name": odd, "at_ns": odd}]}
        (root,) = span_tree([("r", [{**span("r"), name: odd}, with_events])], START)
        assert root.model_dump_json()
    (empty,) = span_tree([("r", [{}])], START)
    assert (empty.name, empty.offset_ms, empty.duration_ms) == ("", 0, 0)


IDS = strategies.sampled_from([f"s{number}" for number in range(40)])
GROUPS = strategies.lists(
    strategies.lists(strategies.tuples(IDS, strategies.none() | IDS, strategies.integers(0, 50)), max_size=60), max_size=4
)


def named_parents(groups: list[list[dict[str, Any]]]) -> dict[str, str | None]:
    """Say what each span names as its parent, by their names, in the plainest way: by looking through all of them."""
    flat = [one for spans in groups for one in spans]
    found: dict[str, str | None] = {}
    for spans in groups:
        own = [one for one in spans if one["span_id"] == "s0"] or spans
        root = ([one for one in own if one["parent_id"] is None] or own)[0]
        for one in spans:
            same = [other for other in flat if other["span_id"] == one["parent_id"]]
            if one is root:
                found[one["name"]] = same[0]["name"] if same and same[0] not in spans else None
            else:
                found[one["name"]] = (same or [root])[0]["name"]
    return found


def circles(parents: dict[str, str | None]) -> set[frozenset[str]]:
    """Find the sets of names that lead in a circle."""
    found = set()
    for start in parents:
        at: str | None = start
        for _ in parents:
            at = None if at is None else parents[at]
        circle: list[str] = []
        while at is not None and at not in circle:
            circle.append(at)
            at = parents[at]
        if at is not None:
            found.add(frozenset(circle))
    return found


@settings(max_examples=times(200))
@given(GROUPS)
def test_any_spans_make_a_tree(given_spans: list[list[tuple[str, str | None, int]]]) -> None:
    """Each span stands in it once, below its parent unless it is marked, and each circle is cut at one place."""
    groups = [
        sorted(
            (span(one, parent, at, name=f"{group}.{number}") for number, (one, parent, at) in enumerate(spans)),
            key=lambda one: one["started_ns"],
        )
        for group, spans in enumerate(given_spans)
    ]
    nodes = list(walk(span_tree([("s0", spans) for spans in groups], START)))
    parents = named_parents([spans for spans in groups if spans])
    assert sorted(node.name for node, _ in nodes) == sorted(parents)
    for node, parent in nodes:
        if node.misplaced not in {"cycle", "too deep"}:
            assert parents[node.name] == (None if parent is None else parent.name)
    cut = [{node.name for node, _ in nodes if node.misplaced == "cycle"} & circle for circle in circles(parents)]
    assert all(len(one) == 1 for one in cut)
    assert sum(node.misplaced == "cycle" for node, _ in nodes) == len(cut)


@pytest.mark.parametrize("count", [DEEPEST, DEEPEST + 1, 200, 5_000])
def test_no_tree_is_too_deep(count: int) -> None:
    """What is further down stands on the last level, marked, in order of time."""
    chain = [span(f"s{number}", f"s{number - 1}" if number else None, number) for number in range(count)]
    (root,) = span_tree([("s0", chain)], START)
    level, depth = [root], 0
    while level[0].children:
        level, depth = level[0].children, depth + 1
    assert depth == min(count, DEEPEST) - 1
    assert [node.span_id for node in level] == [f"s{number}" for number in range(depth, count)]
    assert [node.misplaced for node in level] == [None, *["too deep"] * (len(level) - 1)]
    assert root.model_dump_json()
