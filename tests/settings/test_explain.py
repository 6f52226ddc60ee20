"""What a refusal and a remark say: where, what is wrong, what to change, and never a secret."""

from typing import Any

import pytest
from refusals import SECRET, refusal

from sage_fastapi_obs import ObservabilityError, Settings, SettingsError


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
        ({"tracing": {"slow_seconds": 0}}, ["tracing.slow_seconds", "greater than 0"]),
        ({"logging": {"flight_slow_seconds": 1}}, ["logging.flight_slow_seconds is retired", "tracing.slow_seconds"]),
        ({"tracing": {"trusted_networks": "10.0.0.1/8"}}, ["tracing.trusted_networks", "host bits"]),
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
        *(
            {"logging": {"elasticsearch_url": url}}
            for url in (
                f"https://user:x/{SECRET}@es:9200",
                f"https://user:x?{SECRET}@es:9200",
                f"https://user:@{SECRET}@es:x",
                f'https://user:" {SECRET}@es:x',
                f"https:/user:{SECRET}@es:9200",
                f"user:{SECRET}@es:9200",
            )
        ),
    ],
    ids=str,
)
def test_a_refusal_never_shows_a_secret(sections: dict[str, Any]) -> None:
    """Tokens and the credentials of URLs are left out of messages."""
    assert SECRET[:12] not in refusal(lambda: Settings(**sections))


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
