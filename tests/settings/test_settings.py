"""Where settings come from, which source wins, and how what is wrong is refused."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sage_fastapi_obs import ObservabilityError, Settings, SettingsError
from sage_fastapi_obs.settings import MonitoringSettings, ServiceSettings

SECRET = "hunter2-hunter2-hunter2"


def read(settings: Settings, dotted: str) -> Any:
    """Read `section.key`."""
    section, _, key = dotted.partition(".")
    return getattr(getattr(settings, section), key) if key else getattr(settings, section)


def refusal(build: Any) -> str:
    """Return the message with which a build is refused."""
    with pytest.raises(SettingsError) as caught:
        build()
    return str(caught.value)


@pytest.fixture
def yaml_file(tmp_path: Path) -> Any:
    """Write a YAML file."""

    def write(text: str) -> Path:
        path = tmp_path / "settings.yaml"
        path.write_text(text)
        return path

    return write


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
        ("logging.flight_slow_seconds", 5.0, 5.0, 5.0),
        ("logging.flight_lines", 200, 200, 200),
        ("logging.flight_bytes", 8 * 1024**2, 8 * 1024**2, 8 * 1024**2),
        ("logging.debug_token", None, None, None),
        ("tracing.enabled", True, True, True),
        ("tracing.sample_rate", 1.0, 1.0, 0.1),
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


@pytest.mark.parametrize("build", [Settings.dev, Settings.production, Settings])
def test_sections_lie_over_a_preset(build: Any) -> None:
    """A passed section overrides its own keys only, as a dictionary or as an object."""
    plain = build()
    for service in ({"name": "shop"}, ServiceSettings(name="shop")):
        settings = build(service=service, metrics={"port": 1234})
        assert settings.service.name == "shop"
        assert settings.service.environment == plain.service.environment
        assert settings.metrics.port == 1234
        assert settings.logging == plain.logging


SOURCES = ("sections", "prefixed", "standard", "file", "preset")


@pytest.mark.parametrize("first", range(len(SOURCES)))
def test_sources_override_each_other_in_order(first: int, yaml_file: Any) -> None:
    """Of all sources that name a value, the first in the documented order wins."""
    present = set(SOURCES[first:])
    env = {"SAGE_OBS_PRESET": "production"} if "preset" in present else {"SAGE_OBS_PRESET": "dev"}
    if "prefixed" in present:
        env["SAGE_OBS_SERVICE__ENVIRONMENT"] = "prefixed"
    if "standard" in present:
        env["APP_ENV"] = "standard"
    path = yaml_file("service: {environment: file}") if "file" in present else None
    sections = {"service": {"environment": "sections"}} if "sections" in present else {}
    expected = "production" if SOURCES[first] == "preset" else SOURCES[first]
    assert Settings.from_env(env, path=path, **sections).service.environment == expected


def test_sources_complete_each_other(yaml_file: Any) -> None:
    """Keys of one section may come from different sources."""
    env = {"SERVICE_NAME": "shop", "SAGE_OBS_SERVICE__VERSION": "2"}
    settings = Settings.from_env(env, path=yaml_file("service: {environment: staging, name: file}"))
    assert settings.service == ServiceSettings(name="shop", version="2", environment="staging")


@pytest.mark.parametrize(
    ("env", "key", "expected"),
    [
        ({"SERVICE_NAME": "a", "OTEL_SERVICE_NAME": "b", "OTEL_RESOURCE_ATTRIBUTES": "service.name=c"}, "service.name", "a"),
        ({"OTEL_SERVICE_NAME": "b", "OTEL_RESOURCE_ATTRIBUTES": "service.name=c"}, "service.name", "b"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=c"}, "service.name", "c"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "x=1, service.name = my%20shop ,y"}, "service.name", "my shop"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.version=1=2"}, "service.version", "1=2"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=live"}, "service.environment", "live"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=live"}, "service.environment", "live"),
        ({"APP_VERSION": "3", "OTEL_RESOURCE_ATTRIBUTES": "service.version=4"}, "service.version", "3"),
        (
            {"APP_ENV": "a", "NODE_ENV": "b", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=c"},
            "service.environment",
            "a",
        ),
        ({"NODE_ENV": "b", "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=c"}, "service.environment", "b"),
        ({"SERVICE_NAME": "", "OTEL_SERVICE_NAME": "b"}, "service.name", "b"),
        ({"SERVICE_NAME": ""}, "service.name", "unknown_service"),
        ({"OTEL_TRACES_SAMPLER": "always_on", "SAGE_OBS_PRESET": "production"}, "tracing.sample_rate", 1.0),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "tracing.sample_rate", 0.0),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, "tracing.sample_rate", 0.0),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, "tracing.sample_rate", 0.25),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, "tracing.sample_rate", 0.25),
        ({"OTEL_TRACES_SAMPLER": "traceidratio"}, "tracing.sample_rate", 1.0),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.25"}, "tracing.sample_rate", 1.0),
        ({"OTEL_TRACES_SAMPLER": "always_off", "SAGE_OBS_TRACING__SAMPLE_RATE": "0.5"}, "tracing.sample_rate", 0.5),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "tracing.otlp_endpoint", "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "tracing.otlp_endpoint", "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "tracing.exporter", "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x"}, "tracing.otlp_endpoint", "http://t/x"),
        (
            {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://t/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"},
            "tracing.otlp_endpoint",
            "http://t/x",
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, "tracing.otlp_endpoint", "http://localhost:4318/v1/traces"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "tracing.exporter", "console"),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "tracing.exporter", "none"),
        ({"OTEL_SDK_DISABLED": "true"}, "tracing.enabled", False),
        ({"OTEL_SDK_DISABLED": "TRUE"}, "tracing.enabled", False),
        ({"OTEL_SDK_DISABLED": "false"}, "tracing.enabled", True),
        ({"OTEL_SDK_DISABLED": "true", "SAGE_OBS_TRACING__ENABLED": "true"}, "tracing.enabled", True),
    ],
)
def test_standard_variables(env: dict[str, str], key: str, expected: Any) -> None:
    """Variables that other tools define mean here what they mean there."""
    assert read(Settings.from_env(env), key) == expected


@pytest.mark.parametrize(
    ("name", "value", "key", "expected"),
    [
        ("SAGE_OBS_ENABLED", "false", "enabled", False),
        ("SAGE_OBS_ENABLED", "1", "enabled", True),
        ("SAGE_OBS_SERVICE__NAME", "shop", "service.name", "shop"),
        ("SAGE_OBS_LOGGING__LEVEL", "WARNING", "logging.level", "warn"),
        ("SAGE_OBS_LOGGING__LEVEL", "Fatal", "logging.level", "critical"),
        ("SAGE_OBS_logging__level", "error", "logging.level", "error"),
        ("SAGE_OBS_METRICS__PORT", "8001", "metrics.port", 8001),
        ("SAGE_OBS_TRACING__SAMPLE_RATE", "0.5", "tracing.sample_rate", 0.5),
        ("SAGE_OBS_HTTP__EXCLUDE_PATHS", "/a, /b/ ,", "http.exclude_paths", ("/a", "/b")),
        ("SAGE_OBS_HTTP__EXCLUDE_PATHS", '["/a,b", "/c"]', "http.exclude_paths", ("/a,b", "/c")),
        ("SAGE_OBS_HTTP__EXCLUDE_PATHS", "[]", "http.exclude_paths", ()),
        ("SAGE_OBS_TRACING__EXPORTER", "none", "tracing.exporter", "none"),
        ("SAGE_OBS_METRICS__DURATION_BUCKETS", "0.1,0.5,1", "metrics.duration_buckets", (0.1, 0.5, 1.0)),
        ("SAGE_OBS_METRICS__DURATION_BUCKETS", "[0.1, 0.5]", "metrics.duration_buckets", (0.1, 0.5)),
    ],
)
def test_prefixed_variables(name: str, value: str, key: str, expected: Any) -> None:
    """Every kind of value can be written in a variable."""
    assert read(Settings.from_env({name: value}), key) == expected


def test_every_key_has_a_variable() -> None:
    """Each key of each section can be set from the environment under its documented name."""
    settings = Settings()
    env, named = {}, {}
    for section in set(Settings.model_fields) - {"enabled"}:
        values = {key: value for key, value in getattr(settings, section) if value not in (None, "")}
        named[section] = set(values)
        for key, value in values.items():
            env[f"SAGE_OBS_{section}__{key}".upper()] = json.dumps(value) if isinstance(value, tuple | dict) else str(value)
    found = Settings.from_env(env | {"SAGE_OBS_PRESET": "production"})
    assert found == settings
    assert {section: getattr(found, section).model_fields_set for section in named} == named


@pytest.mark.parametrize("given", ["http://jaeger:14268/api/traces", "http://jaeger:14268", "http://u:p@jaeger/x?y"])
def test_a_jaeger_endpoint_keeps_its_host(given: str) -> None:
    """The retired collector's address becomes the OTLP address on the same host, and implies the exporter."""
    tracing = Settings(tracing={"jaeger_endpoint": given}).tracing
    assert (tracing.otlp_endpoint, tracing.exporter) == ("http://jaeger:4318/v1/traces", "otlp")


