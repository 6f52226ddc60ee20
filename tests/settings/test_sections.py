"""Each section: its defaults, what its fields take, and what a section shows of itself."""

import json
from typing import Any

import pytest
from pydantic import ValidationError
from refusals import SECRET, read

from sage_fastapi_obs import Settings, SettingsError
from sage_fastapi_obs.settings import MonitoringSettings


@pytest.mark.parametrize(
    ("key", "default", "dev", "production"),
    [
        ("enabled", True, True, True),
        ("service.name", "unknown_service", "unknown_service", "unknown_service"),
        ("service.environment", "development", "development", "production"),
        ("service.version", "0.0.0", "0.0.0", "0.0.0"),
        ("http.exclude_paths", ("/metrics", "/monitoring"), ("/metrics", "/monitoring"), ("/metrics", "/monitoring")),
        ("http.request_id_header", "X-Request-ID", "X-Request-ID", "X-Request-ID"),
        ("http.correlation_header", "X-Correlation-ID", "X-Correlation-ID", "X-Correlation-ID"),
        ("http.incoming_ids", "accept", "accept", "accept"),
        ("logging.level", "info", "debug", "info"),
        ("logging.format", "json", "console", "json"),
        ("logging.output", "stdout", "stdout", "stdout"),
        ("logging.flight_recorder", False, False, True),
        ("logging.flight_lines", 200, 200, 200),
        ("logging.flight_bytes", 8 * 1024**2, 8 * 1024**2, 8 * 1024**2),
        ("logging.debug_token", None, None, None),
        ("tracing.enabled", True, True, True),
        ("tracing.sample_rate", 1.0, 1.0, 0.1),
        ("tracing.retention", "ratio", "ratio", "outcome"),
        ("tracing.slow_seconds", 5.0, 5.0, 5.0),
        ("tracing.incoming_sampled_per_second", 100.0, 100.0, 100.0),
        ("tracing.trusted_networks", (), (), ()),
        ("tracing.exporter", "none", "none", "none"),
        ("tracing.query_values", False, False, False),
        ("metrics.enabled", True, True, True),
        ("metrics.port", 9090, 9090, 9090),
        ("metrics.path", "/metrics", "/metrics", "/metrics"),
        ("metrics.max_label_values", 200, 200, 200),
        ("monitoring.access", "local", "local", "token"),
        ("monitoring.token", None, None, None),
        ("monitoring.expose_logs", False, True, False),
        ("monitoring.log_buffer_size", None, None, None),
        ("monitoring.log_buffer_bytes", 8 * 1024**2, 8 * 1024**2, 8 * 1024**2),
    ],
)
def test_defaults_and_presets(key: str, default: Any, dev: Any, production: Any) -> None:
    """Defaults and both presets have the values of the settings table."""
    assert read(Settings(), key) == default
    assert read(Settings.dev(), key) == dev
    assert read(Settings.production(), key) == production


def test_settings_are_frozen() -> None:
    """Neither a section nor a key of one can be replaced."""
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.enabled = False
    with pytest.raises(ValidationError, match="frozen"):
        settings.logging.level = "debug"
    with pytest.raises(ValidationError, match="frozen"):
        MonitoringSettings().token = None


def test_settings_never_show_a_secret() -> None:
    """Neither `repr` nor `str` nor a dump to JSON contains a token; `repr` and `str` hide the credentials of URLs too."""
    settings = Settings(monitoring={"token": SECRET}, tracing={"otlp_endpoint": f"http://user:{SECRET}@collector/v1/traces"})
    for shown in (
        repr(settings),
        str(settings),
        repr(settings.tracing),
        str(settings.tracing),
        settings.monitoring.model_dump_json(),
    ):
        assert SECRET not in shown
    assert "collector/v1/traces" in repr(settings)
    assert settings.monitoring.token is not None
    assert settings.monitoring.token.get_secret_value() == SECRET


@pytest.mark.parametrize("given", ["http://jaeger:14268/api/traces", "http://jaeger:14268", "http://u:p@jaeger/x?y"])
def test_a_jaeger_endpoint_keeps_its_host(given: str) -> None:
    """The retired collector's address becomes the OTLP address on the same host, and implies the exporter."""
    tracing = Settings(tracing={"jaeger_endpoint": given}).tracing
    assert (tracing.otlp_endpoint, tracing.exporter) == ("http://jaeger:4318/v1/traces", "otlp")


def test_a_jaeger_endpoint_may_be_an_ipv6_address() -> None:
    """An address in brackets keeps them."""
    assert Settings(tracing={"jaeger_endpoint": "https://[::1]:14268"}).tracing.otlp_endpoint == "https://[::1]:4318/v1/traces"


def test_several_exporters() -> None:
    """In any form and order they are the same setting."""
    endpoint = "http://c:4318/v1/traces"
    for several in ("otlp,console", "console, otlp", ["otlp", "console"], ("console", "otlp")):
        assert Settings(tracing={"exporter": several, "otlp_endpoint": endpoint}).tracing.exporter == "console,otlp"
    assert Settings(tracing={"exporter": "console,otlp", "otlp_endpoint": endpoint}).tracing.exporters == {"console", "otlp"}
    assert Settings().tracing.exporters == set()


