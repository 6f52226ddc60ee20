"""Services that are down, fail or are slow, whatever they do."""

from functools import partial

from sage_fastapi_obs.alerting.rules import Ratio, Stat
from sage_fastapi_obs.export import services as of
from sage_fastapi_obs.export.exported_rule import ExportedRule, RuleTest, threshold_alert
from sage_fastapi_obs.export.rule_test_series import SeriesShape, series
from sage_fastapi_obs.export.services import Services

__all__ = ["CUSTOMER_ID", "ERRORS", "alerts"]

CUSTOMER_ID = "customer-id"
"""A service with limits of its own."""
ERRORS = Ratio((Stat("http_requests_total", "rate", where={"status": "=~5.."}),), (Stat("http_requests_total", "rate"),))
"""Share of requests that are answered 5xx."""
PROCESSORS = "node_cpu_seconds_total"

_http = partial(threshold_alert, system="http")
_OF_REQUESTS = (
    _http(
        "HighErrorRate",
        ERRORS,
        0.05,
        group="availability",
        severity="critical",
        minutes=5,
        summary="{{ $labels.service }} fails",
        description="{{ $value | humanizePercentage }} of all requests are answered 5xx, more than 5 %.",
    ),
    _http(
        "HighResponseTime",
        Stat("http_request_duration_seconds", "p95"),
        1,
        group="performance",
        severity="warning",
        minutes=10,
        summary="{{ $labels.service }} is slow",
        description="One request in twenty takes longer than {{ $value | humanizeDuration }}; the limit is 1 s.",
    ),
)


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of all services, as far as their packs have the numbers."""
    customer = [one for one in services if of.name(one) == CUSTOMER_ID]
    told = [*of.with_pack(services, "sage"), *of.with_pack(services, "sage-core"), *customer]
    others = [one for one in services if one not in told]
    return [
        *([_down(others)] if others else []),
        *(_OF_REQUESTS if of.with_pack(services, "http") else ()),
        *([_busy()] if of.with_pack(services, "runtime") else []),
        *([_customer_down()] if customer else []),
        *([_customer_latency()] if of.with_pack(customer, "http") else []),
    ]


def _down(services: Services) -> ExportedRule:
    name = of.name(services[0])
    labels = {"job": name, "service": name, "instance": "one:8000"}
    target = series("up", labels)
    return ExportedRule(
        name="ServiceDown",
        group="availability",
        system="http",
        expr=f"{of.up(services)} == 0",
        for_seconds=120,
        severity="critical",
        summary="{{ $labels.job }} is down",
        description="Prometheus has not been able to scrape {{ $labels.instance }} of {{ $labels.job }} for two minutes.",
        story=RuleTest({target: SeriesShape(level=1)}, {target: SeriesShape(level=0)}, labels=labels),
    )


def _busy() -> ExportedRule:
    idle = series(PROCESSORS, {"instance": "one:9100", "mode": "idle"})
    return ExportedRule(
        name="HighCPUUsage",
        group="performance",
        system="http",
        expr=f'100 - avg by (instance) (rate({PROCESSORS}{{mode="idle"}}[5m])) * 100 > 80',
        for_seconds=600,
        severity="warning",
        summary="{{ $labels.instance }} is busy",
        description="{{ $value | humanize }} % of its processors are in use, more than 80 %.",
        story=RuleTest({idle: SeriesShape(0.21)}, {idle: SeriesShape(0.19)}, 300, {"instance": "one:9100"}),
    )


_customer = partial(ExportedRule, group="customer-id-alerts", system=CUSTOMER_ID, for_seconds=60, severity="critical")


def _customer_down() -> ExportedRule:
    up = series("up", {"service": CUSTOMER_ID})
    labels = {"job": CUSTOMER_ID, "service": CUSTOMER_ID, "instance": "one:3000"}
    target = series("up", labels)
    return _customer(
        name="CustomerIdServiceDown",
        expr=f"{up} == 0 or absent({up})",
        seed="ServiceDown",
        summary="customer-id is down",
        description="Prometheus cannot scrape {{ $labels.instance }}, or knows no target of customer-id any more.",
        story=RuleTest(
            {target: SeriesShape(level=1)},
            {target: SeriesShape(level=0)},
            labels=labels,
            gone={target: SeriesShape(is_missing=True)},
            gone_labels={"service": CUSTOMER_ID},
        ),
    )


def _customer_latency() -> ExportedRule:
    return threshold_alert(
        "HighLatency",
        Stat("http_request_duration_seconds", "mean", where={"service": CUSTOMER_ID}),
        1,
        group="customer-id-alerts",
        system=CUSTOMER_ID,
        severity="critical",
        minutes=1,
        summary="customer-id is slow",
        description="Requests take {{ $value | humanizeDuration }} on average; the limit is 1 s.",
        target={"service": CUSTOMER_ID},
    )
