"""What Prometheus loads: its configuration, rule files, and a unit test of every rule for `promtool test rules`."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from math import ceil
from typing import Any, TypeAlias

from sage_fastapi_obs.alert_rules.exported_rule import ExportedRule, RuleGroup, RuleTest
from sage_fastapi_obs.alert_rules.objectives import SLO
from sage_fastapi_obs.alert_rules.rule_test_series import SeriesShape, TestSeries, series
from sage_fastapi_obs.alerting.expressions import duration
from sage_fastapi_obs.catalog.monitoring_programs import ALERTMANAGER, DEFAULT_PATH, Program, monitoring_programs
from sage_fastapi_obs.catalog.services import Services, distinct, metrics_port, service_name, targets
from sage_fastapi_obs.export.all_rules import alerts, recordings
from sage_fastapi_obs.export.grafana import dashboards
from sage_fastapi_obs.export.yaml import dumped
from sage_fastapi_obs.settings import Settings

INTERVAL = "15s"
MINUTE, HOUR = 60, 3600
_SPARE = 3
"""Evaluations that series of a unit test last longer than they have to."""
_DEFAULT_WINDOW_SECONDS = 300
"""The window that a rule without one is taken to have."""
_STEPS = {21_600: 600, 300: 60, 75: 15, 25: 5, 0: 1}
"""Seconds between samples in unit tests, by the shortest window that they are for."""
_ANY_SERVICE = "service"
"""The dashboard that has a row for each pack without one of its own."""


def files(services: Services) -> dict[str, str]:
    """Return all files by their path."""
    texts = {"prometheus/prometheus.yml": dumped(configuration(services))}
    names = {alert.group.name: alert.group.file_name for alert in alerts(services)}
    for group in rule_groups(services):
        texts[f"prometheus/rules/{names.get(group['name'], group['name'])}.yml"] = dumped({"groups": [group]})
    return {**texts, **_unit_tests(services)}


def rule_groups(services: Services) -> list[dict[str, Any]]:
    """Return the groups of all rules."""
    return grouped(alerts(services), recordings(services), services)


def grouped(some: Iterable[ExportedRule], recorded: list[dict[str, str]], services: Services) -> list[dict[str, Any]]:
    """Return the groups of some alerts and recording rules."""
    entries: dict[RuleGroup, list[dict[str, Any]]] = {}
    known = {dashboard.name for dashboard in dashboards(services)}
    for alert in some:
        entries.setdefault(alert.group, []).append(alert.entry(links(alert, services, known)))
    if recorded:
        entries[SLO] = [*recorded, *entries.get(SLO, [])]
    return [_group(group, rules) for group, rules in entries.items()]


def _group(group: RuleGroup, rules: list[dict[str, Any]]) -> dict[str, Any]:
    interval = {"interval": group.interval} if group.interval else {}
    return {"name": group.name, **interval, "rules": rules}


def links(alert: ExportedRule, services: Services, known: Collection[str]) -> dict[str, str]:
    """Return the links that an alert carries: its runbook, and its dashboard where that is among those known."""
    settings = next((one for one in services if service_name(one) == alert.labels.get("service")), services[0]).export
    runbook = {"runbook_url": f"{settings.runbooks_url.rstrip('/')}/{alert.name}.md"}
    for name in (alert.group.dashboard, _ANY_SERVICE):
        if name in known:
            return {**runbook, "dashboard": f"{settings.dashboards_url.rstrip('/')}/d/{name}"}
    return runbook


@dataclass(frozen=True, slots=True)
class ScrapeTarget:
    """A service or program: the label `service` of what Prometheus scrapes, and where that is."""

    service: str
    port: int
    addresses: Sequence[str]
    """Host and port, where these are known beforehand."""
    namespace: str
    """Its namespace in Kubernetes."""


Discovery: TypeAlias = Callable[[ScrapeTarget], dict[str, Any]]
"""Returns the keys of a job by which Prometheus finds a target's instances."""


def listed(target: ScrapeTarget) -> dict[str, Any]:
    """Have Prometheus find instances by the addresses in the settings."""
    return {"static_configs": [{"targets": [*target.addresses], "labels": {"service": target.service}}]}


def configuration(services: Services, discovery: Discovery = listed) -> dict[str, Any]:
    """Return the configuration; `discovery`: how instances are found."""
    return {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["rules/*.yml"],
        "alerting": {"alertmanagers": [discovery(_where(ALERTMANAGER))]},
        "scrape_configs": [
            *(_service_job(one, discovery) for one in distinct(services)),
            *(_program_job(one, discovery) for one in monitoring_programs(services)),
        ],
    }


def _where(program: Program) -> ScrapeTarget:
    return ScrapeTarget(program.name, program.port, [f"{program.name}:{program.port}"], program.namespace)


def _program_job(program: Program, discovery: Discovery) -> dict[str, Any]:
    path = {} if program.path == DEFAULT_PATH else {"metrics_path": program.path}
    return {"job_name": program.job, **path, **discovery(_where(program))}


