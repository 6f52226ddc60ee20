"""The queries of rule files: those of Prometheus, Loki, the Prometheus operator and Grafana."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from sage_fastapi_obs.contract.query_text import is_logql
from sage_fastapi_obs.contract.telemetry_contract import Use

_TEMPLATE_LABEL = re.compile(r"(?:\$labels|\.Labels)\.(\w+)")


def rule_uses(document: Any, file: str = "") -> Iterator[Use]:
    """Yield the queries of the groups in a document, each with the labels that its texts show."""
    if not isinstance(document, Mapping):
        return
    for holder in (document, document.get("spec")):
        groups = holder.get("groups") if isinstance(holder, Mapping) else None
        for group in groups if isinstance(groups, list) else ():
            rules = group.get("rules") if isinstance(group, Mapping) else None
            yield from (use for rule in rules or () if isinstance(rule, Mapping) for use in _of_rule(rule, file))


def _of_rule(rule: Mapping[str, Any], file: str) -> Iterator[Use]:
    texts = [str(one) for name in ("annotations", "labels") for one in (rule.get(name) or {}).values()]
    shown = tuple(sorted({label for text in texts for label in _TEMPLATE_LABEL.findall(text)}))
    kind = "recording rule" if "record" in rule else "alert"
    name = str(rule.get("record") or rule.get("alert") or rule.get("title") or "without a name")
    asked = [rule.get("expr"), *_of_grafana(rule)]
    for text in (one for one in asked if isinstance(one, str) and one):
        yield Use(kind, name, "logql" if is_logql(text) else "promql", text, shown=shown, file=file)


def _of_grafana(rule: Mapping[str, Any]) -> Iterator[Any]:
    data = rule.get("data")
    for one in data if isinstance(data, list) else ():
        model = one.get("model") if isinstance(one, Mapping) else None
        if isinstance(model, Mapping):
            yield model.get("expr")


def recorded_in(uses: list[Use]) -> dict[str, str]:
    """Return the expressions of recording rules by the names of their series."""
    return {use.name: use.text for use in uses if use.kind == "recording rule" and use.language == "promql"}
