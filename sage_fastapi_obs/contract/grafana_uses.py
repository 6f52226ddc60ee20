"""The queries of Grafana's dashboards: of panels, rows, annotations, choices and library panels, in each schema there is."""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from sage_fastapi_obs.contract.grafana_variables import Variables
from sage_fastapi_obs.contract.query_text import is_logql
from sage_fastapi_obs.contract.telemetry_contract import Use

_LANGUAGES = {
    "prometheus": "promql",
    "mimir": "promql",
    "loki": "logql",
    "elasticsearch": "lucene",
    "opensearch": "lucene",
    "tempo": "traceql",
    "jaeger": "traceql",
}
"""Languages by what the name of a data source's type has in it."""
_OTHER = "other"
"""A language that is not read, such as SQL."""
_CHOSEN_TYPES = frozenset({"custom", "constant", "datasource", "textbox", "interval"})
_CHOSEN_KINDS = frozenset({"CustomVariable", "ConstantVariable", "DatasourceVariable", "TextVariable", "IntervalVariable"})
"""Variables whose query is no query, but what there is to choose."""
_MOST_NESTED = 64
_MOST_ENVELOPES = 3
_MOST_NODES = 500_000
_LABEL_VALUES = re.compile(r"label_values\(\s*(?:(.*),)?\s*([\w$]+)\s*\)", re.DOTALL)
_QUERY_RESULT = re.compile(r"query_result\((.*)\)", re.DOTALL)
_METRICS = re.compile(r"metrics\((.*)\)", re.DOTALL)
_LEGEND = re.compile(r"\{\{\s*([\w.]+)\s*\}\}")
_SHOWN = re.compile(r"__(?:field\.labels|data\.fields)[.\[]\"?([\w.]+)")
_TRANSFORMED = frozenset({"excludeByName", "indexByName", "renameByName", "fields"})
Node = Mapping[str, Any]


class _Where(NamedTuple):
    """What is known around a node."""

    part: str = ""
    language: str = ""
    shown: tuple[str, ...] = ()
    depth: int = 0


def dashboards_in(document: Any, depth: int = 0) -> Iterator[Node]:
    """Yield the dashboards in a document, out of the envelopes in which the API, exports and Kubernetes put them."""
    if not isinstance(document, Mapping) or depth > _MOST_ENVELOPES:
        return
    inner = [document.get(name) for name in ("dashboard", "spec")]
    if {"panels", "rows", "elements"} & document.keys():
        yield document
    for envelope in inner:
        yield from dashboards_in(envelope, depth + 1)


def grafana_uses(dashboard: Node, file: str, libraries: Mapping[str, Node]) -> list[Use]:
    """List the queries of a dashboard; `libraries`: library panels of other files, by their uid."""
    return [*_DashboardReader(dashboard, file, libraries).uses()]


def library_panel(document: Any) -> tuple[str, Node] | None:
    """Return the uid and the panel of a file with a library panel; None for any other."""
    found = document.get("result", document) if isinstance(document, Mapping) else None
    if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping) and isinstance(found.get("uid"), str):
        return found["uid"], found["model"]
    return None


