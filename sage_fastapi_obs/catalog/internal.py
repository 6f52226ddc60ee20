"""What the observability says about itself, and about the operations of any application: always there."""

from sage_fastapi_obs.catalog.metric import RESULT_BUCKETS, counter, gauge, histogram
from sage_fastapi_obs.retention_reasons import OUTCOMES

SCRAPE_METRICS = (
    gauge(
        "observability_scrape_duration_seconds",
        "Time that writing the last page of metrics took, in a thread, its rests included.",
        workers="latest",
    ),
    gauge("observability_scrape_size_bytes", "Size of the last page of metrics, before compression.", workers="latest"),
)
HELD_LINES = counter(
    "observability_held_lines_total",
    "Log lines below the level that requests held: written because the request went wrong, not needed, or without room.",
    {"outcome": ("released", "discarded", "dropped")},
)
RETENTION_METRIC = counter(
    "observability_requests_not_kept_total",
    "Requests that were not kept because too many were in that second, by why they would have been.",
    {"reason": OUTCOMES},
)
SELF_METRICS = (
    counter(
        "observability_internal_errors_total",
        "Failures of the observability itself, which requests never see.",
        {"component": ()},
    ),
    counter(
        "observability_label_overflow_total",
        "Values counted as 'other' because a label had too many, or does not know them.",
        {"label": ()},
    ),
    *SCRAPE_METRICS,
    HELD_LINES,
    RETENTION_METRIC,
)
STORE_METRIC = counter(
    "observability_store_dropped_total",
    "Kept requests that the store on this machine lost or has let go, and damaged files that it has set aside.",
    {"cause": ("queue_full", "not_encoded", "too_large", "disk_full", "busy", "shutdown", "damaged", "evicted")},
)
EXCLUDED_METRIC = counter(
    "observability_excluded_requests_total",
    "Requests that are not recorded: of our own pages, of probes and scrapes, and what settings exclude.",
)
LOG_METRICS = (
    counter(
        "observability_log_lines_dropped_total",
        "Log lines lost by an output: its queue was full, writes failed, its server refused them, or the shutdown came.",
        {"output": ("stdout", "stderr", "file", "elasticsearch", "otlp"), "cause": ("full", "failed", "refused", "shutdown")},
    ),
)
SPAN_METRICS = (
    counter(
        "observability_spans_dropped_total",
        "Spans lost: the request held too many, the queue was full, the collector refused them, or the shutdown came.",
        {"cause": ("held", "full", "refused", "shutdown")},
    ),
    counter(
        "observability_propagation_headers_dropped_total",
        "Headers by which callers pass on their trace, dropped whole or in part because they are malformed or too long.",
        {"header": ("traceparent", "tracestate", "baggage")},
    ),
)
PUSH_METRICS = (
    counter(
        "observability_metric_pushes_dropped_total",
        "Pushes of all metrics over OTLP that were lost: the collector refused points, or the shutdown came.",
        {"cause": ("refused", "shutdown")},
    ),
)
WORKER_METRICS = (
    counter(
        "worker_deaths_total",
        "Workers of this service that have ended without a word, by what is known of the reason.",
        {"reason": ("oom", "blocked", "crash", "killed", "unknown")},
    ),
    counter("requests_lost_total", "Requests that a worker was serving when it died.", {"route": ()}),
)
ALERT_METRICS = (
    gauge(
        "observability_alerts_firing",
        "Alerts of the rules judged in process that are firing now.",
        {"severity": ("critical", "warning", "info")},
        workers="max",
    ),
    counter(
        "observability_alert_notifications_total",
        "Notifications by what became of them: callbacks took them, failed, hung or were behind, or the last was not long ago.",
        {"outcome": ("sent", "failed", "timeout", "dropped", "suppressed")},
    ),
    gauge(
        "observability_rules_without_data",
        "Rules judged in process that can never fire: their metric does not exist, or has no such statistic.",
        workers="max",
    ),
)

OPERATION_METRICS = (
    histogram(
        "operation_duration_seconds",
        "Time that named pieces of work took, however they ended.",
        RESULT_BUCKETS,
        {"operation": ()},
    ),
    counter(
        "operations_total",
        "Named pieces of work that ended; a cancelled one neither succeeded nor failed.",
        {"operation": (), "status": ("success", "failure", "cancelled")},
    ),
)