def _service_job(service: Settings, discovery: Discovery) -> dict[str, Any]:
    name = service_name(service)
    job: dict[str, Any] = {"job_name": name}
    if service.metrics.path != DEFAULT_PATH:
        job["metrics_path"] = service.metrics.path
    if service.monitoring.access == "token":
        job["authorization"] = {"credentials_file": f"secrets/{name}-token"}
    copied = {"source_labels": ["route"], "regex": "(.+)", "target_label": "path"}
    return {
        **job,
        **discovery(ScrapeTarget(name, metrics_port(service), targets(service), service.export.namespace)),
        "metric_relabel_configs": [copied],
    }


def _unit_tests(services: Services) -> dict[str, str]:
    """Return the unit tests: a file for each group, and one more for rules of days, which are not evaluated each minute."""
    files: dict[tuple[str, bool], list[ExportedRule]] = {}
    for alert in alerts(services):
        files.setdefault((alert.group.file_name, _window(alert) >= 6 * HOUR), []).append(alert)
    return {
        f"prometheus/tests/{name}{'-long' if is_long else ''}.yml": _tests(name, 10 * MINUTE if is_long else MINUTE, some)
        for (name, is_long), some in files.items()
    }


def _window(alert: ExportedRule) -> float:
    return alert.test.window_seconds if alert.test else 0.0


def _tests(rules: str, every: int, some: Sequence[ExportedRule]) -> str:
    tests = [test for alert in some if alert.test is not None for test in _tests_of(alert, alert.test, every)]
    without = [alert.name for alert in some if alert.test is None]
    content = {"rule_files": [f"../rules/{rules}.yml"], "evaluation_interval": duration(every), "tests": tests}
    return dumped(content, comment=f"No series could be made up for {', '.join(without)}." if without else "")


def _tests_of(alert: ExportedRule, test: RuleTest, every: int) -> Iterator[dict[str, Any]]:
    filled = test.window_seconds + alert.for_seconds
    ending = (test.window_seconds if test.ending_seconds is None else test.ending_seconds) + alert.keep_firing_seconds
    silent, fires = _Phase(test.below, filled), _Phase(test.above, filled, test.labels)
    yield _test(alert, alert.name, every, [silent, fires, _Phase(test.below if test.after is None else test.after, ending)])
    nothing = dict.fromkeys({**test.below, **test.above}, SeriesShape(is_missing=True))
    gone = _Phase(nothing, max(filled, ending), test.missing_labels)
    around = fires if test.missing_labels is None else silent
    yield _test(alert, f"{alert.name}: its series disappear", every, [around, gone, around])


@dataclass(frozen=True, slots=True)
class _Phase:
    """How the series of a test behave for a while, and the labels of the alert that fires at the end of it, if one does."""

    series: TestSeries
    seconds: float
    labels: Mapping[str, str] | None = None


def _test(alert: ExportedRule, name: str, every: int, phases: Sequence[_Phase]) -> dict[str, Any]:
    """Return a test that checks the alert at the end of each phase, and how long it was pending before it fires."""
    # Whole evaluations, and some to spare.
    seconds = [(ceil(phase.seconds / every) + _SPARE) * every for phase in phases]
    step = next(step for least, step in _STEPS.items() if (_window(alert) or _DEFAULT_WINDOW_SECONDS) >= least)
    steps = [one // step for one in seconds]
    return {
        "name": name,
        "interval": duration(step),
        "input_series": [
            {"series": one, "values": _values([phase.series.get(one, SeriesShape()) for phase in phases], steps, step)}
            for one in dict.fromkeys(chain.from_iterable(phase.series for phase in phases))
        ],
        "promql_expr_test": [
            {"expr": asked, "eval_time": duration(end - every), "exp_samples": answer}
            for end, length, phase in zip(accumulate(seconds), seconds, phases, strict=True)
            for asked, answer in _checks(alert, phase, length, every)
        ],
    }


def _checks(alert: ExportedRule, phase: _Phase, seconds: int, every: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield what is asked at the end of a phase, and the answers."""
    pending, firing = (
        series("ALERTS", {"alertname": alert.name, "alertstate": state, **alert.labels}) for state in ("pending", "firing")
    )
    if phase.labels is None:
        yield firing, []
        return
    labels = {"alertname": alert.name, "alertstate": "firing", **phase.labels, **alert.all_labels}
    yield firing, [{"labels": series("ALERTS", labels), "value": 1}]
    if alert.for_seconds:
        evaluations = {"labels": "{}", "value": ceil(alert.for_seconds / every)}
        yield f"sum(count_over_time({pending}[{duration(seconds)}]))", [evaluations]


def _values(shapes: Sequence[SeriesShape], lengths: Sequence[int], step: int) -> str:
    """Write samples in promtool's notation: `0+1x4` is 0 1 2 3 4."""
    written, total = [], None
    for shape, samples in zip(shapes, lengths, strict=True):
        rise = shape.per_second * step
        if shape.is_missing:
            written.append(f"stale _x{samples - 1}")
        elif shape.level is not None:
            written.append(f"{_plain(shape.level)}+0x{samples - 1}")
        else:
            begin = 0.0 if total is None else total + rise
            total = begin + rise * (samples - 1)
            written.append(f"{_plain(begin)}+{_plain(rise)}x{samples - 1}")
    return " ".join(written)


def _plain(value: float) -> str:
    """Write a number without an exponent, which promtool does not know."""
    return f"{value:.9f}".rstrip("0").rstrip(".")