class _DashboardReader:
    def __init__(self, dashboard: Node, file: str, libraries: Mapping[str, Node]) -> None:
        self._root, self._file = dashboard, file
        self._name = str(dashboard.get("title") or file)
        elements = dashboard.get("__elements")
        own = elements.values() if isinstance(elements, Mapping) else elements or ()
        self._libraries = {**libraries, **dict(filter(None, map(library_panel, own)))}
        self._variables = Variables(dashboard)
        self._left = _MOST_NODES

    def uses(self) -> Iterator[Use]:
        """Yield all queries."""
        rest = {name: value for name, value in self._root.items() if name not in ("__elements", "title")}
        yield from self._walk(rest, _Where())

    def _walk(self, node: Any, where: _Where) -> Iterator[Use]:
        self._left -= 1
        if where.depth > _MOST_NESTED or self._left < 0:
            raise ValueError("it is too large for a dashboard")
        where = where._replace(depth=where.depth + 1)
        if isinstance(node, list):
            for one in node:
                yield from self._walk(one, where)
        elif isinstance(node, Mapping) and node.get("kind") not in _CHOSEN_KINDS:
            where = self._inside(node, where)
            yield from self._queries(node, where)
            reference = node.get("libraryPanel")
            if isinstance(reference, Mapping) and "targets" not in node:
                yield from self._walk(self._libraries.get(str(reference.get("uid"))), where)
            for value in node.values():
                yield from self._walk(value, where)

    def _inside(self, node: Node, where: _Where) -> _Where:
        """Return what is known inside of a node."""
        title, name = node.get("title"), node.get("name")
        is_panel = not {"type", "targets", "data", "panels", "model"}.isdisjoint(node)
        if isinstance(title, str) and is_panel:
            where = where._replace(part=title, shown=_shown(node))
        elif not where.part and isinstance(name, str) and {"query", "expr", "datasource"} & node.keys():
            where = where._replace(part=f"{'choice' if 'query' in node and 'expr' not in node else 'annotation'} {name}")
        # In the second schema the type is the group of a query, and was its kind at first.
        type_name = node.get("group") if node.get("kind") == "DataQuery" else None
        language = self._language(node.get("datasource")) or _language_of_type(type_name) or _language_of(node.get("kind"))
        return where._replace(language=language or where.language)

    def _language(self, source: Any) -> str:
        if isinstance(source, Mapping):
            return self._language(source.get("uid") or source.get("name")) or _language_of_type(source.get("type"))
        if not isinstance(source, str):
            return ""
        return _language_of_type(self._variables.source_types.get(source.strip("${}[]"))) or _language_of(source)

    def _queries(self, node: Node, where: _Where) -> Iterator[Use]:
        shown = (*where.shown, *_legend(node))
        if where.language == _OTHER:
            return
        if isinstance(text := node.get("expr"), str) and text:
            yield from self._asked(text, where, shown)
        if isinstance(query := node.get("query"), str) and query and node.get("type") not in _CHOSEN_TYPES:
            yield from self._query(query, where, shown)
        if where.language == "lucene" and isinstance(field := node.get("field"), str):
            yield self._use("lucene", "", where.part, (field,))
        if where.language == "traceql" and isinstance(node.get("service"), str):
            text = f'service.name="{node["service"]}" name="{node.get("operation", "")}" {node.get("tags", "")}'
            yield self._use("traceql", text, where.part, ())
        if where.language == "traceql" and isinstance(tag := node.get("tag"), str):
            yield self._use("traceql", f"span.{tag}", where.part, ())

    def _query(self, text: str, where: _Where, shown: tuple[str, ...]) -> Iterator[Use]:
        if found := _LABEL_VALUES.fullmatch(text.strip()):
            if found[1]:
                yield from self._asked(found[1], where._replace(language=where.language or "promql"), (*shown, found[2]))
        elif found := _QUERY_RESULT.fullmatch(text.strip()):
            yield from self._asked(found[1], where, shown)
        elif found := _METRICS.fullmatch(text.strip()):
            yield from self._asked(f'{{__name__=~".*(?:{found[1]}).*"}}', where, shown)
        else:
            yield from self._asked(text, where, shown)

    def _asked(self, text: str, where: _Where, shown: tuple[str, ...]) -> Iterator[Use]:
        language = where.language or _guess(text)
        texts = self._variables.filled_in(text) if language == "promql" else [text]
        yield from (self._use(language, one, where.part, shown) for one in texts)

    def _use(self, language: str, text: str, part: str, shown: tuple[str, ...]) -> Use:
        return Use("dashboard", self._name, language, text, part, tuple(sorted({*shown})), self._file)


def _language_of(kind: Any) -> str:
    words = kind.lower() if isinstance(kind, str) else ""
    return next((language for name, language in _LANGUAGES.items() if name in words), "")


def _language_of_type(type_name: Any) -> str:
    """Tell the language of a type of data sources, none for an unknown one."""
    return _language_of(type_name) or (_OTHER if isinstance(type_name, str) and type_name and "$" not in type_name else "")


def _guess(text: str) -> str:
    """Tell the language of a query of an unknown source."""
    start = text.lstrip()
    if start.startswith("{") and re.search(r"\b(?:span|resource)\.|\bname\s*=", text):
        return "traceql"
    return "logql" if is_logql(text) else "promql"


def _legend(node: Node) -> Iterator[str]:
    texts = [node.get(name) for name in ("legendFormat", "titleFormat", "textFormat")]
    yield from (label for text in texts if isinstance(text, str) for label in _LEGEND.findall(text))
    keys = node.get("tagKeys")
    yield from keys.replace(" ", "").split(",") if isinstance(keys, str) else ()


def _shown(panel: Node) -> tuple[str, ...]:
    """Return the labels and fields that a panel names in its columns, overrides and links."""
    found: set[str] = set()
    waiting: list[tuple[Any, int]] = [
        (value, 0) for name, value in panel.items() if name not in ("targets", "panels", "datasource")
    ]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, str):
            found |= {*_SHOWN.findall(node)}
        if depth > _MOST_NESTED:
            continue
        if isinstance(node, list):
            waiting += [(one, depth + 1) for one in node]
        elif isinstance(node, Mapping):
            waiting += [(one, depth + 1) for one in node.values()]
            for name in _TRANSFORMED & node.keys():
                found |= {str(key) for key in node[name]} if isinstance(node[name], Mapping) else set()
            if node.get("id") == "byName" and isinstance(node.get("options"), str):
                found.add(node["options"])
    return tuple(sorted(found))
