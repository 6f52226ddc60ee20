"""What Kibana imports: objects that find one another, about fields that documents have."""

import json
import re
from typing import Any

from demo import ROOT

OBJECTS = [json.loads(row) for row in (ROOT / "deploy/logging/kibana/saved-objects.ndjson").read_text().splitlines()]
TEMPLATE = json.loads((ROOT / "deploy/logging/elasticsearch/index-template.json").read_text())
QUERY = json.loads((ROOT / "queries/kibana-errors-last-hour.json").read_text())


def attributes(kind: str, name: str) -> dict[str, Any]:
    """Find an object; texts that are JSON themselves are read."""
    (found,) = (one["attributes"] for one in OBJECTS if (one["type"], one["id"]) == (kind, name))
    return {key: json.loads(value) if key.endswith("JSON") or key == "visState" else value for key, value in found.items()}


def source(kind: str, name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads(attributes(kind, name)["kibanaSavedObjectMeta"]["searchSourceJSON"])
    return read


def mapped(field: str) -> bool:
    """Tell whether the template has a field, or a field inside of it."""
    known: Any = {"properties": TEMPLATE["template"]["mappings"]["properties"]}
    for part in field.split("."):
        known = {**known.get("properties", {}), **known.get("fields", {})}.get(part)
        if known is None:
            return False
    return True


def test_every_object_is_found_by_those_that_refer_to_it():
    """References lead to objects of the file, and names inside of objects to their references."""
    there = {(one["type"], one["id"]) for one in OBJECTS}
    assert len(there) == len(OBJECTS) == 5
    for one in OBJECTS:
        assert {(each["type"], each["id"]) for each in one["references"]} <= there
        asked = re.findall(r'(?:panelRefName|indexRefName)\\+": \\+"([\w.-]+)', json.dumps(one))
        assert sorted(asked) == sorted(each["name"].rpartition(":")[2] for each in one["references"])


def test_the_data_view_is_about_the_indices_of_the_template():
    """It covers them all, by the time that documents have."""
    view = attributes("index-pattern", "ai-textbook")
    assert [view["title"]] == TEMPLATE["index_patterns"]
    assert mapped(view["timeFieldName"])


def test_search_and_charts_ask_what_the_query_asks():
    """Errors of the last hour, the ten services with most: like the query for those who have no Kibana."""
    level, time = QUERY["query"]["bool"]["must"]
    search = attributes("search", "errors")
    assert search["timeRange"] == {"from": time["range"]["@timestamp"]["gte"], "to": "now"}
    for kind, name in (("search", "errors"), ("visualization", "errors-by-service"), ("visualization", "errors-over-time")):
        assert source(kind, name)["query"] == {"query": f"level: {level['term']['level']}", "language": "kuery"}
    wanted = QUERY["aggs"]["errors_by_service"]["terms"]
    for name in ("errors-by-service", "errors-over-time"):
        (terms,) = (agg["params"] for agg in attributes("visualization", name)["visState"]["aggs"] if agg["type"] == "terms")
        assert {"field": terms["field"], "size": terms["size"]} == wanted
    assert all(map(mapped, [*search["columns"], search["sort"][0][0], wanted["field"]]))


def test_the_dashboard_shows_all_of_them_side_by_side():
    """No panel lies on another, and each is one of the objects."""
    panels = attributes("dashboard", "errors-by-service")["panelsJSON"]
    assert {(one["type"], one["panelIndex"]) for one in panels} == {
        (one["type"], one["id"]) for one in OBJECTS if one["type"] in {"search", "visualization"}
    }
    cells = [
        (x, y)
        for grid in (one["gridData"] for one in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]
    assert len(cells) == len(set(cells)) == 48 * 32
