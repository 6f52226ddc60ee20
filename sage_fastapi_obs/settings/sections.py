"""All settings: one frozen section per concern. Each field can be set by `SAGE_OBS_<SECTION>__<KEY>`."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.settings.explain import explain, remarks_on, without_credentials
from sage_fastapi_obs.settings.field_types import (
    Bounds,
    CommaSeparated,
    ExcludedPath,
    Exporter,
    FieldName,
    HeaderName,
    HttpUrl,
    IndexName,
    Level,
    NamePairs,
    Names,
    PathPrefix,
    RegularExpression,
    RoutePath,
    SecretHttpUrl,
    SwitchOrList,
    Token,
    with_otlp_endpoint,
)
from sage_fastapi_obs.settings.sources import Origin, over_preset, read_all

Severity: TypeAlias = Literal["info", "warning", "critical"]
Pack = Literal["http", "runtime", "sage", "sage-core", "textbook", "security", "dependencies", "grpc", "result", "business"]
AliasGroup = Literal["sage", "runtime", "textbook", "result"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show everything but the credentials that a URL may carry."""
        for name, value in super().__repr_args__():
            yield name, without_credentials(value) if isinstance(value, str) else value


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

    exclude_paths: Annotated[tuple[ExcludedPath, ...], CommaSeparated] = ("/metrics", "/monitoring")
    """Paths, with everything below them, that get ids but no span, no metrics and only a debug line."""
    request_id_header: HeaderName = "X-Request-ID"
    """Header that carries the id of this hop, in and out."""
    correlation_header: HeaderName = "X-Correlation-ID"
    """Header that carries the id shared by all hops, in and out."""
    incoming_ids: Literal["accept", "replace", "reject"] = "accept"
    """`accept`: adopt safe incoming ids, mint otherwise. `replace`: always mint. `reject`: answer 400 to unsafe ones."""
    trace_response_header: bool = True
    """Send `traceresponse`, so that a client can name the trace of its request."""

    @model_validator(mode="after")
    def _two_headers(self) -> Self:
        if self.request_id_header.lower() == self.correlation_header.lower():
            raise ValueError("request_id_header and correlation_header must differ: they carry two ids")
        return self


class LoggingSettings(_Section):
    """The log lines."""

    enabled: bool = True
    """Take over logging and write one line per request."""
    level: Level = "info"
    """Lowest level that is written."""
    format: Literal["json", "console"] = "json"
    """`json`: one object per line. `console`: for people."""
    field_aliases: NamePairs = {}
    """Other names for fields of JSON lines, such as `timestamp` -> `@timestamp`."""
    output: str = "stdout"
    """`stdout`, `stderr`, or the path of a file that is appended to."""
    outputs: Names = ()
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
    elasticsearch_url: HttpUrl | None = None
    """Send lines to this Elasticsearch too; `ELASTICSEARCH_URL` in the environment, in production."""
    elasticsearch_index: IndexName = "ai-textbook-logs"
    """Index or data stream that the lines go to."""
    elasticsearch_level: Level = "info"
    """Lowest level that is sent there."""
    elasticsearch_api_key: SecretStr | None = None
    """Its API key, where the URL carries no user and password."""
    otlp_endpoint: HttpUrl | None = None
    """Send lines as OpenTelemetry log records too: full URL for OTLP over HTTP, such as `http://localhost:4318/v1/logs`."""
    shutdown_seconds: float = Field(default=5.0, gt=0.0, le=60.0)
    """Longest wait for the last lines at shutdown."""
    redact: Annotated[tuple[FieldName, ...], CommaSeparated] = ()
    """Names of fields whose values are hidden at any depth, besides the built-in ones; case and separators do not count."""
    redact_builtin: bool = True
    """Hide the values of fields that are called like a password, token, cookie or the like."""
    show_only: Annotated[tuple[FieldName, ...], CommaSeparated] | None = None
    """Hide the values of all extra fields but these; None: show those that are not redacted."""
    flight_recorder: bool = False
    """Hold a request's lines below `level` in memory, down to debug, and write them if it fails or is slow."""
    flight_slow_seconds: float | None = Field(default=5.0, gt=0.0)
    """A request is slow whose answer took this long to come (of a stream, its first byte); None: none is."""
    flight_lines: int = Field(default=200, ge=1, le=10_000)
    """Most lines one request holds; older ones are dropped, and the canonical line says how many."""
    flight_bytes: int = Field(default=8 * 1024 * 1024, ge=1024 * 1024)
    """Most bytes all requests hold together."""
    debug_token: Token | None = None
    """The value of `X-Debug-Log` with which a request has its lines below `level` written; None: the header means nothing."""

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
    exporter: Exporter = "none"
    """Where ended spans go; naming `otlp_endpoint` implies `otlp`."""
    otlp_endpoint: HttpUrl | None = None
    """Full URL for OTLP over HTTP, such as `http://localhost:4318/v1/traces`."""
    jaeger_endpoint: HttpUrl | None = None
    """Retired: stands for `otlp_endpoint` on port 4318 of the same host."""
    query_values: bool = False
    """Show the values of query parameters in `url.query`; those of sensitive names stay hidden."""
    shutdown_seconds: float = Field(default=5.0, gt=0.0, le=60.0)
    """Longest wait for the last spans at shutdown."""

    @property
    def exporters(self) -> frozenset[str]:
        """Where ended spans go, one by one."""
        return frozenset(self.exporter.split(",")) - {"none"}

    @model_validator(mode="before")
    @classmethod
    def _jaeger_endpoint_is_otlp_now(cls, data: Any) -> Any:
        data = with_otlp_endpoint(data)
        return {"exporter": "otlp", **data} if isinstance(data, dict) and data.get("otlp_endpoint") else data

    @model_validator(mode="after")
    def _otlp_needs_an_endpoint(self) -> Self:
        if "otlp" in self.exporters and self.otlp_endpoint is None:
            raise ValueError("exporter 'otlp' needs otlp_endpoint, such as http://localhost:4318/v1/traces")
        return self


