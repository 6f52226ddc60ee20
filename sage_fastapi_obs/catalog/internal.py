"""What the observability says about itself, and about the operations of any application: always there."""

from sage_fastapi_obs.catalog.metric import RESULT_BUCKETS, Metric

__all__ = ["ALERT_METRICS", "HELD_LINES", "LOG_METRICS", "OPERATION_METRICS", "SCRAPE_METRICS", "SELF_METRICS", "SPAN_METRICS"]

SCRAPE_METRICS = (
    Metric(
        "observability_scrape_duration_seconds",
        "gauge",
        "Time that writing the last page of metrics took, in a thread, its rests included.",
        unit="seconds",
    ),
    Metric("observability_scrape_size_bytes", "gauge", "Size of the last page of metrics, before compression.", unit="bytes"),
)
HELD_LINES = Metric(
    "observability_held_lines_total",
    "counter",
    "Log lines below the level that requests held: written because the request went wrong, not needed, or without room.",
    {"outcome": ("released", "discarded", "dropped")},
)
SELF_METRICS = (
    Metric(
        "observability_internal_errors_total",
        "counter",
        "Failures of the observability itself, which requests never see.",
        {"component": ()},
    ),
    Metric(
        "observability_label_overflow_total",
        "counter",
        "Values counted as 'other' because a label had too many, or does not know them.",
        {"label": ()},
    ),
    *SCRAPE_METRICS,
    HELD_LINES,
)
LOG_METRICS = (
    Metric(
        "observability_log_lines_dropped_total",
        "counter",
        "Log lines lost by an output: its queue was full, writes failed, its server refused them, or the shutdown came.",
        {
            "output": ("stdout", "stderr", "file", "elasticsearch", "otlp"),
            "cause": ("full", "failed", "refused", "shutdown"),
        },
    ),
)
SPAN_METRICS = (
    Metric(
        "observability_spans_dropped_total",
        "counter",
        "Spans lost on their way to the collector: the queue was full, the collector refused them, or the shutdown came.",
        {"cause": ("full", "refused", "shutdown")},
    ),
    Metric(
        "observability_propagation_headers_dropped_total",
        "counter",
        "Headers by which callers pass on their trace, dropped whole or in part because they are malformed or too long.",
        {"header": ("traceparent", "tracestate", "baggage")},
    ),
)
ALERT_METRICS = (
    Metric(
        "observability_alerts_firing",
        "gauge",
        "Alerts of the rules judged in process that are firing now.",
        {"severity": ("critical", "warning", "info")},
    ),
    Metric(
        "observability_alert_notifications_total",
        "counter",
        "Notifications by what became of them: callbacks took them, failed, hung or were behind, or the last was not long ago.",
        {"outcome": ("sent", "failed", "timeout", "dropped", "suppressed")},
    ),
)

OPERATION_METRICS = (
    Metric(
        "operation_duration_seconds",
        "histogram",
        "Time that named pieces of work took, however they ended.",
        {"operation": ()},
        "seconds",
        RESULT_BUCKETS,
    ),
    Metric(
        "operations_total",
        "counter",
        "Named pieces of work that ended; a cancelled one neither succeeded nor failed.",
        {"operation": (), "status": ("success", "failure", "cancelled")},
    ),
)
