"""What the contract of an app has: what is built, what is declared, and what settings make of it."""

from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Histogram

from sage_fastapi_obs import Observability, Settings, declare_counter
from sage_fastapi_obs.contract.app_contract import contract_of
from sage_fastapi_obs.contract.comparison import compare
from sage_fastapi_obs.contract.comparison_text import comparison_text
from sage_fastapi_obs.contract.query_needs import needs_of
from sage_fastapi_obs.contract.telemetry_contract import Contract, ContractError, MetricTerms
from sage_fastapi_obs.inspection.inspected_app import InspectedApp
from sage_fastapi_obs.settings.inspection_mode import inspection_mode

SEATS = declare_counter("contract_seats_total", "Declared, and never used.", {"row": ("front", "back")})


async def read(registry: CollectorRegistry | None = None, **sections: Any) -> Contract:
    """Build an app with some settings, and read its contract."""
    with inspection_mode():
        app = FastAPI()
        Observability(Settings(service={"name": "hall"}, **sections), registry=registry).install(app)
        return await contract_of(InspectedApp("hall:app", app))


async def test_metrics_are_there_before_they_are_used() -> None:
    """Those that are declared, those of a registry that the app fills itself, and those of older names."""
    registry = CollectorRegistry()
    Counter("hall_doors", "Doors.", ["side"], registry=registry)
    Histogram("hall_wait_seconds", "Wait.", ["side"], buckets=(1, 2), registry=registry)
    found = (await read(registry, metrics={"compat_aliases": True})).metrics
    assert found["contract_seats_total"] == MetricTerms("counter", {"row": ("front", "back")})
    assert found["hall_doors_total"] == MetricTerms("counter", {"side": ()})
    assert found["hall_wait_seconds"] == MetricTerms("histogram", {"side": ()}, (1.0, 2.0))
    assert found["memory_usage_bytes"] == MetricTerms("gauge")
    assert found["result_duration_ms"].labels == {"operation": (), "status": ("success", "failure")}
    assert found["http_requests_total"].labels.keys() == {"method", "route", "status"}
    older = (await read(metrics={"compat_aliases": ["sage"], "packs": ["sage"]})).metrics
    assert older["sage_handshakes_total"].labels["status"] == ("success", "error")
    assert older["sage_encryption_errors_total"].labels["operation"] == ("encrypt", "decrypt")
    assert (await read(metrics={"enabled": False})).metrics == {}


async def test_lines_and_spans_are_those_of_the_settings() -> None:
    """Aliases, levels, formats and switches count, and what is hidden."""
    plain = await read(
        logging={"level": "warn", "field_aliases": {"error": "fault"}, "redact": ["iban"], "show_only": ["seat"]}
    )
    assert {"duration_ms", "fault", "fault.type"} <= {*plain.fields}
    assert "error" not in plain.fields
    assert plain.levels == ("warn", "error", "critical")
    assert plain.hidden == ("iban", "names that are always secret", "all extra fields but seat")
    assert {"http.route", "error.type", "sage.kept", "sage.why"} <= {*plain.attributes}
    console = await read(logging={"format": "console", "redact_builtin": False}, tracing={"enabled": False})
    assert (console.fields, console.levels, console.attributes, console.hidden) == ((), (), (), ())


async def test_rules_in_process_and_in_prometheus_are_one() -> None:
    """A rule has the name that its runbook has; where both judge it differently, the contract has both."""
    rule = {"name": "HighErrorRate", "metric": "http_requests_total", "condition": ">", "threshold": 5}
    plain, changed = await read(), await read(alerts={"rules": [rule]})
    assert {"HighErrorRate", "ResultHighErrorRate", "ServiceDown"} <= plain.rules.keys()
    # Each query of ours is understood.
    assert {needs_of(use, plain, {})[1] for use in plain.used_by} == {""}
    assert "in process" not in plain.rules["HighErrorRate"]
    assert plain.rules["HighErrorRate"] != changed.rules["HighErrorRate"]
    text = comparison_text(compare(plain, changed, []), [])
    assert "the rule HighErrorRate has changed\n  was sum" in text
    assert "\n  changes runbook HighErrorRate: is about HighErrorRate, which fires at something else\n" in text


async def test_an_app_that_nobody_watches_has_none() -> None:
    """There is nothing that it promises."""
    with pytest.raises(ContractError, match="hall:app has no Observability"):
        await contract_of(InspectedApp("hall:app", FastAPI()))