def test_a_jaeger_endpoint_may_be_an_ipv6_address() -> None:
    """An address in brackets keeps them."""
    assert Settings(tracing={"jaeger_endpoint": "https://[::1]:14268"}).tracing.otlp_endpoint == "https://[::1]:4318/v1/traces"


def test_jaeger_endpoint_gives_way_in_its_own_source_only() -> None:
    """In one source the new name wins; between sources the order of the sources does."""
    both = {"jaeger_endpoint": "http://old:14268", "otlp_endpoint": "http://new:4318/v1/traces"}
    assert Settings(tracing=both).tracing.otlp_endpoint == "http://new:4318/v1/traces"
    env = {"SAGE_OBS_TRACING__JAEGER_ENDPOINT": "http://old:14268", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://new:4318"}
    assert Settings.from_env(env).tracing.otlp_endpoint == "http://old:4318/v1/traces"
    sections = {"tracing": {"jaeger_endpoint": "http://older:14268"}}
    assert Settings.from_env(env, **sections).tracing.otlp_endpoint == "http://older:4318/v1/traces"


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        *((name, "dev") for name in ("", "dev", "development", "Development", "local", "test", "testing")),
        *((name, "production") for name in ("production", "prod", "staging", "anything")),
    ],
)
def test_the_environments_name_chooses_the_preset(environment: str, expected: str) -> None:
    """Whatever is not a name for development is production, from any source."""
    fmt = {"dev": "console", "production": "json"}[expected]
    assert Settings.from_env({"APP_ENV": environment}).logging.format == fmt
    assert Settings.from_env({}, service={"environment": environment}).logging.format == fmt


def test_a_named_preset_beats_the_environments_name() -> None:
    """`preset` beats `SAGE_OBS_PRESET`, and that beats the environment's name."""
    env = {"APP_ENV": "production", "SAGE_OBS_PRESET": "dev"}
    assert Settings.from_env(env).logging.format == "console"
    assert Settings.from_env(env, preset="production").logging.format == "json"


def test_a_file_is_named_by_argument_or_variable(yaml_file: Any, tmp_path: Path) -> None:
    """The argument beats the variable, and either alone is enough."""
    path = yaml_file("logging: {level: error}")
    other = tmp_path / "other.yaml"
    other.write_text("logging: {level: critical}")
    assert Settings.from_env({"SAGE_OBS_FILE": str(path)}).logging.level == "error"
    assert Settings.from_env({}, path=path).logging.level == "error"
    assert Settings.from_env({"SAGE_OBS_FILE": str(other)}, path=path).logging.level == "error"


