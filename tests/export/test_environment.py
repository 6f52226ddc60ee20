"""The variables of a container give a process the settings that its manifest was written from."""

from typing import Any

import pytest
from demo import SERVICES, service
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from sage_fastapi_obs import Settings
from sage_fastapi_obs.export import environment, kubernetes
from sage_fastapi_obs.settings import ExportSettings

TEXT = st.text("abz09 .,:$()[]{}=\"'\\é/@-", min_size=1, max_size=12).filter(
    lambda text: text.strip() == text and text != "null"
)
RULE = {"name": "X", "metric": "http_requests_total", "where": {"status": "=~5.."}, "threshold": 2, "by": ["route"]}
SECTIONS: dict[str, dict[str, Any]] = {
    "http": {"exclude_paths": st.lists(TEXT.map("/{}".format)), "trace_response_header": st.booleans()},
    "logging": {
        "level": st.sampled_from(["trace", "warn"]),
        "field_aliases": st.dictionaries(st.sampled_from(["timestamp", "message"]), st.sampled_from(["ts", "@t"]), max_size=1),
        "redact": st.lists(st.sampled_from(["iban", "tax number", "a,b"]), unique=True),
        "show_only": st.none() | st.lists(st.sampled_from(["cart", "user"]), unique=True),
        "elasticsearch_url": st.sampled_from(["http://es:9200", "http://elastic:p%40ss@es:9200", None]),
        "debug_token": st.none() | st.just("d" * 20),
    },
    "tracing": {
        "otlp_endpoint": st.sampled_from(["http://jaeger:4318/v1/traces", None]),
        "sample_rate": st.floats(0, 1),
        "slow_seconds": st.none() | st.floats(0.1, 9),
        "trusted_networks": st.lists(st.sampled_from(["10.0.0.0/8", "fd00::/8"]), unique=True),
    },
    "metrics": {
        "duration_buckets": st.none() | st.just([0.1, 2.5]),
        "compat_aliases": st.sampled_from([True, False, ["sage", "runtime"]]),
    },
    "monitoring": {"access": st.sampled_from(["local", "token", "port"]), "token": st.none() | st.just("t" * 20)},
    "alerts": {"rules": st.sampled_from([[], [RULE]]), "defaults": st.booleans()},
    "notify": {"slack_webhook_url": st.none() | st.just("https://hooks/x"), "smtp_user": st.none() | TEXT},
    "sla": {"availability": st.none() | st.floats(0, 100), "response_time_mean_ms": st.none() | st.floats(1, 1e6)},
}
ANY_SETTINGS = st.fixed_dictionaries(
    {
        "service": st.fixed_dictionaries(
            {"environment": st.sampled_from(["production", "development"]), "version": st.just("1.2")}
        )
    },
    optional={name: st.fixed_dictionaries({}, optional=fields) for name, fields in SECTIONS.items()},
)


@given(ANY_SETTINGS)
def test_a_process_has_the_settings_of_its_manifest(sections: dict[str, Any]):
    """Whatever is set: from the variables alone, with the credentials of a secret, the process builds the same settings."""
    given_name = {**sections, "service": {"name": "shop", **sections["service"]}}
    settings = Settings(**given_name)
    secret = {name: shown(settings, name) for name in environment.credentials(settings)}
    env = environment.variables(settings)
    assert not any(value in str(env) for value in ("p%40ss", "d" * 20, "t" * 20, "hooks/x"))
    assert Settings.from_env(env | secret) == settings.model_copy(update={"export": ExportSettings()})


def shown(settings: Settings, variable: str) -> str:
    """Read a credential, by the name of its variable; one that is not set is empty."""
    section, field = variable.removeprefix("SAGE_OBS_").lower().split("__")
    value = getattr(getattr(settings, section), field)
    return value.get_secret_value() if isinstance(value, SecretStr) else value or ""


@pytest.mark.parametrize("one", SERVICES, ids=lambda one: one.service.name)
def test_a_service_of_the_demo_has_its_own_settings_in_the_cluster(one: Settings):
    """Its service levels, the collector of its spans and its packs are those of its file."""
    process = Settings.from_env(environment.variables(one))
    assert (process.sla, process.tracing, process.metrics.packs) == (one.sla, one.tracing, one.metrics.packs)
    assert process.tracing.otlp_endpoint is not None


def test_credentials_are_never_written():
    """They come from the secret of the service, one key each; Kubernetes replaces no variable in a value."""
    shop = service(
        monitoring={"access": "token"},
        logging={"elasticsearch_url": "http://elastic:hunter2@es", "elasticsearch_api_key": "hunter2"},
        notify={"smtp_user": "$(HOME)"},
    )
    text = kubernetes.files([shop])["deploy/k8s/deployment.yaml"]
    assert "hunter2" not in text
    keys = ("logging.elasticsearch_url", "logging.elasticsearch_api_key", "token")
    assert all(f"name: shop-monitoring\n                  key: {key}\n" in text for key in keys)
    assert "value: $$(HOME)" in text
