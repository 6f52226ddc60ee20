"""Services that are down, fail or are slow, whatever they do."""

from collections.abc import Collection, Mapping
from types import MappingProxyType

from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule, RuleGroup, RuleTest, alert_from_rule, threshold_alert
from sage_fastapi_obs.alert_rules.rule_test_series import SeriesShape, series, up
from sage_fastapi_obs.alerting.default_rules import HIGH_ERROR_RATE, HIGH_RESPONSE_TIME
from sage_fastapi_obs.alerting.expressions import Stat
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
_PROCESSORS = "node_cpu_seconds_total"

_OF_REQUESTS = (
    alert_from_rule(HIGH_ERROR_RATE, _AVAILABILITY).about(
        "{{ $labels.service }} fails", "{{ $value | humanizePercentage }} of all requests are answered 5xx, more than 5 %."
    ),
    alert_from_rule(HIGH_RESPONSE_TIME, _PERFORMANCE).about(
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


def down_alert(
    name: str,
    group: RuleGroup,
    service: str,
    instance: str,
    *,
    found_by: str,
    seed: str = "",
    labels: Mapping[str, str] = MappingProxyType({}),
) -> ExportedRule:
    """Return an alert for a target that has not answered for a minute, or has gone.

    `instance`: of the target in its test. `found_by`: the label by which the rule finds it, `job` or `service`.
    """
    target = {found_by: service}
    selector = series("up", target)
    return ExportedRule(
        name=name,
        group=group,
        expr=f"{selector} == 0 or absent({selector})",
        for_seconds=60,
        severity="critical",
        seed=seed,
        labels=labels,
        test=_down_test(service, instance, labels, target),
    )


def _down_test(service: str, instance: str, own: Collection[str] = (), missing: Mapping[str, str] | None = None) -> RuleTest:
    """`own`: labels that the rule itself gives. `missing`: labels of the alert when there is no target."""
    scraped = {"job": service, "service": service, "instance": instance}
    target = series("up", scraped)
    return RuleTest(
        {target: SeriesShape(level=1)},
        {target: SeriesShape(level=0)},
        labels={label: text for label, text in scraped.items() if label not in own},
        missing=None if missing is None else {target: SeriesShape(is_missing=True)},
        missing_labels=missing or {},
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
        test=_down_test(service_name(services[0]), "one:8000"),
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
    alert = down_alert("CustomerIdServiceDown", _CUSTOMER, CUSTOMER_ID, "one:3000", found_by="service", seed="ServiceDown")
    return alert.about(
        "customer-id is down", "Prometheus cannot scrape {{ $labels.instance }}, or knows no target of customer-id any more."
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