@pytest.mark.parametrize("text", ["", "# nothing\n", "logging:\n", "logging:\n  # level: debug\n", "logging: {}\n"])
def test_an_empty_file_or_section_sets_nothing(text: str, yaml_file: Any) -> None:
    """A file or section with everything commented out is as good as none."""
    assert Settings.from_env({}, path=yaml_file(text)) == Settings.from_env({})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a\n- b\n", "not a mapping of sections"),
        ("text", "not a mapping of sections"),
        ("5: {}\n", "not a mapping of sections"),
        ("logging:\n  level: [\n", "line 3"),
        ("\x00", "is not YAML"),
        ("a: !!python/object/apply:os.getcwd []\n", "line 1"),
        ("[" * 10_000, "is not YAML"),
        ("service: text\n", "service: "),
        ("service: {5: 6}\n", "service.5"),
        ("logging: {levle: debug}\n", "logging.levle is no setting: did you mean level?"),
        ("loging: {level: debug}\n", "loging is no setting: did you mean logging?"),
        ("http: {exclude_paths: &a [*a]}\n", "http.exclude_paths"),
        ("logging: &a {level: *a}\n", "logging.level"),
        (f"monitoring: {{token: *{SECRET}}}\n", "line 1"),
        (f"monitoring: {{token: !{SECRET} x}}\n", "line 1"),
        (f"monitoring: {{token: {SECRET}: }}x\n", "line 1"),
    ],
)
def test_a_bad_file_is_refused(text: str, said: str, yaml_file: Any) -> None:
    """A file that cannot be used is named with where to look, without quoting what it holds."""
    path = yaml_file(text)
    message = refusal(lambda: Settings.from_env({}, path=path))
    assert said in message
    assert SECRET not in message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that cannot be read is named with the reason."""
    assert "nowhere.yaml: No such file" in refusal(lambda: Settings.from_env({}, path=tmp_path / "nowhere.yaml"))
    assert "Is a directory" in refusal(lambda: Settings.from_env({"SAGE_OBS_FILE": str(tmp_path)}))


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"loging": {}}, ["loging", "did you mean logging?"]),
        ({"logging": {"levl": "info"}}, ["logging.levl", "did you mean level?"]),
        (
            {"logging": {"zzz": 1}},
            ["logging.zzz", "there are: debug_token, elasticsearch_api_key", "format, gather_seconds, keep_files, level"],
        ),
        ({"logging": {"level": "loud"}}, ["logging.level", "'debug'", '"loud"']),
        ({"logging": {"level": 5}}, ["logging.level", "5"]),
        ({"logging": {"format": "xml"}}, ["logging.format", "'json' or 'console'", '"xml"']),
        ({"logging": None}, ["logging", "null"]),
        ({"service": {"name": ""}}, ["service.name", "at least 1 character"]),
        ({"service": "shop"}, ["service", '"shop"']),
        ({"tracing": {"sample_rate": 1.5}}, ["tracing.sample_rate", "less than or equal to 1", "1.5"]),
        ({"tracing": {"sample_rate": -0.1}}, ["tracing.sample_rate", "greater than or equal to 0"]),
        ({"tracing": {"sample_rate": float("nan")}}, ["tracing.sample_rate", "NaN"]),
        ({"tracing": {"exporter": "otlp"}}, ["tracing", "needs otlp_endpoint"]),
        ({"tracing": {"otlp_endpoint": "localhost:4318"}}, ["tracing.otlp_endpoint", "http(s) URL", "localhost:4318"]),
        ({"tracing": {"otlp_endpoint": "http:///v1/traces"}}, ["tracing.otlp_endpoint", "http(s) URL"]),
        ({"tracing": {"otlp_endpoint": "http://h:99999"}}, ["tracing.otlp_endpoint", "http(s) URL"]),
        ({"tracing": {"otlp_endpoint": "http://[h"}}, ["tracing.otlp_endpoint", "http(s) URL"]),
        ({"tracing": {"jaeger_endpoint": 5}}, ["tracing.jaeger_endpoint", "valid string"]),
        ({"tracing": {"jaeger_endpoint": "jaeger"}}, ["tracing.jaeger_endpoint", "http(s) URL", "4318/v1/traces", '"jaeger"']),
        ({"tracing": {"exporter": "zipkin"}}, ["tracing.exporter", "'none', 'console', 'otlp' or 'console,otlp'", '"zipkin"']),
        ({"tracing": {"exporter": ["otlp", "none"]}}, ["tracing.exporter", "'none', 'console', 'otlp' or 'console,otlp'"]),
        ({"tracing": {"incoming": "trust"}}, ["tracing.incoming", "'continue', 'link' or 'ignore'"]),
        ({"tracing": {"shutdown_seconds": 0}}, ["tracing.shutdown_seconds", "greater than 0"]),
        ({"metrics": {"port": 70000}}, ["metrics.port", "65535", "70000"]),
        ({"metrics": {"path": "metrics"}}, ["metrics.path", "start with '/'", '"metrics"']),
        ({"metrics": {"max_label_values": 0}}, ["metrics.max_label_values", "greater than or equal to 1"]),
        *(
            (
                {"metrics": {"duration_buckets": bounds}},
                ["metrics.duration_buckets", "positive, finite, distinct and ascending"],
            )
            for bounds in ([], [2, 1], [1, 1], [0, 1], [-1], [float("nan")], [1, float("inf")])
        ),
        ({"metrics": {"duration_buckets": "0.1;0.2"}}, ["metrics.duration_buckets"]),
        ({"metrics": {"duration_buckets": "[0.1"}}, ["metrics.duration_buckets"]),
        ({"http": {"exclude_paths": ["health"]}}, ["http.exclude_paths.0: must start with '/', not \"health\""]),
        ({"http": {"exclude_paths": 5}}, ["http.exclude_paths"]),
        ({"http": {"incoming_ids": "maybe"}}, ["http.incoming_ids", "'accept', 'replace' or 'reject'"]),
        *(
            ({"http": {"request_id_header": name}}, ["http.request_id_header", "letters, digits and dashes"])
            for name in ("", "a b", "X-Id\r\n", "X:Y", "Ü")
        ),
        ({"http": {"request_id_header": "x-correlation-id"}}, ["http", "must differ"]),
        ({"monitoring": {"prefix": "monitoring"}}, ["monitoring.prefix", "start with '/'"]),
        ({"monitoring": {"prefix": "/monitoring/"}}, ["monitoring.prefix", "not end with one"]),
        ({"monitoring": {"access": "public"}}, ["monitoring.access", "'local', 'token', 'port' or 'open'"]),
        ({"monitoring": {"token": "short"}}, ["monitoring.token", "at least 16 characters"]),
        ({"monitoring": {"log_buffer_size": -1}}, ["monitoring.log_buffer_size", "greater than or equal to 0"]),
        ({"monitoring": {"log_buffer_bytes": 5}}, ["monitoring.log_buffer_bytes", "1048576"]),
        ({"logging": {"debug_token": "short"}}, ["logging.debug_token", "at least 16 characters"]),
        ({"logging": {"flight_lines": 0}}, ["logging.flight_lines", "greater than or equal to 1"]),
        ({"logging": {"flight_bytes": 1000}}, ["logging.flight_bytes", "1048576"]),
        ({"logging": {"flight_slow_seconds": 0}}, ["logging.flight_slow_seconds", "greater than 0"]),
        ({"enabled": "maybe"}, ["enabled", '"maybe"']),
    ],
    ids=str,
)
def test_what_is_wrong_is_refused_by_name(sections: dict[str, Any], said: list[str]) -> None:
    """An unknown key or impossible value is refused with its key and what would be right."""
    for build in (
        lambda: Settings(**sections),
        lambda: Settings.from_env({}, **sections),
        lambda: Settings.production(**sections),
    ):
        message = refusal(build)
        assert all(part in message for part in said), message


RETIRED = {
    "notify.slack_webhook_url_file": "a file named sage_obs_notify__slack_webhook_url",
    "notify.pagerduty_routing_key_file": "a file named sage_obs_notify__pagerduty_routing_key",
    "notify.webhook_url_file": "a file named sage_obs_notify__webhook_url",
    "notify.smtp_password_file": "a file named sage_obs_notify__smtp_password",
    "export.sink_url": "http://alert-sink:9094",
}


@pytest.mark.parametrize("key", RETIRED)
def test_a_retired_setting_is_refused_with_what_to_do_instead(key: str, yaml_file: Any) -> None:
    """From every source by the name that it has there."""
    section, _, option = key.partition(".")
    variable = f"SAGE_OBS_{section}__{option}".upper()
    for name, build in {
        key: lambda: Settings(**{section: {option: "/run/x"}}),
        f"{key} ": lambda: Settings.from_env({}, path=yaml_file(f"{section}: {{{option}: /run/x}}")),
        variable: lambda: Settings.from_env({variable: "/run/x"}),
    }.items():
        message = refusal(build)
        assert message.startswith(f"{name.strip()} is retired: ")
        assert RETIRED[key] in message


@pytest.fixture
def secrets_dir(tmp_path: Path) -> Any:
    """Write a folder of secrets; return the variables that name it."""

    def write(**files: str) -> dict[str, str]:
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        return {"SAGE_OBS_SECRETS_DIR": str(tmp_path)}

    return write


def test_secrets_are_read_from_files(secrets_dir: Any, yaml_file: Any) -> None:
    """A file is a variable: named alike in any case, stronger than the YAML file, weaker than the variable itself."""
    env = secrets_dir(
        sage_obs_monitoring__token=f"{SECRET}\n", SAGE_OBS_NOTIFY__WEBHOOK_URL="http://x/y", sage_obs_logging__level="error"
    )
    path = yaml_file("service: {environment: test}\nlogging: {level: info}\nmonitoring: {access: token}")
    settings = Settings.from_env({**env, "SAGE_OBS_LOGGING__LEVEL": "warn"}, path=path)
    assert settings.monitoring.token is not None
    assert settings.monitoring.token.get_secret_value() == SECRET
    assert settings.notify.webhook_url is not None
    assert settings.notify.webhook_url.get_secret_value() == "http://x/y"
    assert (settings.monitoring.access, settings.logging.level) == ("token", "warn")
    assert Settings.from_env(env, path=path).logging.level == "error"


def test_files_of_others_are_not_opened(secrets_dir: Any, tmp_path: Path) -> None:
    """A folder may hold what is not ours, what is empty, and folders, as Kubernetes and Docker make them."""
    env = secrets_dir(sage_obs_monitoring__token=" ", tls_key="x")
    (tmp_path / "keystore").write_bytes(b"\xff\xfe")
    (tmp_path / "sage_obs_folder").mkdir()
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "token").write_text(SECRET)
    (tmp_path / "sage_obs_logging__debug_token").symlink_to(tmp_path / "..data" / "token")
    settings = Settings.from_env(env)
    assert settings.monitoring.token is None
    assert settings == Settings.from_env({}, logging={"debug_token": SECRET})


def test_secrets_that_cannot_be_used_are_refused(secrets_dir: Any, tmp_path: Path) -> None:
    """A folder that is not there, a name that means nothing, what is no text, and a bad value; what is in them is not shown."""
    assert "SAGE_OBS_SECRETS_DIR=/nowhere: No such file" in refusal(
        lambda: Settings.from_env({"SAGE_OBS_SECRETS_DIR": "/nowhere"})
    )
    misspelt = refusal(lambda: Settings.from_env(secrets_dir(sage_obs_monitoring__tokn=SECRET)))
    assert misspelt == "sage_obs_monitoring__tokn is no setting: did you mean SAGE_OBS_MONITORING__TOKEN?"
    (tmp_path / "sage_obs_monitoring__tokn").unlink()
    short = refusal(lambda: Settings.from_env(secrets_dir(sage_obs_monitoring__token=SECRET[:8])))
    assert short.startswith("monitoring.token: a token needs at least 16 characters")
    (tmp_path / "sage_obs_monitoring__token").write_bytes(b"hunter2\xff")
    binary = refusal(lambda: Settings.from_env({"SAGE_OBS_SECRETS_DIR": str(tmp_path)}))
    assert binary.endswith("it is no text in UTF-8")
    for message in (misspelt, short, binary):
        assert SECRET[:7] not in message


def test_all_faults_are_named_at_once() -> None:
    """Two faults give two lines."""
    message = refusal(lambda: Settings(logging={"level": "loud"}, metrics={"port": -1}))
    assert [line.partition(":")[0] for line in message.splitlines()] == ["logging.level", "metrics.port"]


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"SAGE_OBS_LOGGING__LEVL": "info"}, "SAGE_OBS_LOGGING__LEVL is no setting: did you mean SAGE_OBS_LOGGING__LEVEL?"),
        ({"SAGE_OBS_LOGGING_LEVEL": "info"}, "did you mean SAGE_OBS_LOGGING__LEVEL?"),
        ({"SAGE_OBS_LOGGING": "{}"}, "SAGE_OBS_LOGGING is no setting"),
        ({"SAGE_OBS_": "x"}, "SAGE_OBS_ is no setting"),
        ({"SAGE_OBS_METRICS_PORT": "9090"}, "did you mean SAGE_OBS_METRICS__PORT?"),
        ({"SAGE_OBS_COLLECTOR_PORT": "4318"}, "SAGE_OBS_COLLECTOR_PORT is no setting"),
        ({"SAGE_OBS_METRICS__PORT": "tcp://10.0.0.1:80"}, "metrics.port"),
        ({"SAGE_OBS_HTTP__EXCLUDE_PATHS": '["/a'}, "http.exclude_paths"),
        ({"SAGE_OBS_PRESET": "prod"}, "SAGE_OBS_PRESET='prod' is not a preset: use dev or production"),
        ({"SAGE_OBS_TRACING__EXPORTER": "zipkin"}, "tracing.exporter"),
        ({"SAGE_OBS_TRACING__OTLP_ENDPOINT": "collector:4318"}, "tracing.otlp_endpoint"),
        ({"SAGE_OBS_TRACING__JAEGER_ENDPOINT": "jaeger"}, "jaeger_endpoint"),
    ],
    ids=str,
)
def test_a_wrong_variable_is_refused_by_name(env: dict[str, str], said: str) -> None:
    """A variable that means nothing, or something impossible, is refused and not passed over."""
    assert said in refusal(lambda: Settings.from_env(env))


def test_a_refusal_is_an_error_of_ours_and_a_value_error() -> None:
    """Both `except ObservabilityError` and `except ValueError` catch it, and nothing of pydantic is chained to it."""
    with pytest.raises(SettingsError) as caught:
        Settings(logging={"level": "loud"})
    assert isinstance(caught.value, ObservabilityError)
    assert isinstance(caught.value, ValueError)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "sections",
    [
        {"monitoring": {"token": SECRET[:12]}},
        {"monitoring": {"token": [SECRET]}},
        {"monitoring": {"token": {"value": SECRET}}},
        {"monitoring": {"tokn": SECRET}},
        {"monitoring": {"token": SECRET, "access": "nobody"}},
        {"monitoring": SECRET},
        {"logging": {"debug_token": SECRET[:12]}},
        {"logging": {"debug_token": [SECRET]}},
        {"logging": SECRET},
        {"monitoring": [SECRET]},
        {"tracing": {"otlp_endpoint": f"ftp://user:{SECRET}@collector/"}},
        {"tracing": {"otlp_endpoint": f"http://user:{SECRET}@collector\u2100/"}},
        {"tracing": {"otlp_endpoint": [f"http://user:{SECRET}@collector/"]}},
        {"tracing": {"jaeger_endpoint": f"ftp://user:{SECRET}@collector/"}},
        {"tracing": f"http://user:{SECRET}@collector/"},
    ],
    ids=str,
)
def test_a_refusal_never_shows_a_secret(sections: dict[str, Any]) -> None:
    """Tokens and the credentials of URLs are left out of messages."""
    assert SECRET[:12] not in refusal(lambda: Settings(**sections))


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


def test_settings_are_frozen() -> None:
    """Neither a section nor a key of one can be replaced."""
    settings = Settings()
    with pytest.raises(ValidationError, match="frozen"):
        settings.enabled = False
    with pytest.raises(ValidationError, match="frozen"):
        settings.logging.level = "debug"
    with pytest.raises(ValidationError, match="frozen"):
        MonitoringSettings().token = None


def test_plain_settings_do_not_read_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`Settings()` and the presets are the same whatever the environment and the working directory say."""
    plain, dev, production = Settings(), Settings.dev(), Settings.production()
    for name in ("SAGE_OBS_LOGGING__LEVEL", "LOGGING__LEVEL", "LEVEL", "OTEL_SERVICE_NAME", "SERVICE_NAME", "NAME"):
        monkeypatch.setenv(name, "critical")
    for name in ("LOGGING", "SERVICE"):
        monkeypatch.setenv(name, '{"level": "critical"}')
    monkeypatch.setenv("ENABLED", "false")
    (tmp_path / ".env").write_text("ENABLED=false\n")
    monkeypatch.chdir(tmp_path)
    assert (plain, dev, production) == (Settings(), Settings.dev(), Settings.production())


