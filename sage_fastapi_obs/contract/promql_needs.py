"""What a PromQL expression needs: metrics, labels that reach a grouping or a legend, values, buckets."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import promql_parser as promql

from sage_fastapi_obs.alerting.label_matchers import matcher
from sage_fastapi_obs.contract.grafana_variables import UNKNOWN
from sage_fastapi_obs.contract.needs import EVERY_LABEL, BucketsNeed, LabelNeed, MetricNeed, Need, RuleNeed, ValueNeed
from sage_fastapi_obs.contract.query_text import MOST_CHARACTERS, without_texts
from sage_fastapi_obs.contract.telemetry_contract import TARGET_LABELS, Contract
from sage_fastapi_obs.errors import SettingsError

_MOST_NESTED = 64
_MOST_OPERATORS = 150
_MOST_RECORDED = 1_000
"""Expressions of recording rules that are read for one expression."""
_OPERATOR = re.compile(r"[-+*/%^<>=!]+|\b(?:and|or|unless)\b")
_ALERTS = ("ALERTS", "ALERTS_FOR_STATE")
_OPERATORS = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}
_WHOLE_SERIES = frozenset({"topk", "bottomk", "limitk", "limit_ratio"})
"""Aggregations that leave their series as they are."""
_WITHOUT_LABELS = frozenset({"absent", "absent_over_time", "scalar"})
_QUANTILES = frozenset({"histogram_quantile", "histogram_fraction"})
_COMPARED = frozenset({">", ">="})
_SETS = frozenset({"or"})
_NONE: frozenset[str] = frozenset()
_TOO_MANY = "its recording rules are too many, one in the other"


class UnreadableError(ValueError):
    """An expression cannot be parsed."""


def promql_needs(text: str, shown: Iterable[str], known: Contract, recorded: Mapping[str, str]) -> set[Need]:
    """Return what an expression needs of the metrics and rules of a contract.

    `shown`: labels that are shown of its answer. `recorded`: expressions of recording rules, whose needs are its own.
    Raises `UnreadableError`.
    """
    reader = _Reader(known, recorded)
    try:
        reader.read(text, frozenset(shown))
    except RecursionError:
        raise UnreadableError(_TOO_MANY) from None
    return reader.needs


def _parsed(text: str) -> promql.Expr:
    if len(text) > MOST_CHARACTERS:
        raise UnreadableError("it is too long")
    bare = without_texts(text)
    nested = deepest = 0
    for character in bare:
        nested += (character in "([{") - (character in ")]}")
        deepest = max(deepest, nested)
    # The parser goes as deep as an expression does, and ends the process where that is too deep.
    if deepest > _MOST_NESTED or len(_OPERATOR.findall(bare)) > _MOST_OPERATORS:
        raise UnreadableError("it is too long")
    if re.search(r"[-+](?:\s*[-+]){8}", bare):
        raise UnreadableError("it has too many signs")
    try:
        return promql.parse(text)
    except ValueError as error:
        raise UnreadableError(str(error)) from None


class _Reader:
    """Goes through an expression from the outside, and knows which labels are wanted of each part."""

    def __init__(self, known: Contract, recorded: Mapping[str, str]) -> None:
        self.needs: set[Need] = set()
        self._known, self._recorded = known, recorded
        self._done: set[tuple[str, frozenset[str]]] = set()

    def read(self, text: str, wanted: frozenset[str]) -> None:
        """Read an expression of which some labels are wanted."""
        self._visit(_parsed(text), wanted)

    def _visit(self, part: Any, wanted: frozenset[str]) -> None:
        match part:
            case promql.VectorSelector():
                self._selected(part, wanted)
            case promql.MatrixSelector():
                self._selected(part.vector_selector, wanted)
            case promql.AggregateExpr():
                self._aggregate(part, wanted)
            case promql.BinaryExpr():
                self._binary(part, wanted)
            case promql.Call():
                self._call(part, wanted)
            case promql.ParenExpr() | promql.UnaryExpr() | promql.SubqueryExpr():
                self._visit(part.expr, wanted)
            case _:
                """A number or a text."""

    def _aggregate(self, part: Any, wanted: frozenset[str]) -> None:
        name, modifier = str(part.op), part.modifier
        labels = frozenset(modifier.labels) if modifier else _NONE
        if name == "count_values" and isinstance(part.param, promql.StringLiteral):
            wanted -= {part.param.val}
        if name in _WHOLE_SERIES:
            self._visit(part.expr, wanted | labels)
        elif modifier is not None and modifier.type == promql.AggModifierType.Without:
            self._visit(part.expr, wanted - labels)
        else:
            self._visit(part.expr, labels)

    def _binary(self, part: Any, wanted: frozenset[str]) -> None:
        number = next((side.val for side in map(_bare, (part.lhs, part.rhs)) if isinstance(side, promql.NumberLiteral)), None)
        if number is not None:
            self._compared(part, number)
        matching = part.modifier.matching if part.modifier else None
        both = wanted
        if matching is not None and matching.type == promql.LabelModifierType.Include:
            both |= frozenset(matching.labels)
        elif number is None and str(part.op) not in _SETS and self._metrics(part.lhs) != self._metrics(part.rhs):
            both |= {EVERY_LABEL}
        # Each side is read once: as often as it is read, so often twice are those in it.
        of_one = both | frozenset(part.modifier.group_labels or ()) if part.modifier else both
        is_left = part.modifier is not None and part.modifier.card == promql.VectorMatchCardinality.OneToMany
        self._visit(part.lhs, of_one if is_left else both)
        self._visit(part.rhs, both if is_left else of_one)

    def _compared(self, part: Any, number: float) -> None:
        is_above = str(part.op) in _COMPARED and isinstance(_bare(part.rhs), promql.NumberLiteral)
        if is_above and _has_quantile(part.lhs):
            self.needs |= {BucketsNeed(metric, threshold=number) for metric in self._metrics(part.lhs)}

    def _call(self, part: Any, wanted: frozenset[str]) -> None:
        name, texts = part.func.name, [one.val for one in part.args if isinstance(one, promql.StringLiteral)]
        if name == "label_replace" and len(texts) == 4:
            wanted = wanted - {texts[0]} | {texts[2]}
        elif name == "label_join" and len(texts) > 1:
            wanted = wanted - {texts[0]} | set(texts[2:])
        elif name.startswith("sort_by_label"):
            wanted |= set(texts)
        elif name in _WITHOUT_LABELS:
            wanted = _NONE
        if name in _QUANTILES:
            self.needs |= {BucketsNeed(metric) for metric in self._metrics(part)}
        for argument in part.args:
            self._visit(argument, wanted)

    def _selected(self, selector: Any, wanted: frozenset[str]) -> None:
        matchers = [(one.name, _OPERATORS[_word(one.op)], one.value) for one in _matchers(selector)]
        for label, operator, text in matchers:
            if label in TARGET_LABELS:
                self.needs.add(ValueNeed("", label, operator, text))
        name = selector.name or ""
        if name in _ALERTS:
            self._alerts(matchers)
        elif name in self._recorded and name not in self._known.series:
            self._inlined(name, wanted | {label for label, _, _ in matchers})
        for metric in self._named(selector):
            self._of_metric(metric, matchers, wanted)

    def _inlined(self, name: str, wanted: frozenset[str]) -> None:
        if (name, wanted) not in self._done:
            self._done.add((name, wanted))
            if len(self._done) > _MOST_RECORDED:
                raise UnreadableError(_TOO_MANY)
            self.read(self._recorded[name], wanted)

    def _of_metric(self, metric: str, matchers: list[tuple[str, str, str]], wanted: frozenset[str]) -> None:
        self.needs.add(MetricNeed(metric))
        had = self._known.metrics[metric].labels.keys() | {EVERY_LABEL}
        if "path" not in had:
            matchers = [("route" if label == "path" else label, operator, text) for label, operator, text in matchers]
            wanted = frozenset({"route" if label == "path" else label for label in wanted})
        self.needs |= {LabelNeed(metric, label) for label in (wanted | {label for label, _, _ in matchers}) & had}
        for label, operator, text in matchers:
            if label == "le" and operator == "=" and (bound := _number(text)) is not None:
                self.needs.add(BucketsNeed(metric, bound=bound))
            elif label in had:
                self.needs.add(ValueNeed(metric, label, operator, text))

    def _alerts(self, matchers: list[tuple[str, str, str]]) -> None:
        for label, operator, text in matchers:
            if label == "alertname" and operator in ("=", "=~"):
                self.needs |= {RuleNeed(name) for name in _matching(f"{operator}{text}", self._known.rules)}

    def _named(self, selector: Any) -> set[str]:
        """Return the metrics that a selector finds by its name, which may be a matcher like others."""
        series, name = self._known.series, selector.name
        if name == UNKNOWN:
            raise UnreadableError("a variable of Grafana is its metric")
        if name and UNKNOWN in name:
            return {series[found] for found in _matching("=~" + name.replace(UNKNOWN, ".*"), series)}
        if name:
            return {series[name]} if name in series else set()
        names = [(f"{_OPERATORS[_word(one.op)]}{one.value}") for one in _matchers(selector) if one.name == "__name__"]
        return {series[found] for text in names if not text.startswith("!") for found in _matching(text, series)}

    def _metrics(self, part: Any) -> set[str]:
        """Return all metrics that a part asks for."""
        return {metric for selector in _selectors(part) for metric in self._named(selector)}


def _selectors(part: Any) -> Iterator[Any]:
    waiting = [part]
    while waiting:
        one = waiting.pop()
        if isinstance(one, promql.VectorSelector):
            yield one
        children = [getattr(one, name, None) for name in ("vector_selector", "expr", "lhs", "rhs")]
        waiting += [child for child in (*children, *getattr(one, "args", ())) if isinstance(child, promql.Expr)]


def _matching(text: str, names: Iterable[str]) -> Iterator[str]:
    try:
        yield from filter(matcher(text), names)
    except SettingsError:
        return


def _matchers(selector: Any) -> list[Any]:
    return [*selector.matchers.matchers, *(one for some in selector.matchers.or_matchers for one in some)]


def _word(value: Any) -> str:
    return str(value).rpartition(".")[2]


def _bare(part: Any) -> Any:
    while isinstance(part, promql.ParenExpr):
        part = part.expr
    return part


def _has_quantile(part: Any) -> bool:
    part = _bare(part)
    if isinstance(part, promql.Call):
        return part.func.name == "histogram_quantile" or any(map(_has_quantile, part.args))
    return isinstance(part, promql.AggregateExpr) and _has_quantile(part.expr)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