class MetricsSettings(_Section):
    """The metrics and `/metrics`."""

    enabled: bool = True
    """Record metrics and serve them."""
    path: RoutePath = "/metrics"
    """Where Prometheus scrapes."""
    port: int = Field(default=9090, ge=0, le=65535)
    """Port of the stand-alone metrics server, used with `monitoring.access = "port"`; 0 takes a free one."""
    packs: Annotated[tuple[Pack, ...], CommaSeparated] = ("http", "runtime", "result")
    """Sets of metrics that are switched on."""
    compat_aliases: Annotated[bool | tuple[AliasGroup, ...], SwitchOrList] = False
    """Show metrics by their older names, too: all of them, or those of some groups."""
    legacy_views: bool = False
    """Serve `/metrics/sessions`, `/metrics/handshakes` and `/metrics/crypto`: parts of `/metrics`."""
    duration_buckets: Bounds | None = None
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


class MonitoringSettings(_Section):
    """Who may read `/metrics` and `/monitoring/*`."""

    prefix: PathPrefix = "/monitoring"
    """Where the monitoring pages live."""
    access: Literal["local", "token", "port", "open"] = "local"
    """`local`: this machine. `token`: bearer token. `port`: metrics on a port of their own. `open`: everyone."""
    token: Token | None = None
    """The bearer token; with `access = "token"` and no token everything but the probes is closed."""
    interval_seconds: float = Field(default=15.0, ge=1.0, le=300.0)
    """How often windows and alerts look at the metrics."""
    expose_logs: bool = False
    """Show the recent lines of a request under `logs/{id}`."""
    log_buffer_size: int | None = Field(default=None, ge=0, le=1_000_000)
    """Most recent lines that are kept in memory; None: 10,000 with `expose_logs`, else 0."""
    log_buffer_bytes: int = Field(default=8 * 1024 * 1024, ge=1024 * 1024)
    """Most bytes that recent lines take."""


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
    rules: Annotated[tuple[AlertRuleSettings, ...], CommaSeparated] = ()
    """Rules of your own."""


class NotifySettings(_Section):
    """Whom alerts are told; what is not set is only logged. Each secret may be in a file of `SAGE_OBS_SECRETS_DIR`."""

    slack_webhook_url: SecretHttpUrl | None = None
    """Incoming webhook of a Slack channel."""
    pagerduty_routing_key: SecretStr | None = None
    """Integration key of a PagerDuty service, Events API v2."""
    pagerduty_url: HttpUrl = "https://events.pagerduty.com/v2/enqueue"
    """Where PagerDuty takes events; in Europe events.eu.pagerduty.com."""
    webhook_url: SecretHttpUrl | None = None
    """Where alerts are posted in the format of Alertmanager's webhooks."""
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
    email_from: str | None = None
    """Sender of the mails."""
    email_to: Names = ()
    """Who gets them."""

    @model_validator(mode="after")
    def _mail_has_sender_and_recipients(self) -> Self:
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
    targets: Names = ()
    """Where Prometheus scrapes, as host and port; by default the service's name and the port of its metrics."""
    job: RegularExpression | None = None
    """Expression for the scrape jobs of this service, where there are several; by default its name."""
    runbooks_url: str = "docs/runbooks"
    """Where the pages named after alerts are."""
    dashboards_url: str = "http://localhost:3000"
    """Where Grafana is."""
    packs: Names = ()
    """Classes with metrics of your own that dashboards get rows for, as `module:Class`."""
    slack_channel: str = "#alerts"
    """Channel of alerts; those of `critical` and `warning` ones are called so at the end."""
    namespace: str = "default"
    """Namespace in Kubernetes."""
    image: str = ""
    """Container image; by default the service's name and version."""


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
    _origin: Origin = PrivateAttr(default_factory=Origin)

    def __init__(self, **sections: Any) -> None:
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise SettingsError(explain(type(self), error)) from None

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
        return cls._of(over_preset("dev", sections), Origin("dev"))

    @classmethod
    def production(cls, **sections: Any) -> Self:
        """Build the production preset: JSON lines, info level, one trace in ten, pages behind a token."""
        return cls._of(over_preset("production", sections), Origin("production"))

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

        `sections`, then `SAGE_OBS_<SECTION>__<KEY>`, then files of such names in the folder `SAGE_OBS_SECRETS_DIR`, then
        `SERVICE_NAME`, `APP_ENV`, `NODE_ENV`, `APP_VERSION` and `OTEL_*`, then the YAML file (`path` or `SAGE_OBS_FILE`),
        then, in production, `ELASTICSEARCH_URL`, then the preset (`preset`, `SAGE_OBS_PRESET`, or by environment name:
        anything that is not a name for development is production). A variable that is empty, or that Kubernetes sets for a
        service, is as good as none.
        """
        given, origin = read_all(cls, os.environ if env is None else env, preset, path, sections)
        return cls._of(given, origin)

    @classmethod
    def _of(cls, sections: Mapping[str, Any], origin: Origin) -> Self:
        settings = cls(**sections)
        settings._origin = origin
        return settings

    @property
    def preset(self) -> str | None:
        """The preset that the values began with; None for `Settings(...)`."""
        return self._origin.preset

    @property
    def remarks(self) -> tuple[str, ...]:
        """What is odd about the values and where they came from, with what to change: told at the start."""
        return (*self._origin.remarks, *remarks_on(self))