def test_a_passed_mapping_replaces_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `env` given, the process's environment is neither read nor changed; without it, it is read."""
    monkeypatch.setenv("SERVICE_NAME", "outside")
    before = dict(os.environ)
    given_env = {"SAGE_OBS_SERVICE__NAME": "inside", "SAGE_OBS_PRESET": "dev"}
    assert Settings.from_env(given_env).service.name == "inside"
    assert Settings.from_env({}).service.name == "unknown_service"
    assert dict(os.environ) == before
    assert given_env == {"SAGE_OBS_SERVICE__NAME": "inside", "SAGE_OBS_PRESET": "dev"}
    assert Settings.from_env().service.name == "outside"


LINKS = {
    "SAGE_OBS_{}SERVICE_HOST": "10.0.0.1",
    "SAGE_OBS_{}SERVICE_PORT": "4318",
    "SAGE_OBS_{}SERVICE_PORT_OTLP_HTTP": "4318",
    "SAGE_OBS_{}PORT": "tcp://10.0.0.1:4318",
    "SAGE_OBS_{}PORT_4318_TCP": "tcp://10.0.0.1:4318",
    "SAGE_OBS_{}PORT_4318_TCP_PROTO": "tcp",
    "SAGE_OBS_{}PORT_4318_TCP_PORT": "4318",
    "SAGE_OBS_{}PORT_4318_TCP_ADDR": "10.0.0.1",
    "SAGE_OBS_{}PORT_53_UDP": "udp://10.0.0.1:53",
}
"""What Kubernetes sets for a service whose name begins with `sage-obs`."""


