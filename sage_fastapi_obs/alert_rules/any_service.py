"""Services that are down, fail or are slow, whatever they do."""

from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule, RuleGroup, RuleTest, threshold_alert
from sage_fastapi_obs.alert_rules.rule_test_series import SeriesShape, series, up
from sage_fastapi_obs.alerting.expressions import Ratio, Stat
from sage_fastapi_obs.catalog.services import CUSTOMER_ID, Services, service_name, with_pack

_AVAILABILITY = RuleGroup(
    "availability", "Availability: any service; `HighErrorRate` with pack `http`", "http", interval="30s", weight=20
)
_PERFORMANCE = RuleGroup("performance", "Performance: packs `http` and `runtime`", "http", weight=21)
_CUSTOMER = RuleGroup(
    "customer-id-alerts",
    "A service called customer-id",
    CUSTOMER_ID,
    dashboard="customer-id-monitoring",
    weight=40,
    file="customer-id",
)
ERRORS = Ratio((Stat("http_requests_total", "rate", where={"status": "=~5.."}),), (Stat("http_requests_total", "rate"),))
"""Share of requests that are answered 5xx."""
_PROCESSORS = "node_cpu_seconds_total"

_OF_REQUESTS = (
    threshold_alert("HighErrorRate", ERRORS, 0.05, group=_AVAILABILITY, severity="critical", minutes=5).about(
        "{{ $labels.service }} fails", "{{ $value | humanizePercentage }} of all requests are answered 5xx, more than 5 %."
    ),
    threshold_alert(
        "HighResponseTime", Stat("http_request_duration_seconds", "p95"), 1, group=_PERFORMANCE, severity="warning", minutes=10
    ).about(
        "{{ $labels.service }} is slow",
        "One request in twenty takes longer than {{ $value | humanizeDuration }}; the limit is 1 s.",
    ),
)


def alerts(services: Services) -> list[ExportedRule]:
    """Return the alerts of all services, as far as their packs have the numbers."""
    customer = [one for one in services if service_name(one) == CUSTOMER_ID]
    with_rule = [*with_pack(services, "sage"), *with_pack(services, "sage-core"), *customer]
    others = [one for one in services if one not in with_rule]
    return [
        *([_down(others)] if others else []),
        *(_OF_REQUESTS if with_pack(services, "http") else ()),
        *([_busy()] if with_pack(services, "runtime") else []),
        *([_customer_down()] if customer else []),
        *([_customer_latency()] if with_pack(customer, "http") else []),
    ]


def down_test(
    service: str, instance: str, missing_labels: dict[str, str] | None = None, labels: dict[str, str] | None = None
) -> RuleTest:
    """Return the test of a rule about a target that does not answer; `missing_labels`: of the alert when there is no target."""
    found = {"job": service, "service": service, "instance": instance}
    target = series("up", found)
    return RuleTest(
        {target: SeriesShape(level=1)},
        {target: SeriesShape(level=0)},
        labels=found if labels is None else labels,
        missing=None if missing_labels is None else {target: SeriesShape(is_missing=True)},
        missing_labels=missing_labels or {},
    )


def _down(services: Services) -> ExportedRule:
    return ExportedRule(
        name="ServiceDown",
        group=_AVAILABILITY,
        expr=f"{up(services)} == 0",
        for_seconds=120,
        severity="critical",
        summary="{{ $labels.job }} is down",
        description="Prometheus has not been able to scrape {{ $labels.instance }} of {{ $labels.job }} for two minutes.",
        test=down_test(service_name(services[0]), "one:8000"),
    )


def _busy() -> ExportedRule:
    idle = series(_PROCESSORS, {"instance": "one:9100", "mode": "idle"})
    return ExportedRule(
        name="HighCPUUsage",
        group=_PERFORMANCE,
        expr=f'100 - avg by (instance) (rate({_PROCESSORS}{{mode="idle"}}[5m])) * 100 > 80',
        for_seconds=600,
        severity="warning",
        summary="{{ $labels.instance }} is busy",
        description="{{ $value | humanize }} % of its processors are in use, more than 80 %.",
        test=RuleTest({idle: SeriesShape(0.21)}, {idle: SeriesShape(0.19)}, 300, {"instance": "one:9100"}),
    )


def _customer_down() -> ExportedRule:
    target = series("up", {"service": CUSTOMER_ID})
    return ExportedRule(
        name="CustomerIdServiceDown",
        group=_CUSTOMER,
        expr=f"{target} == 0 or absent({target})",
        for_seconds=60,
        severity="critical",
        seed="ServiceDown",
        summary="customer-id is down",
        description="Prometheus cannot scrape {{ $labels.instance }}, or knows no target of customer-id any more.",
        test=down_test(CUSTOMER_ID, "one:3000", {"service": CUSTOMER_ID}),
    )


def _customer_latency() -> ExportedRule:
    return threshold_alert(
        "HighLatency",
        Stat("http_request_duration_seconds", "mean", where={"service": CUSTOMER_ID}),
        1,
        group=_CUSTOMER,
        severity="critical",
        minutes=1,
        target={"service": CUSTOMER_ID},
    ).about("customer-id is slow", "Requests take {{ $value | humanizeDuration }} on average; the limit is 1 s.")
