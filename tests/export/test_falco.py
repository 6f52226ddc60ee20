"""Rules for Falco: the filter engine that it is built on takes their conditions, and what they say reaches people."""

import re
import subprocess
from typing import Any

import pytest
import yaml
from demo import ROOT, SERVICES, service
from servers import need

from sage_fastapi_obs.export import alertmanager, falco

RULES = falco.rules(SERVICES)
NAMED = [entry for entry in RULES if "rule" in entry]
COMPOSED = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
DELIVERED = {"open", "openat", "openat2", "sendto", "sendmsg"}
"""System calls of the rules that Falco delivers without its switch -A; read and write are not among those."""


def expanded(condition: str, rules: list[dict[str, Any]]) -> str:
    """Put macros and lists in, as Falco does."""
    for entry in reversed(rules):
        if "macro" in entry:
            condition = re.sub(rf"\b{entry['macro']}\b", entry["condition"], condition)
    for entry in rules:
        if "list" in entry:
            condition = condition.replace(f"({entry['list']})", f"({', '.join(entry['items'])})")
    return condition


def refused(condition: str) -> str:
    """Have sysdig compile a condition, which it does before it looks for its driver; return what is wrong with it."""
    done = subprocess.run([need("sysdig", "sysdig"), condition], capture_output=True, text=True, check=False)
    return "".join(re.findall("filter error.*", done.stdout + done.stderr))


@pytest.mark.stack
@pytest.mark.parametrize("rule", NAMED, ids=lambda rule: rule["rule"])
def test_a_condition_is_one(rule: dict[str, Any]):
    """The filter engine takes it with all that it refers to, and refuses it with a field that there is not."""
    condition = expanded(rule["condition"], RULES)
    assert refused(condition) == ""
    assert "unrecognized field" in refused(condition.replace("evt.type", "evt.kind"))


def test_rules_are_the_documented_ones():
    """Both have their names and priorities, and look at calls that Falco delivers by default."""
    assert {rule["rule"]: rule["priority"] for rule in NAMED} == {
        "Unauthorized API Access": "WARNING",
        "Suspicious Database Query": "CRITICAL",
    }
    for rule in NAMED:
        assert {*re.findall(r"\w+", re.search(r"evt\.type in \(([^)]*)\)", rule["condition"])[1])} <= DELIVERED


def test_watched_folders_are_those_of_the_settings():
    """Code is looked for where the settings say that it is; by default where the example's image has it."""
    (macro,) = (entry["condition"] for entry in RULES if entry.get("macro") == "api_sources")
    assert macro == "(fd.name startswith /app/)"
    assert re.search("^WORKDIR /app\n(?:.*\n)*COPY example_app ./example_app$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    two = falco.rules([service(export={"code_paths": ["/srv/api/", "/opt/shop"]}), service("other")])
    (macro,) = (entry["condition"] for entry in two if entry.get("macro") == "api_sources")
    assert macro == "(fd.name startswith /app/ or fd.name startswith /opt/shop/ or fd.name startswith /srv/api/)"


def test_events_go_to_alertmanager_by_way_of_falcosidekick():
    """Each step names the next one by its address in the stack, and the labels are those that Alertmanager groups by."""
    options = COMPOSED["falco"]["command"]
    assert options[0] == "/usr/bin/falco"
    set_to = dict(option.split("=", 1) for option in options if "=" in option)
    assert set_to["http_output.url"] == "http://falcosidekick:2801/"
    assert (set_to["json_output"], set_to["http_output.enabled"]) == ("true", "true")
    environment = COMPOSED["falcosidekick"]["environment"]
    assert environment["ALERTMANAGER_HOSTPORT"] == "http://alertmanager:9093"
    assert environment["ALERTMANAGER_ENDPOINT"] == "/api/v2/alerts"
    labels = {pair.split(":")[0] for pair in environment["ALERTMANAGER_EXTRALABELS"].split(",")}
    assert labels <= {*alertmanager.configuration(SERVICES)["route"]["group_by"]}
    networks = {name: COMPOSED[name]["networks"] for name in ("falco", "falcosidekick", "alertmanager")}
    assert [*networks.values()] == [["stack"]] * 3