@pytest.mark.parametrize("service", ["", "COLLECTOR_", "METRICS_", "LOGGING__LEVEL_", "PORT_", "SERVICE_"])
def test_links_of_kubernetes_are_not_ours(service: str) -> None:
    """Whatever a service of the namespace is called, its variables set nothing and refuse nothing; settings still count."""
    links = {name.format(service): value for name, value in LINKS.items()}
    settings = Settings.from_env({**links, "SAGE_OBS_LOGGING__LEVEL": "error"})
    assert settings == Settings.from_env({"SAGE_OBS_LOGGING__LEVEL": "error"})
    assert settings.remarks == ()
    for name, value in links.items():
        assert Settings.from_env({name: value}) == Settings.from_env({})


STANDARD = [
    *(
        "SERVICE_NAME",
        "APP_ENV",
        "NODE_ENV",
        "APP_VERSION",
        "ELASTICSEARCH_URL",
        "SAGE_OBS_FILE",
        "SAGE_OBS_PRESET",
        "SAGE_OBS_SECRETS_DIR",
    ),
    *("OTEL_SERVICE_NAME", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG", "OTEL_SDK_DISABLED"),
    *("OTEL_TRACES_EXPORTER", "OTEL_LOGS_EXPORTER", "OTEL_METRICS_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT"),
    *("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "OTEL_EXPORTER_OTLP_PROTOCOL"),
    *("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_LOGS_PROTOCOL"),
]


@pytest.mark.parametrize("nothing", ["", "  "])
def test_an_empty_variable_is_as_good_as_none(nothing: str, yaml_file: Any) -> None:
    """Of ours and of others, as `${X:-}` leaves them; also where a weaker source says something."""
    ours = [
        f"SAGE_OBS_{section}__{key}".upper()
        for section, field in Settings.model_fields.items()
        for key in getattr(field.annotation, "model_fields", ())
    ]
    env = dict.fromkeys([*ours, *STANDARD, "SAGE_OBS_ENABLED", "SAGE_OBS_NOT_A_SETTING"], nothing)
    path = yaml_file("logging: {level: error}\nservice: {environment: staging}")
    for more in ({}, {"path": path}):
        assert Settings.from_env(env, **more) == Settings.from_env({}, **more)
        assert Settings.from_env(env, **more).remarks == ()


TRACES, LOGS = "http://c:4318/v1/traces", "http://c:4318/v1/logs"
BASE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}
GRPC = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}


