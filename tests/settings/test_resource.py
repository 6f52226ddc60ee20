"""Who a process says it is, by the settings and by OpenTelemetry's variables."""

from typing import Any

import pytest

from sage_fastapi_obs import Settings
from sage_fastapi_obs.settings.resource import resource_of

NAME, VERSION, INSTANCE, PLACE = "service.name", "service.version", "service.instance.id", "deployment.environment.name"


@pytest.mark.parametrize(
    ("env", "service", "expected"),
    [
        ({}, {}, {NAME: "unknown_service", VERSION: "0.0.0", PLACE: "development"}),
        ({"OTEL_SERVICE_NAME": "shop"}, {}, {NAME: "shop"}),
        ({"OTEL_SERVICE_NAME": "shop", "OTEL_RESOURCE_ATTRIBUTES": f"{NAME}=other"}, {}, {NAME: "shop"}),
        ({"OTEL_SERVICE_NAME": "", "OTEL_RESOURCE_ATTRIBUTES": f"{NAME}=other"}, {}, {NAME: "other"}),
        ({"OTEL_SERVICE_NAME": "shop"}, {"name": "mine"}, {NAME: "mine"}),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": f"{VERSION}=7,{PLACE}=live,{INSTANCE}=pod-1,team=blue%20one"},
            {"name": "mine"},
            {NAME: "mine", VERSION: "7", PLACE: "live", INSTANCE: "pod-1", "team": "blue one"},
        ),
        ({"OTEL_RESOURCE_ATTRIBUTES": f"{VERSION}=,{NAME}="}, {}, {NAME: "unknown_service", VERSION: "0.0.0"}),
        ({"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=live"}, {}, {PLACE: "live", "deployment.environment": "live"}),
        ({"OTEL_RESOURCE_ATTRIBUTES": f"{PLACE}=newer,deployment.environment=older"}, {}, {PLACE: "newer"}),
        ({"OTEL_RESOURCE_ATTRIBUTES": f"{PLACE}=live"}, {"environment": "test"}, {PLACE: "test"}),
    ],
)
def test_what_is_said_is_stronger_than_what_is_assumed(
    env: dict[str, str], service: dict[str, Any], expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings first, then `OTEL_SERVICE_NAME`, then `OTEL_RESOURCE_ATTRIBUTES`, then our defaults; all else is passed on."""
    for name in ("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    found = resource_of(Settings(service=service).service).attributes
    assert {name: found[name] for name in expected} == expected
    assert found[INSTANCE] == resource_of(Settings().service).attributes[INSTANCE]
    from_env = resource_of(Settings.from_env(service=service).service).attributes
    assert {name: from_env[name] for name in expected if name != PLACE} == {
        name: value for name, value in expected.items() if name != PLACE
    }
