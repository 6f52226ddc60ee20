"""Variables that others define: which settings they stand for, and how a signal goes to its collector."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import read

from sage_fastapi_obs import Settings
from sage_fastapi_obs.settings.standard_variables import OtlpVariables

SIGNALS = ["traces", "logs"]
WRONG = {
    "TIMEOUT": ["soon", "-1", "0", "nan", "inf", "1e400"],
    "COMPRESSION": ["zstd", "gzip,deflate"],
    "HEADERS": ["s3cret", "Authorization: Bearer s3cret", "a b=s3cret", "=s3cret", "x=s3cret%0D%0Ay: z", "x=s3cret%E2%82%AC"],
}


def read_otlp(signal: Any, **variables: str) -> OtlpVariables:
    return OtlpVariables.from_environment(signal, {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()})


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize(
    ("name", "key", "one", "other"),
    [
        ("HEADERS", "headers", ("x=1", {"x": "1"}), ("y=2", {"y": "2"})),
        ("TIMEOUT", "timeout_seconds", ("3", 3.0), ("4.5", 4.5)),
        ("COMPRESSION", "compression", ("gzip", "gzip"), ("none", "none")),
        ("CERTIFICATE", "certificate", ("/ca", "/ca"), ("/own", "/own")),
        ("CLIENT_CERTIFICATE", "client_certificate", ("/c", "/c"), ("/own", "/own")),
        ("CLIENT_KEY", "client_key", ("/k", "/k"), ("/own", "/own")),
    ],
)
def test_the_signals_own_variable_is_stronger(signal: Any, name: str, key: str, one: Any, other: Any) -> None:
    """Where it is missing or empty, that of all signals counts, and that of the other signal never does."""
    (foreign,) = {*SIGNALS} - {signal}
    for own in ({}, {f"{signal.upper()}_{name}": ""}, {f"{foreign.upper()}_{name}": other[0]}):
        assert getattr(read_otlp(signal, **{name: one[0]}, **own), key) == one[1]
    assert getattr(read_otlp(signal, **{name: one[0], f"{signal.upper()}_{name}": other[0]}), key) == other[1]
    assert read_otlp(signal, **{name: ""}) == read_otlp(signal)


@pytest.mark.parametrize(
    ("given_", "found"),
    [
        ("x-key=a%20b", {"x-key": "a b"}),
        ("Authorization=Bearer%20abc, x-Tenant = 7 ,", {"authorization": "Bearer abc", "x-tenant": "7"}),
        ("authorization=Basic dXNlcjpwYXNz==", {"authorization": "Basic dXNlcjpwYXNz=="}),
        ("x=", {"x": ""}),
    ],
)
def test_headers(given_: str, found: dict[str, str]) -> None:
    """As the specification writes them, and as people do."""
    variables = read_otlp("traces", HEADERS=given_)
    assert (variables.headers, variables.remarks) == (found, ())


def test_a_time_limit_in_milliseconds_is_one_in_seconds() -> None:
    """The specification has the one, Python's SDK the other, and nobody waits for three hours."""
    assert read_otlp("logs", TIMEOUT="10000").timeout_seconds == read_otlp("logs", TIMEOUT="10").timeout_seconds == 10.0
    assert read_otlp("logs", TIMEOUT="0.5").timeout_seconds == 0.5
    assert read_otlp("logs", TIMEOUT="900000000").timeout_seconds == 300.0


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_what_is_wrong_is_said_and_left_out(name: str, value: str) -> None:
    """By the variable that has it, and without what may be a secret."""
    wrong = read_otlp("traces", **{f"TRACES_{name}": value})
    (remark,) = wrong.remarks
    assert f"OTEL_EXPORTER_OTLP_TRACES_{name}" in remark
    assert "s3cret" not in remark + repr(wrong)
    assert (wrong.headers, wrong.timeout_seconds, wrong.compression) == ({}, 10.0, "none")


