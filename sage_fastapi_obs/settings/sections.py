"""All settings: one frozen section per concern. Each field can be set by `SAGE_OBS_<SECTION>__<KEY>`."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.field_descriptions import DescribedFields
from sage_fastapi_obs.settings.explain import explain, without_credentials
from sage_fastapi_obs.settings.field_types import (
    Bounds,
    CommaSeparated,
    ExcludedPath,
    Exporter,
    FieldName,
    GroupName,
    HeaderName,
    HostName,
    HttpUrl,
    IndexName,
    Level,
    Links,
    NamePairs,
    Names,
    Network,
    OtlpUrl,
    Pack,
    PathPrefix,
    RegularExpression,
    RoutePath,
    SecretHttpUrl,
    SignalName,
    SwitchOrList,
    Token,
    with_otlp_endpoint,
)
from sage_fastapi_obs.settings.sources import ENV_PREFIX, Origin, ValueSource, over_preset, read_all

Severity: TypeAlias = Literal["info", "warning", "critical"]
MonitoringProgram = Literal["prometheus", "alertmanager", "node-exporter", "fluent-bit"]
AliasGroup = Literal["sage", "runtime", "textbook", "result"]
_GRPC_PORT = 4317
"""Where collectors listen for OTLP over gRPC, and not over HTTP."""


class _Section(DescribedFields, BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """Show everything but the credentials in URLs."""
        for name, value in super().__repr_args__():
            yield name, without_credentials(value) if isinstance(value, str) else value


class ServiceSettings(_Section):
    """Identity of the service: on every log line and in the resource of every span."""

    name: str = Field(default="unknown_service", min_length=1)
    """Name on every line and span; also `SERVICE_NAME` and `OTEL_SERVICE_NAME`."""
    environment: str = "development"
    """Deployment environment; also `APP_ENV` and `NODE_ENV`."""
    version: str = "0.0.0"
    """Version of the service; also `APP_VERSION`."""


class HttpSettings(_Section):
    """Ids of requests, and paths that are not recorded."""

    exclude_paths: Annotated[tuple[ExcludedPath, ...], CommaSeparated] = ("/metrics", "/monitoring")
    """Paths that get ids, but no span, no metrics and only a debug line; includes everything below them."""
    request_id_header: HeaderName = "X-Request-ID"
    """Header with the id of this hop, in requests and responses."""
    correlation_header: HeaderName = "X-Correlation-ID"
    """Header with the id that all hops share, in requests and responses."""
    incoming_ids: Literal["accept", "replace", "reject"] = "accept"
    """`accept` safe ids and replace others, `replace` all, or `reject` unsafe ones with 400."""
    trace_response_header: bool = True
    """Send `traceresponse`, so that a client learns the trace of its request."""

    @model_validator(mode="after")
    def _two_headers(self) -> Self:
        if self.request_id_header.lower() == self.correlation_header.lower():
            raise ValueError("request_id_header and correlation_header must differ: they carry two ids")
        return self


class LoggingSettings(_Section):
    """Log lines and their outputs."""

    enabled: bool = True
    """Take over logging and write one line per request."""
    level: Level = "info"
    """Lowest level that is written: `trace`, `debug`, `info`, `warn`, `error` or `critical`."""
    format: Literal["json", "console"] = "json"
    """`json`: one object per line. `console`: for people."""
    field_aliases: NamePairs = {}
    """Other names for fields of JSON lines: `timestamp=@timestamp,message=msg`."""
    output: str = "stdout"
    """`stdout`, `stderr`, or a file; see [where lines go](logs.md#where-lines-go-and-what-happens-when-they-cannot)."""
    outputs: Names = ()
    """Several of these at once, instead of `output`; see [two outputs](moving-in.md#two-outputs-at-once)."""
    takeover: bool = True
    """Silence the application's handlers and sinks that write to the same terminal or file; see [moving in](moving-in.md)."""
    gather_seconds: float = Field(default=0.02, ge=0.0, le=1.0)
    """JSON lines are written together after this time; those of failures at once. 0: each line at once."""
    rotate_bytes: int | None = Field(default=None, ge=4096)
    """Rename the file before it grows larger, and start a new one; at least 4096."""
    rotate_hours: int | None = Field(default=None, ge=1)
    """Start a new file whenever so many hours have passed in UTC; 24 is at midnight."""
    keep_files: int = Field(default=10, ge=1)
    """Number of renamed files that are kept."""
    elasticsearch_url: HttpUrl | None = None
    """Send lines to this Elasticsearch too; in production also `ELASTICSEARCH_URL`. May hold user and password."""
    elasticsearch_index: IndexName = "ai-textbook-logs-%Y.%m.%d"
    """Index for the lines of a day in UTC; without `%Y`, `%m` and `%d` an alias or a data stream."""
    elasticsearch_level: Level = "info"
    """Lowest level that is sent."""
    elasticsearch_api_key: SecretStr | None = None
    """API key, instead of user and password."""
    otlp_endpoint: OtlpUrl | None = None
    """Send lines as OpenTelemetry log records too: full URL, such as `http://localhost:4318/v1/logs`, or `grpc://localhost:4317`."""
    shutdown_seconds: float = Field(default=5.0, gt=0.0, le=60.0)
    """Longest wait for the last lines at shutdown; lines, spans and metrics are waited for [together](export.md#at-the-end)."""
    redact: Annotated[tuple[FieldName, ...], CommaSeparated] = ()
    """Names of fields whose values are hidden, besides the built-in names; see [what is hidden](#what-is-hidden)."""
    redact_builtin: bool = True
    """Hide the values of fields with names such as password, token or cookie."""
    show_only: Annotated[tuple[FieldName, ...], CommaSeparated] | None = None
    """Hide the values of all extra fields but these; without it, only what is redacted is hidden."""
    flight_recorder: bool = False
    """Hold a request's lines below `level` in memory, and write them if it fails or is slow."""
    flight_lines: int = Field(default=200, ge=1, le=10_000)
    """Most lines held per request; the oldest are dropped, and the access line says how many."""
    flight_bytes: int = Field(default=8 * 1024 * 1024, ge=1024 * 1024)
    """Most bytes held for all requests together."""
    debug_token: Token | None = None
    """Secret. A request that sends it in `X-Debug-Log` gets its debug lines written. At least 16 characters."""

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
    """Server spans and their export."""

    enabled: bool = True
    """Open a server span per request, unless it has one already."""
    sample_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of new traces that are recorded, 0 to 1; the decision of a parent is followed."""
    retention: Literal["ratio", "outcome"] = "ratio"
    """Which requests have their spans kept: those that are sampled, or also those that matter; see [what is kept](kept.md)."""
    slow_seconds: float | None = Field(default=5.0, gt=0.0)
    """A request is slow if its response takes this long; for a stream, its first byte. null: no such limit."""
    incoming: Literal["continue", "link", "ignore"] = "continue"
    """Meaning of a client's `traceparent`: `continue` its trace, `link` to it from a new one (public edges), or `ignore` it."""
    incoming_sampled_per_second: float = Field(default=100.0, ge=0.0)
    """Requests that are recorded in a second only because their client's `traceparent` says so; more are left to the ratio."""
    trusted_networks: Annotated[tuple[Network, ...], CommaSeparated] = ()
    """Networks of gateways and services for which that limit does not hold: `10.0.0.0/8,fd00::/8`."""
    exporter: Exporter = "none"
    """Destination of ended spans: `none`, `console`, `otlp`, or `console,otlp`."""
    otlp_endpoint: OtlpUrl | None = None
    """Full URL of a collector, as `http://localhost:4318/v1/traces` or `grpc://localhost:4317`, TLS `grpcs`; implies `otlp`."""
    jaeger_endpoint: HttpUrl | None = None
    """Deprecated: stands for `otlp_endpoint` on port 4318 of the same host."""
    query_values: bool = False
    """Show the values of query parameters in `url.query` and in URLs of messages, but never those of sensitive names."""
    shutdown_seconds: float = Field(default=5.0, gt=0.0, le=60.0)
    """Longest wait for the last spans and metrics at shutdown."""

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
    """Metrics and `/metrics`."""

    enabled: bool = True
    """Record metrics and serve them."""
    path: RoutePath = "/metrics"
    """Path that Prometheus scrapes."""
    port: int = Field(default=9090, ge=0, le=65535)
    """Port for metrics, with `monitoring.access = "port"` only; 0 takes a free one."""
    packs: Annotated[tuple[Pack, ...], CommaSeparated] = ("http", "runtime", "result")
    """Sets of metrics that are switched on; see [metrics](metrics.md)."""
    compat_aliases: Annotated[bool | tuple[AliasGroup, ...], SwitchOrList] = False
    """Show older names besides the new ones: `true`, or some of the groups `sage`, `runtime`, `textbook`, `result`."""
    legacy_views: bool = False
    """Serve `/metrics/sessions`, `/metrics/handshakes` and `/metrics/crypto`: parts of `/metrics`."""
    duration_buckets: Bounds | None = None
    """Bounds of `http_request_duration_seconds` in seconds, ascending; by default those of the catalog."""
    max_label_values: int = Field(default=200, ge=1)
    """Most values of an open label; the rest is counted as `other`."""
    max_routes: int = Field(default=2000, ge=1)
    """Most route templates; the rest is counted as `other`."""
    expensive_sample_rate: float = Field(default=1.0, ge=0.0, le=1.0)
    """Share of observations that [expensive metrics](metrics.md#expensive-metrics) get, 0 to 1; counters are always exact."""
    exemplars: bool = True
    """Attach the ids of sampled traces to the buckets of histograms."""
    otlp_endpoint: OtlpUrl | None = None
    """Push metrics over OTLP too: full URL, such as `http://localhost:4318/v1/metrics`, or `grpc://localhost:4317`."""
    otlp_interval_seconds: float = Field(default=60.0, ge=1.0, le=3600.0)
    """Time from one push to the next."""

    @property
    def alias_groups(self) -> tuple[AliasGroup, ...]:
        """The groups of older names that are shown."""
        if isinstance(self.compat_aliases, tuple):
            return self.compat_aliases
        return get_args(AliasGroup) if self.compat_aliases else ()


class MonitoringSettings(_Section):
    """The pages under `/monitoring`, and who may read them and `/metrics`."""

    prefix: PathPrefix = "/monitoring"
    """Path of the monitoring pages."""
    access: Literal["local", "token", "port", "open"] = "local"
    """Who may read them: `local` (this machine), `token`, `port` (metrics on a port of their own) or `open` (everyone)."""
    token: Token | None = None
    """Bearer token, at least 16 characters. Without it, `access = "token"` closes all but the probes."""
    allowed_hosts: Annotated[tuple[HostName, ...], CommaSeparated] = ()
    """More names of this machine for `local`, besides `localhost` and loopback addresses: `shop.test`, without a port."""
    interval_seconds: float = Field(default=15.0, ge=1.0, le=300.0)
    """Interval at which windows and alerts read the metrics."""
    expose_logs: bool = False
    """Show log lines: at `/monitoring/logs/{id}`, and on the pages of kept requests and traces."""
    links: Links = {}
    """Where else a request is shown, by name; see [the page](page.md#links-to-other-systems)."""
    log_buffer_size: int | None = Field(default=None, ge=0, le=1_000_000)
    """Most recent lines kept in memory; by default 10,000 with `expose_logs`, else 0."""
    log_buffer_bytes: int = Field(default=8 * 1024 * 1024, ge=1024 * 1024)
    """Most bytes of recent lines."""

    @property
    def recent_lines(self) -> int:
        """How many recent lines are kept, by what `log_buffer_size` says."""
        if self.log_buffer_size is None:
            return 10_000 if self.expose_logs else 0
        return self.log_buffer_size


class StoreSettings(_Section):
    """The file on this machine that keeps requests with their spans and lines."""

    enabled: bool = True
    """Keep requests, so that they can be opened later, also after a restart."""
    path: str | None = None
    """Folder for the files, on a disk of this machine; by default one for state, or one for temporary files."""
    max_bytes: int = Field(default=256 * 1024 * 1024, ge=8 * 1024 * 1024)
    """Most bytes on the disk for each service and app, all files together; at least 8 MiB."""
    max_age_days: float = Field(default=7.0, gt=0.0, le=3660.0)
    """Days after which requests are deleted."""


class InsightSettings(_Section):
    """Why requests are slow, are refused or fail; see [why](why.md)."""

    enabled: bool = True
    """Find out why, by a thread that looks at slow requests."""
    blocked_loop_seconds: float = Field(default=0.1, ge=0.05, le=60.0)
    """Who keeps the event loop from anything else for so long is named; at least 0.05."""
    stacks_signal: SignalName | None = None
    """Signal at which the process writes the stacks of its threads to stderr: `SIGUSR2`. Gunicorn uses `SIGUSR1` itself."""
    queue_header: HeaderName | None = None
    """Header in which a proxy says when it got a request: `X-Request-Start`. Only where it overwrites what clients send."""


class WorkersSettings(_Section):
    """Several workers of one service on one machine; see [workers](workers.md)."""

    enabled: bool = True
    """Let any worker answer for all, and name the requests that a killed one was serving."""
    group: GroupName | None = None
    """Name by which processes of other parents join: jobs that set it, and the service's name, as the service does."""


class FigureSettings(_Section):
    """One term of a ratio's denominator."""

    metric: str = Field(min_length=1)
    """Name of the metric; counters with `_total`."""
    statistic: str | None = None
    """Which statistic; by default the increase of a counter."""
    where: dict[str, str] = {}
    """Values that labels must have."""


class AlertRuleSettings(_Section):
    """One alert rule: a statistic, or a ratio of statistics, compared with a threshold."""

    name: str = Field(min_length=1)
    """Name of the alert; replaces a rule of the same name."""
    metric: str = Field(min_length=1)
    """Name of the metric; counters with `_total`, histograms without a suffix."""
    statistic: str | None = None
    """`increase`, `rate`, `count`, `sum`, `mean`, `p95`, `last`, …; by default the usual one of the metric's type."""
    where: dict[str, str] = {}
    """Values that labels must have: `{status: "=~5..", route: /items}`."""
    by: tuple[str, ...] = ()
    """Labels; each combination of their values is an alert of its own."""
    window_seconds: float = Field(default=300.0, gt=0.0, le=604_800.0)
    """Window over which the statistic is computed."""
    absent: float | None = None
    """Value to assume without samples."""
    divided_by: tuple[FigureSettings, ...] = ()
    """Denominator of a ratio: the sum of these statistics."""
    objective: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Share of requests that must succeed: makes `threshold` a burn rate of the error ratio, over both windows."""
    short_window_seconds: float = Field(default=300.0, gt=0.0, le=604_800.0)
    """Second window of a burn rate."""
    condition: Literal[">", ">=", "<", "<=", "==", "!="] = ">"
    """Comparison of the value with the threshold."""
    threshold: float
    """Value at which the alert fires."""
    for_seconds: float = Field(default=0.0, ge=0.0)
    """How long the condition must hold before the alert fires."""
    keep_firing_seconds: float = Field(default=0.0, ge=0.0)
    """How long the condition must be over before the alert ends."""
    resolve_threshold: float | None = None
    """Threshold for a firing alert; by default `threshold`."""
    cooldown_seconds: float = Field(default=300.0, ge=0.0)
    """Shortest time between two notifications."""
    severity: Severity = "warning"
    """`info`, `warning` or `critical`."""
    labels: dict[str, str] = {}
    """Labels of the alert."""
    annotations: dict[str, str] = {}
    """Texts of the alert; `{{ $value }}` and `{{ $labels.route }}` are filled in."""
    notify: tuple[str, ...] = ()
    """Notifiers: `slack`, `email`, `pagerduty`, `webhook`."""

    @model_validator(mode="after")
    def _objective_of_a_ratio(self) -> Self:
        if self.objective is not None and not self.divided_by:
            raise ValueError("an objective needs divided_by: what the errors are a share of")
        return self


class AlertSettings(_Section):
    """Alert rules that the service evaluates itself."""

    defaults: bool = True
    """Evaluate the [rules of the package](status.md#rules-of-the-package)."""
    rules: Annotated[tuple[AlertRuleSettings, ...], CommaSeparated] = ()
    """Rules of your own, as [data](status.md#rules-as-data)."""


class NotifySettings(_Section):
    """Receivers of alerts; without any, alerts are only logged."""

    slack_webhook_url: SecretHttpUrl | None = None
    """Incoming webhook of a Slack channel."""
    pagerduty_routing_key: SecretStr | None = None
    """Integration key of a PagerDuty service, Events API v2."""
    pagerduty_url: HttpUrl = "https://events.pagerduty.com/v2/enqueue"
    """Address of PagerDuty's events API; in Europe at events.eu.pagerduty.com."""
    webhook_url: SecretHttpUrl | None = None
    """Receiver of alerts in the format of Alertmanager's webhooks."""
    smtp_host: str | None = None
    """Mail server; needs `email_from` and `email_to`."""
    smtp_port: int = Field(default=587, ge=1, le=65535)
    """Port of the mail server."""
    smtp_security: Literal["starttls", "tls", "none"] = "starttls"
    """`starttls`, `tls` or `none`."""
    smtp_user: str | None = None
    """User name, if the mail server wants one."""
    smtp_password: SecretStr | None = None
    """Password of that user."""
    email_from: str | None = None
    """Sender of mails."""
    email_to: Names = ()
    """Recipients of mails."""

    @model_validator(mode="after")
    def _mail_has_sender_and_recipients(self) -> Self:
        if self.smtp_host is not None and not (self.email_from and self.email_to):
            raise ValueError("smtp_host needs email_from and email_to")
        return self


class ResultSettings(_Section):
    """Lines about operations that return a `Result`."""

    include_stack_trace: bool = True
    """Show the stacks of exceptions in lines about [results](results.md)."""
    include_performance_data: bool = True
    """Show in them the duration and the change of the process's memory."""


class SlaSettings(_Section):
    """Service levels: shares in percent, times in the unit of their names; null: no target."""

    availability: float | None = Field(default=99.9, ge=0.0, le=100.0)
    """Least share of requests that succeed, in percent."""
    error_rate: float | None = Field(default=0.1, ge=0.0, le=100.0)
    """Largest share of requests that fail, in percent."""
    response_time_p95_ms: float | None = Field(default=1000.0, gt=0.0)
    """Longest 95th percentile of response times."""
    response_time_mean_ms: float | None = Field(default=200.0, gt=0.0)
    """Longest mean response time."""
    max_response_ms: float | None = Field(default=1000.0, gt=0.0)
    """Longest single response; shown beside the longest measured, not evaluated."""
    rto_minutes: float | None = Field(default=5.0, gt=0.0)
    """Recovery time objective; shown for those on call, not evaluated."""


class ExportSettings(_Section):
    """Facts that `sage-obs export` needs beyond the other settings."""

    team: str = ""
    """Responsible team: a label of [exported alerts](alerts.md)."""
    targets: Names = ()
    """`host:port` addresses that Prometheus scrapes; by default the service's name and the port of its metrics."""
    job: RegularExpression | None = None
    """Regular expression for the scrape jobs of this service, if there are several; by default its name."""
    runbooks_url: str = "docs/runbooks"
    """Location of the pages named after alerts; notifications link it if it is an http(s) address."""
    monitored_by: Annotated[tuple[MonitoringProgram, ...], CommaSeparated] = get_args(MonitoringProgram)
    """Programs that [watch the services](alerts.md#who-watches-the-watchers); leave out what you do not run."""
    watchdog_url: HttpUrl | None = None
    """Address that Alertmanager calls every five minutes while alerting works."""
    dashboards_url: str = "http://localhost:3000"
    """Address of Grafana."""
    packs: Names = ()
    """Classes with metrics of your own, as `module:Class`, that [dashboards](dashboards.md) get rows for."""
    slack_channel: str = "#alerts"
    """Slack channel. Alerts of severity critical and warning go to `<channel>-critical` and `<channel>-warning`."""
    namespace: str = "default"
    """Kubernetes namespace."""
    image: str = ""
    """Container image; by default the service's name and version."""
    code_paths: Annotated[tuple[RoutePath, ...], CommaSeparated, Field(min_length=1)] = ("/app",)
    """Folders of its code in the image. Falco alerts when another program opens files there."""


class Settings(DescribedFields, BaseSettings):
    """Everything that can be set.

    `Settings(...)` takes sections as dictionaries and reads nothing else. `Settings.from_env()` also reads a preset,
    a YAML file, the environment and files of secrets. Unknown keys and impossible values raise `SettingsError`.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix=ENV_PREFIX,
        env_nested_delimiter="__",
        # The types of the fields read lists, and say by name what is wrong with them.
        enable_decoding=False,
    )

    enabled: bool = True
    """false: the middleware passes every request straight through."""
    service: ServiceSettings = ServiceSettings()
    http: HttpSettings = HttpSettings()
    logging: LoggingSettings = LoggingSettings()
    tracing: TracingSettings = TracingSettings()
    metrics: MetricsSettings = MetricsSettings()
    monitoring: MonitoringSettings = MonitoringSettings()
    store: StoreSettings = StoreSettings()
    insight: InsightSettings = InsightSettings()
    workers: WorkersSettings = WorkersSettings()
    alerts: AlertSettings = AlertSettings()
    notify: NotifySettings = NotifySettings()
    sla: SlaSettings = SlaSettings()
    result: ResultSettings = ResultSettings()
    export: ExportSettings = ExportSettings()
    _origin: Origin = PrivateAttr(default_factory=Origin)
    _declared: Self | None = PrivateAttr(default=None)

    def __init__(self, **sections: Any) -> None:
        try:
            super().__init__(**sections)
        except ValidationError as error:
            raise SettingsError(explain(type(self), error)) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the name is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        *_: Any,
        **_others: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take only what is passed; `from_env` reads the other sources."""
        return (init_settings,)

    @classmethod
    def dev(cls, **sections: Any) -> Self:
        """Build the development preset: console lines, debug level, every trace, pages for this machine."""
        return cls._of(*over_preset("dev", sections))

    @classmethod
    def production(cls, **sections: Any) -> Self:
        """Build the production preset: JSON lines, info level, one trace in ten, pages behind a token."""
        return cls._of(*over_preset("production", sections))

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
        any name but those for development is production). A variable that is empty, or that Kubernetes sets for a service,
        counts as not set.
        """
        return cls._of(*read_all(cls, os.environ if env is None else env, preset, path, sections))

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
    def is_inspected(self) -> bool:
        """Whether these are the settings of an app that is only looked at."""
        return self._declared is not None

    @property
    def declared(self) -> Self:
        """What the application has set: other than these, where it is only looked at."""
        return self if self._declared is None else self._declared

    def with_sections(self, sections: Mapping[str, BaseModel]) -> Self:
        """Return settings with some sections replaced, which know these as the declared ones."""
        replaced = self.model_copy(update=sections)
        replaced._declared = self  # noqa: SLF001 - of this class
        return replaced

    def source(self, section: str, key: str = "") -> ValueSource:
        """Tell where a value came from: of a key of a section, or of what has no section."""
        holder, name = (getattr(self, section), key) if key else (self, section)
        if name not in holder.model_fields_set:
            return ValueSource("default")
        # What no source of `from_env` names is there because of another setting.
        named = self._origin.sources
        return named.get(f"{section}.{key}".rstrip("."), ValueSource("implied" if named else "code"))

    @property
    def remarks(self) -> tuple[str, ...]:
        """Values that are allowed and probably not meant, with what to change; logged at the start."""
        return (*self._origin.remarks, *self._own_remarks())

    def _own_remarks(self) -> Iterator[str]:
        if "port" in self.metrics.model_fields_set and self.monitoring.access != "port":
            yield (
                f"metrics.port is set and not used: nothing listens on {self.metrics.port}, and metrics are at "
                f"{self.metrics.path} of the application; set monitoring.access to 'port', or leave metrics.port out"
            )
        if self.tracing.jaeger_endpoint is not None:
            yield "tracing.jaeger_endpoint is retired: name tracing.otlp_endpoint instead, on port 4318 of the same host"
        for section in ("tracing", "logging", "metrics"):
            endpoint = urlsplit(getattr(self, section).otlp_endpoint or "")
            if endpoint.port == _GRPC_PORT and endpoint.scheme in ("http", "https"):
                yield (
                    f"{section}.otlp_endpoint has port {_GRPC_PORT}, which is that of gRPC: "
                    f"write grpc://{endpoint.hostname}:{_GRPC_PORT}, or name OTLP over HTTP, which is on 4318"
                )