@pytest.mark.parametrize(
    ("env", "exporter", "traces", "logs", "said"),
    [
        ({**BASE, "OTEL_TRACES_EXPORTER": "otlp,console"}, "console,otlp", TRACES, None, []),
        ({**BASE, "OTEL_TRACES_EXPORTER": " Console , OTLP ,"}, "console,otlp", TRACES, None, []),
        ({**BASE, "OTEL_TRACES_EXPORTER": "otlp_proto_http"}, "otlp", TRACES, None, []),
        ({**BASE, "OTEL_TRACES_EXPORTER": "otlp,none"}, "otlp", TRACES, None, []),
        ({**BASE, "OTEL_TRACES_EXPORTER": "logging"}, "console", None, None, []),
        ({**BASE, "OTEL_TRACES_EXPORTER": "zipkin,otlp"}, "otlp", TRACES, None, ["OTEL_TRACES_EXPORTER names 'zipkin'"]),
        ({**BASE, "OTEL_TRACES_EXPORTER": "zipkin"}, "none", None, None, ["OTEL_TRACES_EXPORTER names 'zipkin'"]),
        ({**BASE, "OTEL_TRACES_EXPORTER": "none"}, "none", None, None, []),
        ({**BASE, "OTEL_LOGS_EXPORTER": "console,otlp"}, "otlp", TRACES, LOGS, []),
        ({**BASE, "OTEL_LOGS_EXPORTER": "kafka, otlp"}, "otlp", TRACES, LOGS, ["OTEL_LOGS_EXPORTER names 'kafka'"]),
        ({**BASE, "OTEL_METRICS_EXPORTER": "none"}, "otlp", TRACES, None, []),
        ({**BASE, "OTEL_METRICS_EXPORTER": "prometheus"}, "otlp", TRACES, None, []),
        ({**BASE, "OTEL_METRICS_EXPORTER": "otlp,prometheus"}, "otlp", TRACES, None, ["OTEL_METRICS_EXPORTER names otlp, and"]),
        (
            {**BASE, **GRPC},
            "none",
            None,
            None,
            ["OTEL_EXPORTER_OTLP_PROTOCOL=grpc is not supported, so no traces are exported"],
        ),
        ({**GRPC}, "none", None, None, []),
        ({**GRPC, "OTEL_TRACES_EXPORTER": "console,otlp"}, "console", None, None, ["OTEL_EXPORTER_OTLP_PROTOCOL=grpc"]),
        ({**BASE, "OTEL_TRACES_EXPORTER": "otlp_proto_grpc"}, "none", None, None, ["OTEL_TRACES_EXPORTER=otlp_proto_grpc"]),
        (
            {**BASE, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "GRPC", "OTEL_LOGS_EXPORTER": "otlp"},
            "none",
            None,
            LOGS,
            ["TRACES_PROTO"],
        ),
        ({**BASE, **GRPC, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf"}, "otlp", TRACES, None, []),
        ({**BASE, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, "otlp", TRACES, None, ["sent as http/protobuf"]),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4317"},
            "none",
            None,
            None,
            ["OTEL_EXPORTER_OTLP_ENDPOINT is no http(s) URL"],
        ),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "grpc://c"}, "none", None, None, ["OTLP_LOGS_ENDPOINT is no http(s) URL"]),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"},
            "otlp",
            "http://c:4317/v1/traces",
            None,
            ["OTLP over HTTP is on 4318"],
        ),
        ({**BASE, "OTEL_SDK_DISABLED": "yes"}, "otlp", TRACES, None, ["OTEL_SDK_DISABLED='yes' disables nothing"]),
        ({"OTEL_TRACES_SAMPLER": "xray"}, "none", None, None, ["OTEL_TRACES_SAMPLER='xray' is not supported"]),
        (
            {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "lots"},
            *("none", None, None),
            ["OTEL_TRACES_SAMPLER_ARG='lots' is no number from 0 to 1, and ignored: it is 1"],
        ),
    ],
    ids=str,
)
def test_what_the_variables_of_opentelemetry_ask_for(env: Any, exporter: str, traces: Any, logs: Any, said: list[str]) -> None:
    """Lists are honoured, and what we cannot do is said with what to change instead of stopping the start."""
    settings = Settings.from_env(env)
    assert (settings.tracing.exporter, settings.tracing.otlp_endpoint, settings.logging.otlp_endpoint) == (
        exporter,
        traces,
        logs,
    )
    assert len(settings.remarks) == len(said), settings.remarks
    for part, remark in zip(said, settings.remarks, strict=True):
        assert part in remark
    assert settings.tracing.sample_rate == 1.0


