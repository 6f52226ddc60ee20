"""Dashboards and queries are held against Grafana's own types and the grammars of the query languages."""

import copy
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from running import DEMO, lacking
from support import PATIENCE_SECONDS

from sage_fastapi_obs.export.grafana import dashboards

pytestmark = pytest.mark.stack

HERE = Path(__file__).parent / "grafana"
ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "grafana/dashboards").glob("*.json"))
BESIDE_THE_TYPES = {"auto", "auto_count", "auto_min", "expr", "footer", "step", "tagKeys", "textFormat", "titleFormat"}
"""Written by Grafana's SDK for its servers, and not in its types: the interval of a variable, and what the Prometheus
data source reads in an annotation."""
QUERY_PAGES = {"promql": "promql", "logql": "logql", "traceql": "traceql"}


def node(*command: str, asked: str = "") -> str:
    """Run something that npm has installed."""
    if shutil.which("node") is None or not (HERE / "node_modules").is_dir():
        lacking("Grafana's types are not installed: make servers, with Node.js")
    done = subprocess.run(
        ["node", *command], cwd=HERE, input=asked, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def types() -> dict[str, Any]:
    """Write Grafana's types as a JSON schema."""
    generator = "node_modules/ts-json-schema-generator/bin/ts-json-schema-generator.js"
    return json.loads(node(generator, "--path", "types.ts", "--type", "Checked", "--no-type-check"))


def complaints(types: dict[str, Any], drawn: dict[str, Any]) -> list[str]:
    """Say what a dashboard has that the types do not allow."""
    panels = [panel for row in drawn["panels"] for panel in (row, *row.get("panels", ())) if panel["type"] != "row"]
    found = _errors(types, ("dashboard",), drawn)
    for panel in panels:
        found += _errors(types, ("options", panel["type"]), panel.get("options", {}))
        custom = panel["fieldConfig"]["defaults"].get("custom") if "fieldConfig" in panel else None
        if custom:
            found += _errors(types, ("fields", panel["type"]), custom)
    return found


def _errors(types: dict[str, Any], path: tuple[str, ...], value: Any) -> list[str]:
    part = types["definitions"]["Checked"]
    for name in path:
        part = part["properties"][name]
    validator = jsonschema.Draft7Validator({"definitions": types["definitions"], "allOf": [part]})
    return [f"{list(error.absolute_path)}: {error.message}" for error in validator.iter_errors(value) if not _is_known(error)]


def _is_known(error: jsonschema.ValidationError) -> bool:
    if error.validator != "additionalProperties" or not isinstance(error.instance, dict):
        return False
    return set(error.instance) - set(error.schema["properties"]) <= BESIDE_THE_TYPES


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_what_grafana_takes(types: dict[str, Any], path: Path):
    """The file has nothing but what the types of Grafana's schema and of its panels allow."""
    assert complaints(types, json.loads(path.read_text())) == []


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("panels", 1, "gridPos", "w"), "wide"),
        (("panels", 1, "options", "graphMode"), "round"),
        (("panels", 7, "fieldConfig", "defaults", "custom", "showPoints"), "perhaps"),
        (("panels", 7, "colour"), "red"),
        (("refresh",), 30),
        (("title",), []),
    ],
)
def test_a_broken_dashboard_is_noticed(types: dict[str, Any], where: tuple[Any, ...], value: Any):
    """The check above can fail: a wrong word, type or key anywhere is found."""
    drawn = copy.deepcopy(json.loads((ROOT / "grafana/dashboards/service.json").read_text()))
    inner = drawn
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    assert complaints(types, drawn)


def pages(language: str) -> list[str]:
    """Collect the queries of the documents: fenced blocks of a language, a query each."""
    texts = [page.read_text() for folder in ("queries", "docs") for page in sorted((ROOT / folder).rglob("*.md"))]
    blocks = [block.split("```")[0] for text in texts for block in text.split(f"```{language}\n")[1:]]
    return [query.strip() for block in blocks for query in block.split("\n\n") if query.strip()]


def plain(text: str) -> str:
    """Put a value in the place of Grafana's words."""
    for word in ("$__rate_interval", "$__range", "$__auto"):
        text = text.replace(word, "5m")
    for word in ("$job", "$service", "$instance"):
        text = text.replace(word, "any")
    return text


def test_every_query_is_of_its_language():
    """Queries of dashboards and documents have no error, in the grammars of PromQL, LogQL and TraceQL."""
    asked: dict[str, list[str]] = {language: pages(language) for language in QUERY_PAGES}
    assert all(asked.values())
    names = {"prometheus": "promql", "loki": "logql"}
    for board in dashboards(DEMO):
        for panel in board.panels:
            for query in panel.queries:
                if query.store in names:
                    asked[names[query.store]].append(plain(query.text))
    refused = json.loads(node("errors.mjs", asked=json.dumps(asked)))
    assert refused == {language: [] for language in asked}


def test_a_wrong_query_is_noticed():
    """The check above can fail, in each language."""
    wrong = {"promql": ["rate(up[5m)"], "logql": ['{a="b"} |'], "traceql": ["{ status = "]}
    assert json.loads(node("errors.mjs", asked=json.dumps(wrong))) == wrong
