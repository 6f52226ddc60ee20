"""All settings: one frozen section per concern, two presets, and where values may come from."""

import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self, cast
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    YamlConfigSettingsSource,
)

from sage_fastapi_obs.errors import SettingsError

__all__ = [
    "HttpSettings",
    "LoggingSettings",
    "MetricsSettings",
    "MonitoringSettings",
    "ServiceSettings",
    "Settings",
    "TracingSettings",
]

ENV_PREFIX = "SAGE_OBS_"
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServiceSettings(_Section):
    """Who is speaking: on every log line and in the resource of every span."""

    name: str = Field(default="unknown_service", min_length=1)
    """Service name; `SERVICE_NAME` or `OTEL_SERVICE_NAME` in the environment."""
    environment: str = "development"
    """Deployment environment; `APP_ENV` or `NODE_ENV` in the environment."""
    version: str = "0.0.0"
    """Version of the service; `APP_VERSION` in the environment."""


class HttpSettings(_Section):
    """How requests are identified, and which of them are not recorded."""

    exclude_paths: tuple[str, ...] = ("/metrics", "/monitoring")
    """Paths, with everything below them, that get ids but no span, no metrics and only a debug line."""
    request_id_header: str = "X-Request-ID"
    """Header that carries the id of this hop, in and out."""
    correlation_header: str = "X-Correlation-ID"
    """Header that carries the id shared by all hops, in and out."""
    incoming_ids: Literal["accept", "replace", "reject"] = "accept"
    """`accept`: adopt safe incoming ids, mint otherwise. `replace`: always mint. `reject`: answer 400 to unsafe ones."""
    trace_response_header: bool = True
    """Send `traceresponse`, so that a client can name the trace of its request."""

    @field_validator("exclude_paths")
    @classmethod
    def _absolute(cls, paths: tuple[str, ...]) -> tuple[str, ...]:
        for path in paths:
            if not path.startswith("/"):
                raise ValueError(f"{path!r} must start with '/'")
        return tuple(path.rstrip("/") or "/" for path in paths)

    @field_validator("request_id_header", "correlation_header")
    @classmethod
    def _token(cls, name: str) -> str:
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a header name: use letters, digits and dashes")
        return name

    @model_validator(mode="after")
    def _two_headers(self) -> Self:
        if self.request_id_header.lower() == self.correlation_header.lower():
            raise ValueError("request_id_header and correlation_header must differ: they carry two ids")
        return self


class LoggingSettings(_Section):
    """The log lines."""

    enabled: bool = True
    """Take over logging and write one line per request."""
    level: Literal["trace", "debug", "info", "warn", "error", "critical"] = "info"
    """Lowest level that is written."""
    format: Literal["json", "console"] = "json"
    """`json`: one object per line. `console`: for people."""
    output: str = "stdout"
    """`stdout`, `stderr`, or the path of a file that is appended to."""

    @field_validator("level", mode="before")
    @classmethod
    def _usual_spellings(cls, level: object) -> object:
        if not isinstance(level, str):
            return level
        return {"warning": "warn", "fatal": "critical"}.get(level.lower(), level.lower())


