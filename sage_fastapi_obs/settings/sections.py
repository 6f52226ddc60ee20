"""All settings: one frozen section per concern, two presets, and where values may come from."""

import difflib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, get_args
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.log_levels import LevelName, usual_level
from sage_fastapi_obs.settings.standard_variables import is_http_url, is_service_link, standard_sections

__all__ = [
    "AlertRuleSettings",
    "AlertSettings",
    "ExportSettings",
    "FigureSettings",
    "HttpSettings",
    "LoggingSettings",
    "MetricsSettings",
    "MonitoringSettings",
    "NotifySettings",
    "ResultSettings",
    "ServiceSettings",
    "Settings",
    "Severity",
    "SlaSettings",
    "TracingSettings",
]

Severity: TypeAlias = Literal["info", "warning", "critical"]
Pack = Literal["http", "runtime", "sage", "sage-core", "textbook", "security", "dependencies", "grpc", "result", "business"]
AliasGroup = Literal["sage", "runtime", "textbook", "result"]

ENV_PREFIX = "SAGE_OBS_"
GRPC_PORT = 4317
_SECRETS = (
    *(["monitoring"], ["monitoring", "token"]),
    *(["logging"], ["logging", "debug_token"], ["logging", "elasticsearch_api_key"]),
)
"""Where a value that is refused may be a secret."""
_SAID = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False, "": False}
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_INDEX_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_CREDENTIALS = re.compile(r"//[^/\s\"']*@")


def _listed(value: object) -> object:
    """Read a text as a list: JSON or, as people write them, separated by commas."""
    if not isinstance(value, str):
        return value
    return json.loads(value) if value.lstrip().startswith("[") else [part.strip() for part in value.split(",") if part.strip()]


def _paired(value: object) -> object:
    """Read a text as a mapping: JSON or, as people write them, `name=other` separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("{"):
        return json.loads(value)
    pairs = [part.partition("=") for part in value.split(",") if part.strip()]
    return {name.strip(): other.strip() for name, _, other in pairs}


def _with_otlp(tracing: Any) -> Any:
    """Add to a section's `jaeger_endpoint` the `otlp_endpoint` that it means today, unless there is one already."""
    endpoint = tracing.get("jaeger_endpoint") if isinstance(tracing, dict) else None
    if not isinstance(endpoint, str) or not is_http_url(endpoint):
        return tracing
    url = urlsplit(endpoint)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    return {"otlp_endpoint": urlunsplit((url.scheme, f"{host}:4318", "/v1/traces", "", "")), **tracing}