@pytest.mark.parametrize(
    ("logging", "said"),
    [
        ({"rotate_bytes": 10_000}, "rotate_bytes and rotate_hours need a file"),
        ({"rotate_hours": 1, "output": "stderr"}, "rotate_bytes and rotate_hours need a file"),
        ({"output": "x", "rotate_bytes": 1}, "logging.rotate_bytes"),
        ({"output": "x", "keep_files": 0}, "logging.keep_files"),
        ({"elasticsearch_url": "es:9200"}, "must be an http(s) URL"),
        ({"otlp_endpoint": "c:4317"}, "must be an http(s) URL"),
        ({"otlp_endpoint": "grpc://c:4317/v1/logs"}, "or like grpc://localhost:4317"),
        ({"otlp_endpoint": "grpc://user:password@c:4317"}, "or like grpc://localhost:4317"),
        ({"otlp_endpoint": "grpcs://c:none"}, "or like grpc://localhost:4317"),
        ({"elasticsearch_index": "Logs/x"}, "an index name has lower-case letters"),
        ({"elasticsearch_index": "logs-%H"}, "%Y, %m and %d stand for the day of a line"),
        ({"elasticsearch_level": "loud"}, "logging.elasticsearch_level"),
        ({"elasticsearch_api_key": ["s3cret"]}, "logging.elasticsearch_api_key"),
    ],
)
def test_outputs_that_cannot_be_are_refused(logging, said):
    """With what would be right, and without showing a secret."""
    with pytest.raises(SettingsError) as refused:
        Settings(logging=logging)
    assert said in str(refused.value)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("timestamp=@timestamp, message=msg", {"timestamp": "@timestamp", "message": "msg"}),
        ('{"timestamp": "@timestamp"}', {"timestamp": "@timestamp"}),
        ("", {}),
        ("message", {"message": ""}),
    ],
)
def test_field_aliases_are_read_from_a_variable(given: str, read: dict[str, str]) -> None:
    """As people write them, or as JSON."""
    assert Settings.from_env({"SAGE_OBS_LOGGING__FIELD_ALIASES": given}).logging.field_aliases == read


def test_a_link_may_name_ids_from_the_path_on() -> None:
    """In path, query and fragment; without any, it is a plain link."""
    templates = ("https://a.test/{trace_id}", "https://a.test?id={trace_id}", "https://a.test#{trace_id}", "https://a.test")
    assert Settings(monitoring={"links": dict(zip("abcd", templates, strict=True))}).monitoring.links["d"] == "https://a.test"


def test_links_are_read_from_a_variable() -> None:
    """As people write them, or as JSON where an address has a comma."""
    jaeger, loki = "https://jaeger.test/trace/{trace_id}", "https://grafana.test/explore?a=1,2&left={{{request_id}}}"
    read = Settings.from_env({"SAGE_OBS_MONITORING__LINKS": f"Jaeger={jaeger}"}).monitoring.links
    assert read == {"Jaeger": jaeger}
    written = json.dumps({"Jaeger": jaeger, "Loki": loki})
    assert Settings.from_env({"SAGE_OBS_MONITORING__LINKS": written}).monitoring.links == {"Jaeger": jaeger, "Loki": loki}


@pytest.mark.parametrize(
    "template",
    [
        *("https://jaeger{route}/x", "https://traces.{correlation_id}/", "https://jaeger.test:80{route}"),
        *("javascript:alert({trace_id})", "{trace_id}", "https://{route}/x", "https://", "/trace/{trace_id}", ""),
        *("https://jaeger.test/{path}", "https://jaeger.test/{}", "https://jaeger.test/{trace_id.__class__}"),
        *(
            "https://jaeger.test/{trace_id!r}",
            "https://jaeger.test/{trace_id:>999999999}",
            "https://jaeger.test/{",
            "https://j.test/}",
        ),
    ],
)
def test_a_link_that_cannot_be_filled_in_is_refused(template: str) -> None:
    """With what a link may name, or how it begins."""
    with pytest.raises(
        SettingsError, match=r"monitoring\.links\.Jaeger: a link (may name \{request_id\}, |is an http\(s\) URL)"
    ):
        Settings(monitoring={"links": {"Jaeger": template}})


def test_names_to_hide_and_to_show_are_lists() -> None:
    """From a variable they are separated by commas; an empty list of what may be shown is a list."""
    env = {"SAGE_OBS_LOGGING__REDACT": "iban, customer_ssn", "SAGE_OBS_LOGGING__SHOW_ONLY": "[]"}
    read = Settings.from_env(env).logging
    assert (read.redact, read.show_only) == (("iban", "customer_ssn"), ())
    assert Settings().logging.show_only is None


@pytest.mark.parametrize("key", ["redact", "show_only"])
def test_a_name_without_letters_is_refused(key: str) -> None:
    """It could not match anything, or would match everything."""
    with pytest.raises(SettingsError, match=rf"logging\.{key}\.0: a field name needs a letter or a digit, not \"--\""):
        Settings(logging={key: ["--"]})


def test_aliases_that_are_not_json_are_refused() -> None:
    """By the name of the setting."""
    with pytest.raises(SettingsError, match=r"logging\.field_aliases"):
        Settings(logging={"field_aliases": "{timestamp"})