class TracingSettings(_Section):
    """The server span."""

    enabled: bool = True
    """Open a span per request, unless the request has a server span already."""
    sample_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of new traces that are recorded, 0 to 1; a sampled parent's decision is followed."""
    incoming: Literal["continue", "link", "ignore"] = "continue"
    """What a W3C `traceparent` means: the parent; a link on a new root (public edges); nothing."""
    exporter: Literal["none", "console", "otlp"] = "none"
    """Where ended spans go; naming `otlp_endpoint` implies `otlp`."""
    otlp_endpoint: str | None = None
    """Full URL for OTLP over HTTP, such as `http://localhost:4318/v1/traces`."""
    query_values: bool = False
    """Show the values of query parameters in `url.query`; those of sensitive names stay hidden."""
    shutdown_seconds: float = Field(default=5.0, gt=0.0, le=60.0)
    """Longest wait for the last spans at shutdown."""

    @model_validator(mode="before")
    @classmethod
    def _jaeger_endpoint_is_otlp_now(cls, data: Any) -> Any:
        """Jaeger's Thrift collector (port 14268) is retired; the same host takes OTLP on 4318."""
        if isinstance(data, dict) and "jaeger_endpoint" in data:
            data = dict(data)
            url = urlsplit(data.pop("jaeger_endpoint"))
            if "otlp_endpoint" not in data:
                data["otlp_endpoint"] = urlunsplit((url.scheme, f"{url.hostname}:4318", "/v1/traces", "", ""))
        if isinstance(data, dict) and data.get("otlp_endpoint") and "exporter" not in data:
            data = {**data, "exporter": "otlp"}
        return data

    @field_validator("otlp_endpoint")
    @classmethod
    def _http_url(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and urlsplit(endpoint).scheme not in ("http", "https"):
            raise ValueError(f"{endpoint!r} must be an http(s) URL, such as http://localhost:4318/v1/traces")
        return endpoint

    @model_validator(mode="after")
    def _otlp_needs_an_endpoint(self) -> Self:
        if self.exporter == "otlp" and self.otlp_endpoint is None:
            raise ValueError("exporter 'otlp' needs otlp_endpoint, such as http://localhost:4318/v1/traces")
        return self


class MetricsSettings(_Section):
    """The RED metrics and `/metrics`."""

    enabled: bool = True
    """Record metrics and serve them."""
    path: str = "/metrics"
    """Where Prometheus scrapes."""
    port: int = Field(default=9090, ge=0, le=65535)
    """Port of the stand-alone metrics server, used with `monitoring.access = "port"`; 0 takes a free one."""
    duration_buckets: tuple[float, ...] | None = None
    """Bounds of `http_request_duration_seconds` in seconds, ascending; None: those of the catalog."""
    max_label_values: int = Field(default=200, ge=1)
    """Most distinct values of an open label; the rest is counted as `other`."""
    max_routes: int = Field(default=2000, ge=1)
    """Most distinct route templates; the rest is counted as `other`."""
    exemplars: bool = True
    """Attach the trace id of sampled traces to duration buckets."""

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        if not path.startswith("/"):
            raise ValueError(f"{path!r} must start with '/'")
        return path

    @field_validator("duration_buckets")
    @classmethod
    def _ascending(cls, bounds: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if bounds is not None and (not bounds or list(bounds) != sorted(set(bounds)) or bounds[0] <= 0):
            raise ValueError("bounds must be positive, distinct and ascending")
        return bounds


class MonitoringSettings(_Section):
    """Who may read `/metrics` and `/monitoring/*`."""

    prefix: str = "/monitoring"
    """Where the monitoring pages live."""
    access: Literal["local", "token", "port", "open"] = "local"
    """`local`: this machine. `token`: bearer token. `port`: metrics on a port of their own. `open`: everyone."""
    token: SecretStr | None = None
    """The bearer token; with `access = "token"` and no token everything but the probes is closed."""

    @field_validator("prefix")
    @classmethod
    def _absolute(cls, prefix: str) -> str:
        if not prefix.startswith("/") or prefix.endswith("/"):
            raise ValueError(f"{prefix!r} must start with '/' and not end with one")
        return prefix

    @field_validator("token")
    @classmethod
    def _guessable(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < 16:
            raise ValueError("a token needs at least 16 characters: python -c 'import secrets; print(secrets.token_urlsafe())'")
        return token


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "dev": {
        "service": {"environment": "development"},
        "logging": {"level": "debug", "format": "console"},
        "tracing": {"sample_rate": 1.0},
        "monitoring": {"access": "local"},
    },
    "production": {
        "service": {"environment": "production"},
        "logging": {"level": "info", "format": "json"},
        "tracing": {"sample_rate": 0.1},
        "monitoring": {"access": "token"},
    },
}
_DEVELOPMENT = {"", "dev", "development", "local", "test", "testing"}


class Settings(BaseSettings):
    """Everything that can be set.

    `Settings(...)` takes sections as dictionaries and reads nothing else. `Settings.from_env()` also reads a preset,
    a YAML file and the environment. Unknown keys and impossible values raise `SettingsError`.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    enabled: bool = True
    """False: the middleware hands every request straight through."""
    service: ServiceSettings = ServiceSettings()
    http: HttpSettings = HttpSettings()
    logging: LoggingSettings = LoggingSettings()
    tracing: TracingSettings = TracingSettings()
    metrics: MetricsSettings = MetricsSettings()
    monitoring: MonitoringSettings = MonitoringSettings()

    def __init__(self, **sections: Any) -> None:
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise SettingsError(_explain(type(self), error)) from None

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, **_: PydanticBaseSettingsSource
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed counts: reading the environment is `from_env`'s explicit job."""
        return (init_settings,)

    @classmethod
    def dev(cls, **sections: Any) -> Self:
        """Build the development preset: console lines, debug level, every trace, pages for this machine."""
        return cls(**_merge(PRESETS["dev"], sections))

    @classmethod
    def production(cls, **sections: Any) -> Self:
        """Build the production preset: JSON lines, info level, one trace in ten, pages behind a token."""
        return cls(**_merge(PRESETS["production"], sections))

    @classmethod
    def from_env(
        cls,
        env: Mapping[str, str] | None = None,
        *,
        preset: Literal["dev", "production"] | None = None,
        path: str | Path | None = None,
        **sections: Any,
    ) -> Self:
        """Read settings; each source overrides those after it.

        `sections`, then `SAGE_OBS_<SECTION>__<KEY>`, then `SERVICE_NAME`, `APP_ENV`, `NODE_ENV`, `APP_VERSION` and `OTEL_*`,
        then the YAML file (`path` or `SAGE_OBS_FILE`), then the preset (`preset`, `SAGE_OBS_PRESET`, or by environment name:
        anything that is not a name for development is production).
        """
        env = os.environ if env is None else env
        prefixed = {key: value for key, value in env.items() if key.startswith(ENV_PREFIX)}
        path = path or prefixed.pop(f"{ENV_PREFIX}FILE", None)
        chosen = preset or prefixed.pop(f"{ENV_PREFIX}PRESET", None)
        prefixed.pop(f"{ENV_PREFIX}PRESET", None)
        given = _merge(_yaml(cls, path) if path else {}, _standard_variables(env), _prefixed_variables(cls, prefixed), sections)
        if chosen is None:
            environment = given.get("service", {}).get("environment", "")
            chosen = "dev" if str(environment).lower() in _DEVELOPMENT else "production"
        if chosen not in PRESETS:
            raise SettingsError(f"SAGE_OBS_PRESET={chosen!r} is not a preset: use {' or '.join(PRESETS)}")
        return cls(**_merge(PRESETS[chosen], given))


def _merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay sections over one another, later ones on top."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            if isinstance(value, BaseModel):
                value = value.model_dump(exclude_unset=True)
            merged[key] = {**below, **value} if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


class _MappingSource(EnvSettingsSource):
    """pydantic-settings' parsing of `PREFIX_SECTION__KEY`, over any mapping instead of the process's environment."""

    def __init__(self, settings_cls: type[BaseSettings], env: Mapping[str, str]) -> None:
        self._env = {key.lower(): value for key, value in env.items()}
        super().__init__(settings_cls, env_prefix=ENV_PREFIX, env_nested_delimiter="__")

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._env

    def decode_complex_value(self, field_name: str, field: Any, value: Any) -> Any:
        """Read lists as JSON or, as people write them, separated by commas."""
        if isinstance(value, str) and not value.lstrip().startswith(("[", "{")):
            return [part.strip() for part in value.split(",") if part.strip()]
        return super().decode_complex_value(field_name, field, value)


def _prefixed_variables(cls: type[Settings], prefixed: Mapping[str, str]) -> dict[str, Any]:
    known = {
        f"{ENV_PREFIX}{section}__{key}".upper()
        for section, field in cls.model_fields.items()
        for key in getattr(field.annotation, "model_fields", ())
    } | {f"{ENV_PREFIX}ENABLED", f"{ENV_PREFIX}TRACING__JAEGER_ENDPOINT"}
    for name in prefixed:
        if name.upper() not in known:
            raise SettingsError(f"{name} is no setting{_suggest(name.upper(), known)}")
    try:
        return _MappingSource(cls, prefixed)()
    except (ValueError, ValidationError) as error:
        raise SettingsError(f"cannot read the {ENV_PREFIX}* variables: {error}") from None


def _standard_variables(env: Mapping[str, str]) -> dict[str, Any]:
    """Read the variables that are not ours but mean the same."""
    resource = dict(pair.split("=", 1) for pair in env.get("OTEL_RESOURCE_ATTRIBUTES", "").split(",") if "=" in pair)
    service = {
        "name": env.get("SERVICE_NAME") or env.get("OTEL_SERVICE_NAME") or resource.get("service.name"),
        "version": env.get("APP_VERSION") or resource.get("service.version"),
        "environment": env.get("APP_ENV") or env.get("NODE_ENV") or resource.get("deployment.environment.name"),
    }
    endpoint = env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if not endpoint and (base := env.get("OTEL_EXPORTER_OTLP_ENDPOINT")):
        endpoint = f"{base.rstrip('/')}/v1/traces"
    exporter = env.get("OTEL_TRACES_EXPORTER")
    tracing: dict[str, Any] = {"otlp_endpoint": endpoint, "exporter": exporter, "sample_rate": _sampler(env)}
    if exporter == "otlp" and not endpoint:
        tracing["otlp_endpoint"] = "http://localhost:4318/v1/traces"
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true":
        tracing["enabled"] = False
    found = {"service": service, "tracing": tracing}
    return {
        section: kept
        for section, values in found.items()
        if (kept := {key: value for key, value in values.items() if value not in (None, "")})
    }


def _sampler(env: Mapping[str, str]) -> str | float | None:
    """Turn `OTEL_TRACES_SAMPLER` and its argument into a sample rate."""
    sampler = env.get("OTEL_TRACES_SAMPLER", "").removeprefix("parentbased_")
    match sampler:
        case "":
            return None
        case "always_on":
            return 1.0
        case "always_off":
            return 0.0
        case "traceidratio":
            return env.get("OTEL_TRACES_SAMPLER_ARG", 1.0)
    raise SettingsError(
        f"OTEL_TRACES_SAMPLER={env['OTEL_TRACES_SAMPLER']!r}: use always_on, always_off or traceidratio, "
        "with or without parentbased_, or pass a tracer_provider with your own sampler"
    )


def _yaml(cls: type[Settings], path: str | Path) -> dict[str, Any]:
    try:
        Path(path).read_bytes()
        return cast("dict[str, Any]", YamlConfigSettingsSource(cls, yaml_file=path)())
    except ImportError:
        raise SettingsError("reading a YAML file needs PyYAML: pip install 'sage_fastapi_obs[yaml]'") from None
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from None
    except Exception as error:  # PyYAML has an error class per fault, and pydantic-settings adds its own
        raise SettingsError(f"the settings file {path} is not a YAML mapping of sections: {error}") from None


def _suggest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else f"; there are: {', '.join(sorted(known))}"


def _explain(cls: type[Settings], error: ValidationError) -> str:
    """One line per fault: where, what is wrong, what would be right; never a secret's value."""
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        where = [str(part) for part in fault["loc"]]
        if fault["type"] == "extra_forbidden":
            section = cls.model_fields[where[0]].annotation if len(where) > 1 else cls
            known = set(getattr(section, "model_fields", ()))
            lines.append(f"{'.'.join(where)} is no setting{_suggest(where[-1], known)}")
        else:
            shown = "" if "token" in where or isinstance(fault["input"], dict) else f", not {_brief(fault['input'])}"
            lines.append(f"{'.'.join(where)}: {fault['msg'].removeprefix('Value error, ')}{shown}")
    return "\n".join(lines)


def _brief(value: object) -> str:
    try:
        return json.dumps(value)[:80]
    except TypeError:
        return repr(value)[:80]