def _long_enough(token: SecretStr | None) -> SecretStr | None:
    if token is not None and len(token.get_secret_value()) < 16:
        raise ValueError("a token needs at least 16 characters: python -c 'import secrets; print(secrets.token_urlsafe())'")
    return token


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show everything but the credentials that a URL may carry."""
        for name, value in super().__repr_args__():
            yield name, _CREDENTIALS.sub("//…@", value) if isinstance(value, str) else value


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

    _lists = field_validator("exclude_paths", mode="before")(_listed)

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
            raise ValueError("a header name has letters, digits and dashes only")
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
    level: LevelName = "info"
    """Lowest level that is written."""
    format: Literal["json", "console"] = "json"
    """`json`: one object per line. `console`: for people."""
    field_aliases: dict[str, str] = {}
    """Other names for fields of JSON lines, such as `timestamp` -> `@timestamp`."""
    output: str = "stdout"
    """`stdout`, `stderr`, or the path of a file that is appended to."""
    outputs: tuple[str, ...] = ()
    """Several of these at once, instead of `output`."""
    takeover: bool = True
    """Silence the application's own handlers and sinks that write to the same terminal or file, for what is written there."""
    gather_seconds: float = Field(default=0.02, ge=0.0, le=1.0)
    """Longest time for which JSON lines are gathered to be written together; those of failures, and with 0 all, go at once."""
    rotate_bytes: int | None = Field(default=None, ge=4096)
    """Give the file a name of its own before it grows larger than this, and start another."""
    rotate_hours: int | None = Field(default=None, ge=1)
    """Start another file whenever so many hours have passed in UTC: 24 is at midnight."""
    keep_files: int = Field(default=10, ge=1)
    """Most rotated files that are kept."""
    elasticsearch_url: str | None = None
    """Send lines to this Elasticsearch too; `ELASTICSEARCH_URL` in the environment, in production."""
    elasticsearch_index: str = "ai-textbook-logs"
    """Index or data stream that the lines go to."""
    elasticsearch_level: LevelName = "info"
    """Lowest level that is sent there."""
    elasticsearch_api_key: SecretStr | None = None
    """Its API key, where the URL carries no user and password."""
    otlp_endpoint: str | None = None
    """Send lines as OpenTelemetry log records too: full URL for OTLP over HTTP, such as `http://localhost:4318/v1/logs`."""
    shutdown_seconds: float = Field(default=5.0, gt=0.0, le=60.0)
    """Longest wait for the last lines at shutdown."""
    redact: tuple[str, ...] = ()
    """Names of fields whose values are hidden at any depth, besides the built-in ones; case and separators do not count."""
    redact_builtin: bool = True
    """Hide the values of fields that are called like a password, token, cookie or the like."""
    show_only: tuple[str, ...] | None = None
    """Hide the values of all extra fields but these; None: show those that are not redacted."""
    flight_recorder: bool = False
    """Hold a request's lines below `level` in memory, down to debug, and write them if it fails or is slow."""
    flight_slow_seconds: float | None = Field(default=5.0, gt=0.0)
    """A request is slow whose answer took this long to come (of a stream, its first byte); None: none is."""
    flight_lines: int = Field(default=200, ge=1, le=10_000)
    """Most lines one request holds; older ones are dropped, and the canonical line says how many."""
    flight_bytes: int = Field(default=8 * 1024 * 1024, ge=1024 * 1024)
    """Most bytes all requests hold together."""
    debug_token: SecretStr | None = None
    """The value of `X-Debug-Log` with which a request has its lines below `level` written; None: the header means nothing."""

    _usual_spellings = field_validator("level", "elasticsearch_level", mode="before")(usual_level)

    _pairs = field_validator("field_aliases", mode="before")(_paired)

    _lists = field_validator("redact", "show_only", "outputs", mode="before")(_listed)

    @field_validator("redact", "show_only")
    @classmethod
    def _named(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for name in names or ():
            if not any(map(str.isalnum, name)):
                raise ValueError(f"{name!r} is no name of a field: it has no letters")
        return names

    _not_guessable = field_validator("debug_token")(_long_enough)

    @field_validator("elasticsearch_url", "otlp_endpoint")
    @classmethod
    def _http_url(cls, url: str | None) -> str | None:
        if url is not None and not is_http_url(url):
            raise ValueError("must be an http(s) URL, such as http://localhost:9200 or http://localhost:4318/v1/logs")
        return url

    @field_validator("elasticsearch_index")
    @classmethod
    def _index_name(cls, index: str) -> str:
        if not _INDEX_NAME.fullmatch(index):
            raise ValueError(
                "an index name has small letters, digits, dots, dashes and underscores, and starts with one of the first two"
            )
        return index

    @model_validator(mode="after")
    def _only_files_rotate(self) -> Self:
        if set(self.targets) <= {"stdout", "stderr"} and (self.rotate_bytes or self.rotate_hours):
            raise ValueError("rotate_bytes and rotate_hours need a file: name its path as output")
        return self

    @model_validator(mode="after")
    def _each_output_once(self) -> Self:
        if "" in self.targets or len(set(self.outputs)) < len(self.outputs):
            raise ValueError("outputs: name each once: stdout, stderr, or the path of a file")
        if self.outputs and "output" in self.model_fields_set and self.output not in self.outputs:
            raise ValueError(f"output: {self.output!r} is not among outputs: leave output out, or add it there")
        return self

    @property
    def targets(self) -> tuple[str, ...]:
        """Where lines go: all `outputs`, or the one `output`."""
        return self.outputs or (self.output,)


class TracingSettings(_Section):
    """The server span."""

    enabled: bool = True
    """Open a span per request, unless the request has a server span already."""
    sample_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of new traces that are recorded, 0 to 1; a sampled parent's decision is followed."""
    incoming: Literal["continue", "link", "ignore"] = "continue"
    """What a W3C `traceparent` means: the parent; a link on a new root (public edges); nothing."""
    exporter: Literal["none", "console", "otlp", "console,otlp"] = "none"
    """Where ended spans go; naming `otlp_endpoint` implies `otlp`."""
    otlp_endpoint: str | None = None
    """Full URL for OTLP over HTTP, such as `http://localhost:4318/v1/traces`."""
    jaeger_endpoint: str | None = None
    """Retired: stands for `otlp_endpoint` on port 4318 of the same host."""
    query_values: bool = False
    """Show the values of query parameters in `url.query`; those of sensitive names stay hidden."""
    shutdown_seconds: float = Field(default=5.0, gt=0.0, le=60.0)
    """Longest wait for the last spans at shutdown."""

    @property
    def exporters(self) -> frozenset[str]:
        """Where ended spans go, one by one."""
        return frozenset(self.exporter.split(",")) - {"none"}

    @field_validator("exporter", mode="before")
    @classmethod
    def _in_order(cls, value: object) -> object:
        """Read several as a list, or as people write them."""
        named = _listed(value)
        return ",".join(sorted(map(str, named))) if isinstance(named, list | tuple) else value

    @model_validator(mode="before")
    @classmethod
    def _jaeger_endpoint_is_otlp_now(cls, data: Any) -> Any:
        """Jaeger's Thrift collector (port 14268) is retired; the same host takes OTLP on 4318."""
        data = _with_otlp(data)
        return {"exporter": "otlp", **data} if isinstance(data, dict) and data.get("otlp_endpoint") else data

    @field_validator("otlp_endpoint", "jaeger_endpoint")
    @classmethod
    def _http_url(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not is_http_url(endpoint):
            raise ValueError("must be an http(s) URL, such as http://localhost:4318/v1/traces for otlp_endpoint")
        return endpoint

    @model_validator(mode="after")
    def _otlp_needs_an_endpoint(self) -> Self:
        if "otlp" in self.exporters and self.otlp_endpoint is None:
            raise ValueError("exporter 'otlp' needs otlp_endpoint, such as http://localhost:4318/v1/traces")
        return self


class MetricsSettings(_Section):
    """The metrics and `/metrics`."""

    enabled: bool = True
    """Record metrics and serve them."""
    path: str = "/metrics"
    """Where Prometheus scrapes."""
    port: int = Field(default=9090, ge=0, le=65535)
    """Port of the stand-alone metrics server, used with `monitoring.access = "port"`; 0 takes a free one."""
    packs: tuple[Pack, ...] = ("http", "runtime", "result")
    """Sets of metrics that are switched on."""
    compat_aliases: bool | tuple[AliasGroup, ...] = False
    """Show metrics by their older names, too: all of them, or those of some groups."""
    legacy_views: bool = False
    """Serve `/metrics/sessions`, `/metrics/handshakes` and `/metrics/crypto`: parts of `/metrics`."""
    duration_buckets: tuple[float, ...] | None = None
    """Bounds of `http_request_duration_seconds` in seconds, ascending; None: those of the catalog."""
    max_label_values: int = Field(default=200, ge=1)
    """Most distinct values of an open label; the rest is counted as `other`."""
    max_routes: int = Field(default=2000, ge=1)
    """Most distinct route templates; the rest is counted as `other`."""
    exemplars: bool = True
    """Attach the trace id of sampled traces to duration buckets."""

    @property
    def alias_groups(self) -> tuple[AliasGroup, ...]:
        """The groups of older names that are shown."""
        if isinstance(self.compat_aliases, tuple):
            return self.compat_aliases
        return get_args(AliasGroup) if self.compat_aliases else ()

    @field_validator("path")
    @classmethod
    def _absolute(cls, path: str) -> str:
        if not path.startswith("/"):
            raise ValueError("must start with '/'")
        return path

    _lists = field_validator("packs", "duration_buckets", mode="before")(_listed)

    @field_validator("compat_aliases", mode="before")
    @classmethod
    def _all_none_or_listed(cls, value: object) -> object:
        if isinstance(value, str) and value.lower() in _SAID:
            return _SAID[value.lower()]
        return _listed(value)

    @field_validator("duration_buckets")
    @classmethod
    def _ascending(cls, bounds: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if bounds is None:
            return None
        rising = list(bounds) == sorted(set(bounds)) and all(0 < bound < math.inf for bound in bounds)
        if not bounds or not rising:
            raise ValueError("bounds must be positive, finite, distinct and ascending")
        return bounds


class MonitoringSettings(_Section):
    """Who may read `/metrics` and `/monitoring/*`."""

    prefix: str = "/monitoring"
    """Where the monitoring pages live."""
    access: Literal["local", "token", "port", "open"] = "local"
    """`local`: this machine. `token`: bearer token. `port`: metrics on a port of their own. `open`: everyone."""
    token: SecretStr | None = None
    """The bearer token; with `access = "token"` and no token everything but the probes is closed."""
    interval_seconds: float = Field(default=15.0, ge=1.0, le=300.0)
    """How often windows and alerts look at the metrics."""
    expose_logs: bool = False
    """Show the recent lines of a request under `logs/{id}`."""
    log_buffer_size: int | None = Field(default=None, ge=0, le=1_000_000)
    """Most recent lines that are kept in memory; None: 10,000 with `expose_logs`, else 0."""
    log_buffer_bytes: int = Field(default=8 * 1024 * 1024, ge=1024 * 1024)
    """Most bytes that recent lines take."""

    @field_validator("prefix")
    @classmethod
    def _absolute(cls, prefix: str) -> str:
        if not prefix.startswith("/") or prefix.endswith("/"):
            raise ValueError("must start with '/' and not end with one")
        return prefix

    _not_guessable = field_validator("token")(_long_enough)


class FigureSettings(_Section):
    """A figure that another is divided by."""

    metric: str = Field(min_length=1)
    """Its metric; counters with `_total`."""
    statistic: str | None = None
    """Which figure; by default the increase of a counter."""
    where: dict[str, str] = {}
    """What labels must be."""


class AlertRuleSettings(_Section):
    """One alert rule: a figure, or a ratio of figures, held against a threshold."""

    name: str = Field(min_length=1)
    """Its name; a rule of the same name is replaced."""
    metric: str = Field(min_length=1)
    """What is watched; counters with `_total`, histograms without a suffix."""
    statistic: str | None = None
    """`increase`, `rate`, `count`, `sum`, `mean`, `p95`, `last`, …; by default what suits the metric."""
    where: dict[str, str] = {}
    """What labels must be: `{status: "=~5..", route: /items}`."""
    by: tuple[str, ...] = ()
    """Labels of which each combination of values is an alert of its own."""
    window_seconds: float = Field(default=300.0, gt=0.0, le=604_800.0)
    """How far back the figure looks."""
    absent: float | None = None
    """The figure where there is none."""
    divided_by: tuple[FigureSettings, ...] = ()
    """What the figure is a share of: these figures, added up."""
    objective: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Share that has to go well: the ratio is of errors then, and the threshold a burn rate, over both windows."""
    short_window_seconds: float = Field(default=300.0, gt=0.0, le=604_800.0)
    """The second window of a burn rate."""
    condition: Literal[">", ">=", "<", "<=", "==", "!="] = ">"
    """How the figure compares to the threshold."""
    threshold: float
    """What it is held against."""
    for_seconds: float = Field(default=0.0, ge=0.0)
    """How long the condition has to hold."""
    keep_firing_seconds: float = Field(default=0.0, ge=0.0)
    """How long it has to have ended."""
    resolve_threshold: float | None = None
    """What the figure is held against once the alert fires."""
    cooldown_seconds: float = Field(default=300.0, ge=0.0)
    """Shortest time between two notifications."""
    severity: Severity = "warning"
    """How bad it is."""
    labels: dict[str, str] = {}
    """Labels of the alert."""
    annotations: dict[str, str] = {}
    """Texts of the alert; `{{ $value }}` and `{{ $labels.route }}` are filled in."""
    notify: tuple[str, ...] = ()
    """Who is told: `slack`, `email`, `pagerduty`, `webhook`."""

    @model_validator(mode="after")
    def _objective_of_a_ratio(self) -> Self:
        if self.objective is not None and not self.divided_by:
            raise ValueError("an objective needs divided_by: what the errors are a share of")
        return self


class AlertSettings(_Section):
    """The alert rules that are judged in process."""

    defaults: bool = True
    """Judge the rules that come with the package."""
    rules: tuple[AlertRuleSettings, ...] = ()
    """Rules of your own."""

    _lists = field_validator("rules", mode="before")(_listed)


class NotifySettings(_Section):
    """Whom alerts are told; what is not set is only logged. Each secret may be in a file instead, read whenever it is used."""

    slack_webhook_url: SecretStr | None = None
    """Incoming webhook of a Slack channel."""
    slack_webhook_url_file: str | None = None
    """File with that URL."""
    pagerduty_routing_key: SecretStr | None = None
    """Integration key of a PagerDuty service, Events API v2."""
    pagerduty_routing_key_file: str | None = None
    """File with that key."""
    pagerduty_url: str = "https://events.pagerduty.com/v2/enqueue"
    """Where PagerDuty takes events; in Europe events.eu.pagerduty.com."""
    webhook_url: SecretStr | None = None
    """Where alerts are posted in the format of Alertmanager's webhooks."""
    webhook_url_file: str | None = None
    """File with that URL."""
    smtp_host: str | None = None
    """Mail server."""
    smtp_port: int = Field(default=587, ge=1, le=65535)
    """Its port."""
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    """How the connection is protected."""
    smtp_user: str | None = None
    """User name, where the server wants one."""
    smtp_password: SecretStr | None = None
    """Password of that user."""
    smtp_password_file: str | None = None
    """File with that password."""
    email_from: str | None = None
    """Sender of the mails."""
    email_to: tuple[str, ...] = ()
    """Who gets them."""

    _lists = field_validator("email_to", mode="before")(_listed)

    @field_validator("slack_webhook_url", "webhook_url")
    @classmethod
    def _secret_http_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not is_http_url(url.get_secret_value()):
            raise ValueError("must be an http(s) URL")
        return url

    @field_validator("pagerduty_url")
    @classmethod
    def _http_url(cls, url: str) -> str:
        if not is_http_url(url):
            raise ValueError("must be an http(s) URL")
        return url

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for secret in ("slack_webhook_url", "pagerduty_routing_key", "webhook_url", "smtp_password"):
            if getattr(self, secret) is not None and getattr(self, f"{secret}_file") is not None:
                raise ValueError(f"set {secret} or {secret}_file, not both")
        if self.smtp_host is not None and not (self.email_from and self.email_to):
            raise ValueError("smtp_host needs email_from and email_to")
        return self


class ResultSettings(_Section):
    """What lines about operations that give a `Result` say."""

    include_stack_trace: bool = True
    """Show the stack of an exception."""
    include_performance_data: bool = True
    """Show how long it took, and what the memory of the process changed by."""


class SlaSettings(_Section):
    """What is promised: shares in percent, times as their names say; none is no promise."""

    availability: float | None = Field(default=99.9, ge=0.0, le=100.0)
    """Least share of requests that go well."""
    error_rate: float | None = Field(default=0.1, ge=0.0, le=100.0)
    """Most share of requests that fail."""
    response_time_p95_ms: float | None = Field(default=1000.0, gt=0.0)
    """Longest 95th percentile of response times."""
    response_time_mean_ms: float | None = Field(default=200.0, gt=0.0)
    """Longest mean response time."""
    max_response_ms: float | None = Field(default=1000.0, gt=0.0)
    """Longest single response; shown beside the longest there was, and not a violation."""
    rto_minutes: float | None = Field(default=5.0, gt=0.0)
    """Time to recover; shown for those who are on call."""


class ExportSettings(_Section):
    """What `sage-obs export` has to know about the service beyond what it does."""

    team: str = ""
    """Who is responsible; a label of alerts."""
    targets: tuple[str, ...] = ()
    """Where Prometheus scrapes, as host and port; by default the service's name and the port of its metrics."""
    job: str | None = None
    """Expression for the scrape jobs of this service, where there are several; by default its name."""
    runbooks_url: str = "docs/runbooks"
    """Where the pages named after alerts are."""
    dashboards_url: str = "http://localhost:3000"
    """Where Grafana is."""
    packs: tuple[str, ...] = ()
    """Classes with metrics of your own that dashboards get rows for, as `module:Class`."""
    slack_channel: str = "#alerts"
    """Channel of alerts; those of `critical` and `warning` ones are called so at the end."""
    sink_url: str = "http://alert-sink:9094/"
    """Webhook that the configuration for demonstrations tells of everything."""
    namespace: str = "default"
    """Namespace in Kubernetes."""
    image: str = ""
    """Container image; by default the service's name and version."""

    _lists = field_validator("targets", "packs", mode="before")(_listed)

    @field_validator("job")
    @classmethod
    def _expression(cls, job: str | None) -> str | None:
        try:
            re.compile(job or "")
        except re.error as error:
            raise ValueError(f"must be a regular expression: {error}") from None
        return job


PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "dev": {
        "service": {"environment": "development"},
        "logging": {"level": "debug", "format": "console"},
        "tracing": {"sample_rate": 1.0},
        "monitoring": {"access": "local", "expose_logs": True},
    },
    "production": {
        "service": {"environment": "production"},
        "logging": {"level": "info", "format": "json", "flight_recorder": True},
        "tracing": {"sample_rate": 0.1},
        "monitoring": {"access": "token"},
    },
}
_DEVELOPMENT = {"", "dev", "development", "local", "test", "testing"}


@dataclass(frozen=True)
class _Origin:
    """Where values came from, which is no part of what they are: settings with the same values are equal."""

    preset: str | None = field(default=None, compare=False)
    remarks: tuple[str, ...] = field(default=(), compare=False)


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
    alerts: AlertSettings = AlertSettings()
    notify: NotifySettings = NotifySettings()
    sla: SlaSettings = SlaSettings()
    result: ResultSettings = ResultSettings()
    export: ExportSettings = ExportSettings()
    _origin: _Origin = PrivateAttr(default_factory=_Origin)

    def __init__(self, **sections: Any) -> None:
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise SettingsError(_explain(type(self), error)) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what is passed counts: reading the environment is `from_env`'s explicit job."""
        return (init_settings,)

    @classmethod
    def dev(cls, **sections: Any) -> Self:
        """Build the development preset: console lines, debug level, every trace, pages for this machine."""
        return cls._begun("dev", sections)

    @classmethod
    def production(cls, **sections: Any) -> Self:
        """Build the production preset: JSON lines, info level, one trace in ten, pages behind a token."""
        return cls._begun("production", sections)

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
        then the YAML file (`path` or `SAGE_OBS_FILE`), then, in production, `ELASTICSEARCH_URL`, then the preset (`preset`,
        `SAGE_OBS_PRESET`, or by environment name: anything that is not a name for development is production). A variable
        that is empty, or that Kubernetes sets for a service, is as good as none.
        """
        env = os.environ if env is None else env
        prefixed = {name: value for name, value in env.items() if name.startswith(ENV_PREFIX) and value.strip()}
        file, named = prefixed.pop(f"{ENV_PREFIX}FILE", None), prefixed.pop(f"{ENV_PREFIX}PRESET", None)
        path = path or file
        remarks: list[str] = []
        standard = standard_sections(env, remarks.append)
        layers = (_yaml(path) if path else {}, standard, _prefixed_variables(cls, prefixed), sections)
        # The retired name is translated per source: that of a stronger source beats the new name in a weaker one.
        given = _merge(*({key: _with_otlp(section) for key, section in layer.items()} for layer in layers))
        chosen = preset or named or _preset_for(given.get("service"), path, remarks)
        if chosen == "production" and (url := env.get("ELASTICSEARCH_URL", "").strip()):
            # An application under development may mean another use of it.
            given = _merge({"logging": {"elasticsearch_url": url}}, given)
        return cls._begun(chosen, given, remarks)

    @classmethod
    def _begun(cls, preset: str, given: Mapping[str, Any], remarks: Sequence[str] = ()) -> Self:
        """Lay sections over a preset."""
        if preset not in PRESETS:
            raise SettingsError(f"SAGE_OBS_PRESET={preset!r} is not a preset: use {' or '.join(PRESETS)}")
        settings = cls(**_merge(PRESETS[preset], given))
        settings._origin = _Origin(preset, tuple(remarks))
        return settings

    @property
    def preset(self) -> str | None:
        """The preset that the values began with; None for `Settings(...)`."""
        return self._origin.preset

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is odd about the values and where they came from, with what to change: told at the start."""
        return (*self._origin.remarks, *self._odd())

    def _odd(self) -> Iterator[str]:
        if "port" in self.metrics.model_fields_set and self.monitoring.access != "port":
            yield (
                f"metrics.port is set and not used: nothing listens on {self.metrics.port}, and metrics are at "
                f"{self.metrics.path} of the application; set monitoring.access to 'port', or leave metrics.port out"
            )
        if self.tracing.jaeger_endpoint is not None:
            yield "tracing.jaeger_endpoint is retired: name tracing.otlp_endpoint instead, on port 4318 of the same host"
        for section, endpoint in (("tracing", self.tracing.otlp_endpoint), ("logging", self.logging.otlp_endpoint)):
            if endpoint is not None and urlsplit(endpoint).port == GRPC_PORT:
                yield f"{section}.otlp_endpoint has port {GRPC_PORT}, which is that of gRPC: OTLP over HTTP is on 4318"


def _preset_for(service: object, path: str | Path | None, remarks: list[str]) -> str:
    """Choose by the environment's name; a file that names none is perhaps not meant for development, and that is remarked."""
    environment = str(service.get("environment", "")) if isinstance(service, dict) else ""
    if path and not environment:
        remarks.append(
            f"{path} names no environment, so the preset 'dev' holds: name it as service.environment there or in APP_ENV, "
            "or a preset in SAGE_OBS_PRESET"
        )
    return "dev" if environment.lower() in _DEVELOPMENT else "production"


def _merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Lay sections over one another, later ones on top."""
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = merged.get(key)
            above = value.model_dump(exclude_unset=True) if isinstance(value, BaseModel) else value
            merged[key] = {**below, **above} if isinstance(below, dict) and isinstance(above, dict) else above
    return merged


class _MappingSource(EnvSettingsSource):
    """pydantic-settings' parsing of `PREFIX_SECTION__KEY`, over any mapping instead of the process's environment."""

    def __init__(self, settings_cls: type[BaseSettings], env: Mapping[str, str]) -> None:
        self._env = {key.lower(): value for key, value in env.items()}
        super().__init__(settings_cls, env_prefix=ENV_PREFIX, env_nested_delimiter="__")

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return self._env

    def decode_complex_value(self, _name: str, _field: Any, value: Any) -> Any:
        """Leave lists to the settings, which say what is wrong with them by name."""
        return value


def _prefixed_variables(cls: type[Settings], prefixed: Mapping[str, str]) -> dict[str, Any]:
    known = {
        f"{ENV_PREFIX}{section}__{key}".upper()
        for section, field in cls.model_fields.items()
        for key in getattr(field.annotation, "model_fields", ())
    } | {f"{ENV_PREFIX}ENABLED"}
    ours = {name: value for name, value in prefixed.items() if name.upper() in known or not is_service_link(name, value)}
    for name in ours:
        if name.upper() not in known:
            raise SettingsError(f"{name} is no setting{_suggest(name.upper(), known)}")
    try:
        return _MappingSource(cls, ours)()
    except (ValueError, ValidationError) as error:
        raise SettingsError(f"cannot read the {ENV_PREFIX}* variables: {error}") from None


def _yaml(path: str | Path) -> dict[str, Any]:
    try:
        import yaml  # noqa: PLC0415 - an extra, wanted only where there is a file
    except ImportError:
        raise SettingsError("reading a YAML file needs PyYAML: pip install 'sage_fastapi_obs[yaml]'") from None
    try:
        with Path(path).open("rb") as file:
            read = yaml.safe_load(file)
    except OSError as error:
        raise SettingsError(f"cannot read the settings file {path}: {error.strerror}") from None
    except Exception as error:  # a class per fault; the messages quote the file, and so perhaps its secrets
        mark = getattr(error, "problem_mark", None)
        where = f": look at line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        raise SettingsError(f"the settings file {path} is not YAML{where}") from None
    if read is None:
        return {}
    if not isinstance(read, dict) or not all(isinstance(key, str) for key in read):
        raise SettingsError(f"the settings file {path} is not a mapping of sections, such as 'logging: {{level: debug}}'")
    # A section whose keys are all commented out is an empty one.
    return {key: {} if value is None else value for key, value in read.items()}


def _suggest(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f": did you mean {close[0]}?" if close else f"; there are: {', '.join(sorted(known))}"


def _explain(cls: type[Settings], error: ValidationError) -> str:
    """One line per fault: where, what is wrong, what would be right; never a secret's value."""
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        where = [str(part) for part in fault["loc"]]
        if fault["type"] == "extra_forbidden":
            known = set(getattr(_section(cls, where[:-1]), "model_fields", ()))
            lines.append(f"{'.'.join(where)} is no setting{_suggest(where[-1], known)}")
        else:
            hidden = (where in _SECRETS or where[0] == "notify") and fault["input"] is not None
            shown = "" if hidden or isinstance(fault["input"], dict) else f", not {_brief(fault['input'])}"
            lines.append(f"{'.'.join(where)}: {fault['msg'].removeprefix('Value error, ')}{shown}")
    return "\n".join(lines)


def _section(cls: Any, where: Iterable[str]) -> Any:
    """Find the section at a place; the entries of a list are sections, too."""
    for part in where:
        cls = next(iter(get_args(cls)), None) if part.isdecimal() else cls.model_fields[part].annotation
    return cls


def _brief(value: object) -> str:
    try:
        return _CREDENTIALS.sub("//…@", json.dumps(value))[:80]
    except (TypeError, ValueError, RecursionError):
        return f"a {type(value).__name__}"