def test_several_exporters() -> None:
    """In any form and order they are the same setting."""
    endpoint = "http://c:4318/v1/traces"
    for several in ("otlp,console", "console, otlp", ["otlp", "console"], ("console", "otlp")):
        assert Settings(tracing={"exporter": several, "otlp_endpoint": endpoint}).tracing.exporter == "console,otlp"
    assert Settings(tracing={"exporter": "console,otlp", "otlp_endpoint": endpoint}).tracing.exporters == {"console", "otlp"}
    assert Settings().tracing.exporters == set()


def test_what_is_odd_is_remarked(yaml_file: Any) -> None:
    """A port that nobody listens on, a retired name, the port of gRPC, a file that runs under the preset of development."""
    (port,) = Settings(metrics={"port": 9100}).remarks
    assert port.startswith("metrics.port is set and not used: nothing listens on 9100")
    assert Settings(metrics={"port": 9100}, monitoring={"access": "port"}).remarks == ()
    (retired,) = Settings(tracing={"jaeger_endpoint": "http://jaeger:14268"}).remarks
    assert retired.startswith("tracing.jaeger_endpoint is retired: name tracing.otlp_endpoint instead")
    (grpc,) = Settings(logging={"otlp_endpoint": "http://c:4317"}).remarks
    assert grpc.startswith("logging.otlp_endpoint has port 4317")
    path = yaml_file("logging: {level: error}")
    (preset,) = Settings.from_env({}, path=path).remarks
    assert preset.startswith(f"{path} names no environment, so the preset 'dev' holds")
    for env in ({"APP_ENV": "dev"}, {"SAGE_OBS_PRESET": "dev"}, {"APP_ENV": "production"}):
        assert Settings.from_env(env, path=path).remarks == ()
    assert Settings.from_env({}, path=yaml_file("service: {environment: development}")).remarks == ()


def test_settings_know_their_preset() -> None:
    """Which is no part of their value."""
    assert [build().preset for build in (Settings, Settings.dev, Settings.production, Settings.from_env)] == [
        *(None, "dev", "production", "dev")
    ]
    assert Settings.from_env({"SAGE_OBS_PRESET": "dev"}) == Settings.dev()
    assert Settings.from_env({"APP_ENV": "staging"}).preset == "production"