@given(st.dictionaries(st.sampled_from([*WRONG, "CERTIFICATE", "CLIENT_KEY"]), st.text(max_size=30), max_size=5))
def test_any_value_is_read(variables: dict[str, str]) -> None:
    """What comes out can be used: a positive time, a known packing, headers that a client takes."""
    found = read_otlp("logs", **variables)
    assert 0 < found.timeout_seconds <= 300
    assert found.compression in ("none", "gzip", "deflate")
    for name, value in found.headers.items():
        assert (name + value).isascii()
        assert not {"\r", "\n", "\0"} & {*name, *value}


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
        ({**BASE, "OTEL_METRICS_EXPORTER": "otlp,prometheus"}, "otlp", TRACES, None, []),
        ({**BASE, "OTEL_METRICS_EXPORTER": "console"}, "otlp", TRACES, None, ["OTEL_METRICS_EXPORTER names 'console'"]),
        ({**BASE, "OTEL_TRACES_EXPORTER": "prometheus"}, "none", None, None, ["OTEL_TRACES_EXPORTER names 'prometheus'"]),
        ({**BASE, **GRPC}, "otlp", "grpc://c:4318", None, []),
        ({**GRPC}, "none", None, None, []),
        ({**GRPC, "OTEL_TRACES_EXPORTER": "console,otlp"}, "console,otlp", "grpc://localhost:4317", None, []),
        ({**BASE, "OTEL_TRACES_EXPORTER": "otlp_proto_grpc"}, "otlp", "grpc://c:4318", None, []),
        (
            {**BASE, "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "GRPC", "OTEL_LOGS_EXPORTER": "otlp"},
            *("otlp", "grpc://c:4318", LOGS, []),
        ),
        ({**GRPC, "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c:4317/"}, "otlp", "grpcs://c:4317", None, []),
        ({**GRPC, "OTEL_EXPORTER_OTLP_ENDPOINT": "https://c/path"}, "otlp", "grpcs://c", None, []),
        ({**GRPC, "OTEL_EXPORTER_OTLP_ENDPOINT": "c:4317"}, "otlp", "grpcs://c:4317", None, []),
        ({**GRPC, "OTEL_EXPORTER_OTLP_ENDPOINT": "[::1]:4317"}, "otlp", "grpcs://[::1]:4317", None, []),
        (
            {**GRPC, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "c:4317", "OTEL_EXPORTER_OTLP_INSECURE": "true"},
            *("otlp", "grpc://c:4317", None, []),
        ),
        (
            {**GRPC, "OTEL_EXPORTER_OTLP_ENDPOINT": "ftp://c:4317"},
            *("none", None, None, ["OTEL_EXPORTER_OTLP_ENDPOINT is no http(s) URL"]),
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
            ["write grpc://c:4317, or name OTLP over HTTP"],
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
    ("env", "endpoint", "seconds", "said"),
    [
        (BASE, None, 60.0, []),
        ({**BASE, "OTEL_METRICS_EXPORTER": "otlp"}, "http://c:4318/v1/metrics", 60.0, []),
        ({**BASE, **GRPC, "OTEL_METRICS_EXPORTER": "otlp"}, "grpc://c:4318", 60.0, []),
        ({"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://c/x"}, "http://c/x", 60.0, []),
        ({"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, None, 60.0, []),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "5000"}, None, 5.0, []),
        ({"OTEL_METRIC_EXPORT_INTERVAL": "5"}, None, 60.0, ["OTEL_METRIC_EXPORT_INTERVAL='5' is no number"]),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": "delta"},
            *(None, 60.0, ["TEMPORALITY_PREFERENCE='delta' is not supported: it is cumulative"]),
        ),
        (
            {"OTEL_EXPORTER_OTLP_METRICS_DEFAULT_HISTOGRAM_AGGREGATION": "base2_exponential_bucket_histogram"},
            *(None, 60.0, ["is not supported: it is explicit_bucket_histogram"]),
        ),
    ],
)
def test_where_metrics_go_and_how_often(env: Any, endpoint: str | None, seconds: float, said: list[str]) -> None:
    """They are scraped in any case, and pushed only where a variable of theirs says so."""
    settings = Settings.from_env(env)
    assert (settings.metrics.otlp_endpoint, settings.metrics.otlp_interval_seconds) == (endpoint, seconds)
    assert len(settings.remarks) == len(said), settings.remarks
    assert all(part in remark for part, remark in zip(said, settings.remarks, strict=True))
