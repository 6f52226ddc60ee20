"""What queries need, whatever language they are in; those about logs and traces are read word by word."""

import re
from collections.abc import Iterable, Iterator, Mapping

from sage_fastapi_obs.contract.needs import AttributeNeed, FieldNeed, LabelNeed, MetricNeed, Need, RuleNeed, ValueNeed
from sage_fastapi_obs.contract.promql_needs import UnreadableError, promql_needs
from sage_fastapi_obs.contract.telemetry_contract import Contract, Use

_TEXT = r'"(?:\\.|[^"\\])*"|`[^`]*`'
_TOKEN = re.compile(
    rf"(?P<text>{_TEXT})|(?P<name>[A-Za-z_@][\w.]*)(?:\s*(?P<operator>=~|!~|!=|==?|:)\s*(?P<value>{_TEXT}|[\w./]+)?)?"
)
_TEMPLATE = re.compile(r"\{\{([^{}]*)\}\}")
_OF_TEMPLATE = re.compile(r"\.([A-Za-z_]\w*)")
_KEY = re.compile(r'(?<!\w)([A-Za-z_@]\w*)\\?"\s*:')
_ATTRIBUTE = re.compile(r"(?:\b(?:span|resource|event|link))?\.?(?<!\w)([A-Za-z_]\w*(?:\.\w+)+)")
_SPAN_NAME = re.compile(r'\bname\s*=\s*"(?:[A-Z]+ )?(/[^"]*)"')
_ROUTE = re.compile(r'\bhttp\.route\s*=\s*"?([^"\s}]+)')
_SERVICE = re.compile(r'\bservice\.name\s*=\s*"([^"]+)"')
_WORD = re.compile(r"[A-Za-z_:][\w:]*")
_SHORTEST_RULE = 6
"""Characters: a shorter name may be a word of the language."""


def needs_of(use: Use, known: Contract, recorded: Mapping[str, str]) -> tuple[set[Need], str]:
    """Return what a query needs, and why it could only be searched for names; empty where it was understood.

    `recorded`: expressions of recording rules, by the names of their series.
    """
    match use.language:
        case "promql":
            try:
                return promql_needs(use.text, use.shown, known, recorded), ""
            except UnreadableError as error:
                return {*_words(use.text, known), *_labels(use, known)}, str(error).strip()
        case "logql" | "lucene":
            return {*_fields(use, known)}, ""
        case "traceql":
            return {*_attributes(use.text, known)}, ""
    return {*_words(use.text, known), *_rules(use, known), *_named_fields(use.shown, known)}, ""


def _fields(use: Use, known: Contract) -> Iterator[Need]:
    names = _field_names(known)
    yield from _named_fields(use.shown, known)
    for token in _TOKEN.finditer(use.text):
        text, name, operator, value = token.group("text", "name", "operator", "value")
        field = names.get((name or "").removesuffix(".keyword"))
        for quoted in filter(None, (text, value)):
            # What a field is compared with is no name of a field.
            found = {*_KEY.findall(quoted)} | ({quoted[1:-1]} if field is None else set())
            found |= {one for template in _TEMPLATE.findall(quoted) for one in _OF_TEMPLATE.findall(template)}
            yield from _named_fields(found, known)
        if name == "_exists_" and value and value in names:
            yield FieldNeed(names[value])
        if field is not None:
            sign = {":": "=", "==": "="}.get(operator or "", operator or "")
            yield FieldNeed(field, sign, (value or "").strip('"`')) if value else FieldNeed(field)


def _field_names(known: Contract) -> dict[str, str]:
    """Return the fields by all their names: nested ones are joined by a dot or by an underscore."""
    return {field.replace(".", "_"): field for field in known.fields} | {field: field for field in known.fields}


def _named_fields(shown: Iterable[str], known: Contract) -> Iterator[Need]:
    names = _field_names(known)
    yield from (FieldNeed(field) for name in shown if (field := names.get(name.removesuffix(".keyword"))))


def _attributes(text: str, known: Contract) -> Iterator[Need]:
    yield from (AttributeNeed(name) for name in _ATTRIBUTE.findall(text) if name in known.attributes)
    yield from (ValueNeed("", "route", "=", route) for found in (_SPAN_NAME, _ROUTE) for route in found.findall(text))
    yield from (ValueNeed("", "service", "=", name) for name in _SERVICE.findall(text))


def _words(text: str, known: Contract) -> Iterator[Need]:
    yield from (MetricNeed(known.series[word]) for word in {*_WORD.findall(text)} if word in known.series)
    yield from (AttributeNeed(name) for name in _ATTRIBUTE.findall(text) if name in known.attributes)


def _labels(use: Use, known: Contract) -> Iterator[Need]:
    words = {*_WORD.findall(use.text), *use.shown}
    for metric in {known.series[word] for word in words if word in known.series}:
        yield from (LabelNeed(metric, label) for label in known.metrics[metric].labels.keys() & words)


def _rules(use: Use, known: Contract) -> Iterator[Need]:
    words = {*_WORD.findall(use.text), use.name}
    yield from (RuleNeed(name) for name in known.rules.keys() & words if len(name) >= _SHORTEST_RULE)
