"""Spans as a tree: each stands in it once and not too deep, whatever parents they name."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, FiniteFloat

from sage_fastapi_obs.privacy.json_values import MORE

DEEPEST = 32
"""Levels of a tree; what is further down stands on the last one."""
_LEVELS = 64
_LARGEST = 2**63
Span = Mapping[str, Any]


class SpanEvent(BaseModel):
    """Something that happened during a span."""

    name: str
    offset_ms: FiniteFloat
    attributes: dict[str, Any]


class SpanNode(BaseModel):
    """A span with those below it; times in milliseconds, offsets from the start of the request."""

    name: str
    kind: str
    span_id: str
    parent_id: str | None
    offset_ms: FiniteFloat
    duration_ms: FiniteFloat
    status: str
    description: str | None = None
    scope: str | None = None
    attributes: dict[str, Any] = {}
    events: list[SpanEvent] = []
    links: list[Any] = []
    misplaced: Literal["parent missing", "cycle", "too deep"] | None = None
    """Why it does not stand below its parent: that is not here, it is below itself, or there are too many levels."""
    children: "list[SpanNode]" = []


def span_tree(requests: Iterable[tuple[str, Sequence[Span]]], start_ns: int) -> list[SpanNode]:
    """Return the topmost spans of some requests, earliest first, with all others below them.

    `requests`: for each the id of its own span, and its spans as they are stored. The span of a request stands below that
    of another request which called it.
    """
    tree = _Tree()
    for root_id, spans in requests:
        tree.add(root_id, [_node(span, start_ns) for span in spans])
    tree.cut_cycles()
    return tree.top()


class _Tree:
    """Which node stands below which. Nodes are known by their number: ids of spans come from anywhere, and may repeat."""

    def __init__(self) -> None:
        self._nodes: list[SpanNode] = []
        self._roots: list[int] = []
        """Of each node, the span of its request."""
        self._by_id: dict[str, int] = {}
        self._parents: list[int | None] = []

    def add(self, root_id: str, nodes: list[SpanNode]) -> None:
        """Add the spans of one request."""
        nodes.sort(key=lambda node: node.offset_ms)
        first = len(self._nodes)
        for number, node in enumerate(nodes, first):
            self._by_id.setdefault(node.span_id, number)
        self._nodes += nodes
        self._roots += [first + _root(nodes, root_id)] * len(nodes)

    def cut_cycles(self) -> None:
        """Find the parent of each node, and give up one in each cycle."""
        self._parents = [self._parent(number) for number in range(len(self._nodes))]
        rooted: set[int] = set()
        for start in range(len(self._nodes)):
            at: int | None = start
            path: set[int] = set()
            while at is not None and at not in rooted:
                if at in path:
                    self._cut(at)
                path.add(at)
                at = self._parents[at]
            rooted |= path

    def _parent(self, number: int) -> int | None:
        node, root = self._nodes[number], self._roots[number]
        found = self._by_id.get(node.parent_id) if node.parent_id else None
        if number == root:
            # What called the request may be another request that is here; its own spans cannot have.
            return found if found is not None and self._roots[found] != root else None
        if found is None:
            node.misplaced = "parent missing"
            return root
        return found

    def _cut(self, number: int) -> None:
        self._nodes[number].misplaced = "cycle"
        root = self._roots[number]
        self._parents[number] = root if self._parents[root] is None else None

    def top(self) -> list[SpanNode]:
        """Put the children in, and return the nodes without a parent."""
        top: list[SpanNode] = []
        for number in sorted(range(len(self._nodes)), key=lambda number: self._nodes[number].offset_ms):
            parent = self._parents[number]
            (top if parent is None else self._nodes[parent].children).append(self._nodes[number])
        level = top
        for _ in range(DEEPEST - 2):
            level = [child for node in level for child in node.children]
        for node in level:
            node.children = _all_below(node)
        return top


def _root(nodes: Sequence[SpanNode], root_id: str) -> int:
    """Find the span of a request: by its id, else the first that looks like one."""
    return min(
        range(len(nodes)),
        key=lambda number: (
            nodes[number].span_id != root_id,
            nodes[number].kind != "SERVER",
            nodes[number].parent_id is not None,
        ),
        default=0,
    )


def _all_below(node: SpanNode) -> list[SpanNode]:
    waiting, found = deque((child, False) for child in node.children), []
    while waiting:
        child, is_deeper = waiting.popleft()
        found.append(child)
        waiting.extend((grandchild, True) for grandchild in child.children)
        child.children = []
        if is_deeper:
            child.misplaced = "too deep"
    return sorted(found, key=lambda child: child.offset_ms)


def _node(span: Span, start_ns: int) -> SpanNode:
    """Read a stored span; what is missing or misshapen in it is left out."""
    return SpanNode.model_construct(
        name=_text(span, "name") or "",
        kind=_text(span, "kind") or "INTERNAL",
        span_id=_text(span, "span_id") or "",
        parent_id=_text(span, "parent_id") or None,
        offset_ms=_offset(span.get("started_ns"), start_ns),
        duration_ms=_whole(span.get("duration_us")) / 1_000,
        status=_text(span, "status") or "UNSET",
        description=_text(span, "description"),
        scope=_text(span, "scope"),
        attributes=_mapping(span.get("attributes")),
        events=[_event(event, start_ns) for event in _list(span.get("events")) if isinstance(event, dict)],
        links=_list(span.get("links")),
        children=[],
    )


def _event(event: Span, start_ns: int) -> SpanEvent:
    offset_ms = _offset(event.get("at_ns"), start_ns)
    return SpanEvent(name=_text(event, "name") or "", offset_ms=offset_ms, attributes=_mapping(event.get("attributes")))


def _offset(at_ns: object, start_ns: int) -> float:
    return (_whole(at_ns, start_ns) - start_ns) / 1_000_000


def _whole(value: object, otherwise: int = 0) -> int:
    return value if type(value) is int and abs(value) < _LARGEST else otherwise


def _text(span: Span, name: str) -> str | None:
    return value if isinstance(value := span.get(name), str) else None


def _mapping(value: object) -> dict[str, Any]:
    return shallow(value) if isinstance(value, dict) else {}


def _list(value: object) -> list[Any]:
    return shallow(value) if isinstance(value, list) else []


def shallow(value: Any, levels: int = _LEVELS) -> Any:
    """Copy a value without what is nested so deeply that encoders give up."""
    if isinstance(value, dict):
        return {name: shallow(inner, levels - 1) for name, inner in value.items()} if levels else MORE
    if isinstance(value, list):
        return [shallow(inner, levels - 1) for inner in value] if levels else MORE
    return value
