"""The settings in force, over HTTP: every one of them with where it came from, and no secret in any of them."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel

from sage_fastapi_obs import Observability, Settings

CANARY = "canary-4f1c9e"
URL = f"https://{CANARY}:{CANARY}@host.example:4318/v1?token={CANARY}&api_key={CANARY}"
TOKEN = f"{CANARY}-of-sixteen-or-more"


async def shown(settings: Settings) -> tuple[dict[str, dict[str, Any]], str]:
    """Return what the page says of each setting, by `section.name`, and its whole text."""
    app = FastAPI()
    Observability(settings).install(app)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        answer = await client.get("/monitoring/settings")
    assert answer.status_code == 200, answer.text
    sections = answer.json()["sections"]
    named = {f"{section['name']}.{one['name']}".lstrip("."): one for section in sections for one in section["settings"]}
    return named, answer.text


def secrets_and_urls() -> dict[str, dict[str, str]]:
    """Make a value with the canary for each field that is a secret by its type, or a URL, which may hold a password."""
    found: dict[str, dict[str, str]] = {}
    for section, holder in Settings.model_fields.items():
        for name, field in getattr(holder.annotation, "model_fields", {}).items():
            if name.endswith(("_url", "_endpoint")):
                found.setdefault(section, {})[name] = URL
            elif "SecretStr" in repr(field.annotation):
                found.setdefault(section, {})[name] = TOKEN
    return found


async def test_no_secret_is_shown() -> None:
    """Whatever its type or name says is a secret, and the user and password of any URL, is nowhere on the page."""
    fields = secrets_and_urls()
    assert {"token"} <= fields["monitoring"].keys()
    assert {"slack_webhook_url", "pagerduty_routing_key", "smtp_password"} <= fields["notify"].keys()
    assert {"debug_token", "elasticsearch_api_key", "elasticsearch_url"} <= fields["logging"].keys()
    sections: dict[str, Any] = {section: {**values} for section, values in fields.items()}
    sections["logging"] |= {"enabled": False}
    sections["monitoring"] |= {"access": "open"}
    sections["alerts"] = {
        "rules": [
            {
                "name": "r",
                "metric": "m_total",
                "threshold": 1,
                "where": {"api_key": CANARY},
                "labels": {"password": CANARY, "team": "a"},
                "annotations": {"summary": f"see {URL}"},
            }
        ]
    }
    settings = Settings(**sections)
    found, text = await shown(settings)
    assert CANARY not in text
    for section, names in fields.items():
        for name in names:
            assert "REDACTED" in str(found[f"{section}.{name}"]["value"]), name
    (rule,) = found["alerts.rules"]["value"]
    assert rule["labels"] == {"password": "REDACTED", "team": "a"}


async def test_every_setting_is_there_with_its_help() -> None:
    """Each field of the schema once, with the value in force and the sentence that the documentation has."""
    settings = Settings(monitoring={"access": "open"}, logging={"enabled": False})
    found, _ = await shown(settings)
    schema = {
        f"{section}.{name}" if name else section
        for section, holder in Settings.model_fields.items()
        for name in (getattr(holder.annotation, "model_fields", None) or [""])
    }
    assert found.keys() == schema
    assert all(one["help"] for one in found.values())
    assert (found["metrics.path"]["value"], found["metrics.path"]["source"]) == ("/metrics", "default")
    assert (found["logging.enabled"]["value"], found["logging.enabled"]["source"]) == (False, "code")
    assert found["service.name"]["value"] == settings.service.name
    assert found["tracing.trusted_networks"]["value"] == []


async def test_each_source_is_named(tmp_path: Path) -> None:
    """The file without its folder, the variable, the file of a secret, the preset, the code, and another setting."""
    pytest.importorskip("yaml")
    file = tmp_path / "shop.yaml"
    file.write_text("service: {version: '7'}\nlogging: {level: warn}\nmetrics: {max_routes: 5}")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "sage_obs_monitoring__token").write_text(TOKEN)
    env = {
        "APP_ENV": "production",
        "OTEL_SERVICE_NAME": "shop",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces",
        "SAGE_OBS_METRICS__MAX_ROUTES": "6",
        "SAGE_OBS_SECRETS_DIR": str(secrets),
        "SAGE_OBS_STORE__ENABLED": "false",
        "ELASTICSEARCH_URL": "http://elastic:9200",
    }
    settings = Settings.from_env(env, path=file, monitoring={"access": "open"}, logging={"enabled": False})
    found, text = await shown(settings)
    sources = {name: (one["source"], one["source_name"]) for name, one in found.items() if one["source"] != "default"}
    assert sources == {
        "service.name": ("environment", "OTEL_SERVICE_NAME"),
        "service.environment": ("environment", "APP_ENV"),
        "service.version": ("file", "shop.yaml"),
        "logging.enabled": ("code", ""),
        "logging.level": ("file", "shop.yaml"),
        "logging.format": ("preset", "production"),
        "logging.flight_recorder": ("preset", "production"),
        "logging.elasticsearch_url": ("environment", "ELASTICSEARCH_URL"),
        "tracing.sample_rate": ("preset", "production"),
        "tracing.retention": ("preset", "production"),
        "tracing.exporter": ("implied", ""),
        "tracing.otlp_endpoint": ("environment", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"),
        "metrics.max_routes": ("environment", "SAGE_OBS_METRICS__MAX_ROUTES"),
        "monitoring.access": ("code", ""),
        "monitoring.token": ("secrets", "SAGE_OBS_MONITORING__TOKEN"),
        "store.enabled": ("environment", "SAGE_OBS_STORE__ENABLED"),
    }
    assert str(tmp_path) not in text


async def test_a_section_as_an_object_names_only_what_it_sets() -> None:
    """What its class has by default is not said to come from the code."""
    section: BaseModel = Settings().service.model_copy(update={"name": "shop"})
    found, _ = await shown(Settings.dev(service=section, logging={"enabled": False}, monitoring={"access": "open"}))
    assert found["service.name"]["source"] == "code"
    assert found["service.version"]["source"] == "default"
    assert found["service.environment"]["source"] == "preset"
