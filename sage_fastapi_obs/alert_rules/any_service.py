"""Services that are down, fail or are slow, whatever they do."""

from collections.abc import Mapping

from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule, RuleGroup, RuleTest, alert_from_rule, threshold_alert
from sage_fastapi_obs.alert_rules.rule_test_series import SeriesShape, series, up
from sage_fastapi_obs.alerting.default_rules import HIGH_ERROR_RATE, HIGH_RESPONSE_TIME
from sage_fastapi_obs.alerting.expressions import Stat
from sage_fastapi_obs.catalog.monitoring_programs import is_monitored_by
from sage_fastapi_obs.catalog.services import CUSTOMER_ID, Services, service_name, with_pack
from sage_fastapi_obs.settings import Settings, Severity

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
_DISKS = '{fstype!~"tmpfs|ramfs|overlay|squashfs|iso9660"}'
_SPOKEN = {1: "a minute", 2: "two minutes", 5: "five minutes"}

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
    return [
        *(_down(one) for one in services if one not in with_rule),
        *(_OF_REQUESTS if with_pack(services, "http") else ()),
        *(_of_hosts() if with_pack(services, "runtime") and is_monitored_by(services, "node-exporter") else []),
        *([_customer_down()] if customer else []),
        *([_customer_latency()] if with_pack(customer, "http") else []),
    ]


def down_alert(
    name: str,
    group: RuleGroup,
    target: Mapping[str, str],
    *,
    selector_of: Mapping[str, str] | Services,
    minutes: int = 1,
    severity: Severity = "critical",
    seed: str = "",
) -> ExportedRule:
    """Return an alert for a target that has not answered for some minutes, or that Prometheus no longer knows.

    `target`: the labels `job`, `service` and `instance` of the target in its test. `selector_of`: labels by which the rule
    finds its targets, or services, whose jobs it looks for.
    """
    found_by = selector_of if isinstance(selector_of, Mapping) else {}
    selector = series("up", found_by) if isinstance(selector_of, Mapping) else up(selector_of)
    service, scraped = target["service"], series("up", target)
    return ExportedRule(
        name=name,
        group=group,
        expr=f"{selector} == 0 or absent({selector})",
        for_seconds=minutes * 60,
        severity=severity,
        seed=seed,
        # The only label of a target that has gone.
        labels={"service": service},
        summary=f"{service} is down",
        description="{{ if $labels.instance }}Prometheus has not been able to scrape {{ $labels.instance }} of "
        f"{{{{ $labels.job }}}}{{{{ else }}}}Prometheus has known no target of {service}{{{{ end }}}} for {_SPOKEN[minutes]}.",
        test=RuleTest(
            {scraped: SeriesShape(level=1)},
            {scraped: SeriesShape(level=0)},
            labels={label: text for label, text in target.items() if label != "service"},
            missing_labels={label: text for label, text in found_by.items() if label != "service"},
        ),
    )


def _down(service: Settings) -> ExportedRule:
    name = service_name(service)
    target = {"job": name, "service": name, "instance": "one:8000"}
    return down_alert("ServiceDown", _AVAILABILITY, target, selector_of=[service], minutes=2)


def _of_hosts() -> list[ExportedRule]:
    return [_busy(), _full()]


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


def _full() -> ExportedRule:
    """Return the alert about disks, as `df` counts: what only root may use is used."""
    disk = {"instance": "one:9100", "mountpoint": "/", "device": "/dev/sda1", "fstype": "ext4"}
    free, size = (series(f"node_filesystem_{what}_bytes", disk) for what in ("avail", "size"))
    return ExportedRule(
        name="HighDiskUsage",
        group=_PERFORMANCE,
        expr=f"100 - 100 * min by (instance, mountpoint) (node_filesystem_avail_bytes{_DISKS} "
        f"/ node_filesystem_size_bytes{_DISKS}) > 80",
        for_seconds=600,
        severity="warning",
        summary="A disk of {{ $labels.instance }} is nearly full",
        description="{{ $value | humanize }} % of {{ $labels.mountpoint }} are in use, more than 80 %.",
        test=RuleTest(
            {free: SeriesShape(level=21), size: SeriesShape(level=100)},
            {free: SeriesShape(level=19), size: SeriesShape(level=100)},
            labels={"instance": "one:9100", "mountpoint": "/"},
        ),
    )


def _customer_down() -> ExportedRule:
    target = {"job": CUSTOMER_ID, "service": CUSTOMER_ID, "instance": "one:3000"}
    return down_alert("CustomerIdServiceDown", _CUSTOMER, target, selector_of={"service": CUSTOMER_ID}, seed="ServiceDown")


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