NAMES = st.one_of(
    st.sampled_from(
        [
            "SERVICE_NAME",
            "APP_ENV",
            "NODE_ENV",
            "APP_VERSION",
            "OTEL_SERVICE_NAME",
            "OTEL_RESOURCE_ATTRIBUTES",
            "OTEL_TRACES_SAMPLER",
            "OTEL_TRACES_SAMPLER_ARG",
            "OTEL_TRACES_EXPORTER",
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "OTEL_SDK_DISABLED",
            "SAGE_OBS_FILE",
            "SAGE_OBS_PRESET",
            "SAGE_OBS_SECRETS_DIR",
            "SAGE_OBS_ENABLED",
            "SAGE_OBS_TRACING__JAEGER_ENDPOINT",
            *(
                f"SAGE_OBS_{section}__{key}".upper()
                for section in ("service", "http", "logging", "tracing", "metrics", "monitoring")
                for key in type(getattr(Settings(), section)).model_fields
            ),
        ]
    ),
    st.text(max_size=12).map(lambda tail: f"SAGE_OBS_{tail}"),
)
VALUES = st.one_of(
    st.text(st.characters(), max_size=20),
    st.sampled_from(
        [
            *(
                "",
                "0",
                "1",
                "true",
                "dev",
                "otlp",
                "traceidratio",
                "nan",
                "inf",
                "1e999",
                "[",
                "[]",
                '["/a"]',
                "[[[",
                "{}",
                '{"a": 1}',
            ),
            *(
                "http://[",
                "http://a:b",
                "http://\u2100",
                "//",
                "/a,/b",
                "service.name",
                "service.name=%ff",
                "=,=",
                "\x00",
                "\udcff",
            ),
        ]
    ),
)


@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_any_environment_gives_settings_or_a_refusal(env: dict[str, str]) -> None:
    """Whatever the variables hold, settings are built or refused; no other error gets out."""
    with contextlib.suppress(SettingsError):
        assert isinstance(Settings.from_env(env), Settings)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
SECTION_NAMES = st.sampled_from(["service", "http", "logging", "tracing", "metrics", "monitoring", "enabled"])
KEYS = st.sampled_from(
    ["level", "token", "jaeger_endpoint", "otlp_endpoint", "exclude_paths", "duration_buckets", "name", "sample_rate"]
)


@given(st.dictionaries(SECTION_NAMES, JSON | st.dictionaries(KEYS, JSON, max_size=3), max_size=4))
def test_any_sections_give_settings_or_a_refusal(sections: dict[str, Any]) -> None:
    """Whatever a file or a call holds, settings are built or refused; no other error gets out."""
    for build in (Settings, lambda **given_: Settings.from_env({}, **given_)):
        with contextlib.suppress(SettingsError):
            build(**sections)


ES = "http://elastic:secret@es:9200"


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"APP_ENV": "production", "ELASTICSEARCH_URL": ES}, ES),
        ({"APP_ENV": "dev", "ELASTICSEARCH_URL": ES}, None),
        ({"APP_ENV": "dev", "SAGE_OBS_LOGGING__ELASTICSEARCH_URL": ES}, ES),
        ({"APP_ENV": "production", "ELASTICSEARCH_URL": "http://a", "SAGE_OBS_LOGGING__ELASTICSEARCH_URL": ES}, ES),
        ({"APP_ENV": "production"}, None),
    ],
)
def test_where_the_elasticsearch_is_named(env, expected):
    """The usual variable counts in production, where no source of ours says otherwise."""
    logging = Settings.from_env(env).logging
    assert (logging.elasticsearch_url, logging.elasticsearch_index, logging.elasticsearch_level) == (
        expected,
        "ai-textbook-logs",
        "info",
    )
    assert "secret" not in repr(logging)


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, None),
        ({"OTEL_LOGS_EXPORTER": "otlp"}, "http://localhost:4318/v1/logs"),
        ({"OTEL_LOGS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/logs"),
        ({"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c/x"}, "http://c/x"),
        ({"OTEL_LOGS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c/x"}, "http://c/x"),
        ({"OTEL_LOGS_EXPORTER": "none", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c/x"}, None),
        ({"OTEL_LOGS_EXPORTER": "console", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c/x"}, None),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": "http://c/x"}, None),
    ],
)
def test_where_log_records_go(env, expected):
    """The standard variables name it; the endpoint of all signals alone does not switch this one on."""
    assert Settings.from_env(env).logging.otlp_endpoint == expected


@pytest.mark.parametrize(
    ("logging", "said"),
    [
        ({"rotate_bytes": 10_000}, "rotate_bytes and rotate_hours need a file"),
        ({"rotate_hours": 1, "output": "stderr"}, "rotate_bytes and rotate_hours need a file"),
        ({"output": "x", "rotate_bytes": 1}, "logging.rotate_bytes"),
        ({"output": "x", "keep_files": 0}, "logging.keep_files"),
        ({"elasticsearch_url": "es:9200"}, "must be an http(s) URL"),
        ({"otlp_endpoint": "grpc://c:4317"}, "must be an http(s) URL"),
        ({"elasticsearch_index": "Logs/x"}, "an index name has small letters"),
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


def test_names_to_hide_and_to_show_are_lists() -> None:
    """From a variable they are separated by commas; an empty list of what may be shown is a list."""
    env = {"SAGE_OBS_LOGGING__REDACT": "iban, customer_ssn", "SAGE_OBS_LOGGING__SHOW_ONLY": "[]"}
    read = Settings.from_env(env).logging
    assert (read.redact, read.show_only) == (("iban", "customer_ssn"), ())
    assert Settings().logging.show_only is None


@pytest.mark.parametrize("key", ["redact", "show_only"])
def test_a_name_without_letters_is_refused(key: str) -> None:
    """It could not match anything, or would match everything."""
    with pytest.raises(SettingsError, match=rf"logging\.{key}\.0: is no name of a field: it has no letters, not \"--\""):
        Settings(logging={key: ["--"]})


def test_aliases_that_are_not_json_are_refused() -> None:
    """By the name of the setting."""
    with pytest.raises(SettingsError, match=r"logging\.field_aliases"):
        Settings(logging={"field_aliases": "{timestamp"})
