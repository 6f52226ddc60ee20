"""Where settings come from, and which source wins."""

import contextlib
import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from refusals import SECRET, read, refusal

from sage_fastapi_obs import Settings, SettingsError
from sage_fastapi_obs.settings import ServiceSettings


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
    settings = Settings.from_env(env, path=path, **sections)
    assert settings.service.environment == expected
    said = {"sections": "code", "prefixed": "environment", "standard": "environment"}.get(SOURCES[first], SOURCES[first])
    assert settings.source("service", "environment").kind == said


def test_sources_complete_each_other(yaml_file: Any) -> None:
    """Keys of one section may come from different sources."""
    env = {"SERVICE_NAME": "shop", "SAGE_OBS_SERVICE__VERSION": "2"}
    settings = Settings.from_env(env, path=yaml_file("service: {environment: staging, name: file}"))
    assert settings.service == ServiceSettings(name="shop", version="2", environment="staging")


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
        ("SAGE_OBS_TRACING__SLOW_SECONDS", "null", "tracing.slow_seconds", None),
        ("SAGE_OBS_SLA__AVAILABILITY", "null", "sla.availability", None),
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
    # Where brackets are nested up to the limit of the stack, callbacks of the collector have no room, those of others neither.
    gc.disable()
    try:
        message = refusal(lambda: Settings.from_env({}, path=path))
    finally:
        gc.enable()
    assert said in message
    assert SECRET not in message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that cannot be read is named with the reason."""
    assert "nowhere.yaml: No such file" in refusal(lambda: Settings.from_env({}, path=tmp_path / "nowhere.yaml"))
    assert "Is a directory" in refusal(lambda: Settings.from_env({"SAGE_OBS_FILE": str(tmp_path)}))


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
        "ai-textbook-logs-%Y.%m.%d",
        "info",
    )
    assert "secret" not in repr(logging)


def test_settings_are_light_to_import() -> None:
    """Neither YAML nor what the rest of the package needs is loaded with them; the package's root is left out here."""
    code = (
        "import sys, types; root = types.ModuleType('sage_fastapi_obs'); root.__path__ = [sys.argv[1]];"
        "sys.modules['sage_fastapi_obs'] = root; import sage_fastapi_obs.settings; print(*sys.modules)"
    )
    package = Path(__file__).parents[2] / "sage_fastapi_obs"
    loaded = subprocess.run(
        [sys.executable, "-c", code, str(package)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "sage_fastapi_obs.settings" in loaded
    assert not {"yaml", "fastapi", "opentelemetry", "prometheus_client", "httpx", "loguru"} & {*loaded}
