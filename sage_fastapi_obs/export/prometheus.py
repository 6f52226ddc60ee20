"""What Prometheus loads: its configuration, rule files, and a unit test of every rule for `promtool test rules`."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import accumulate, chain
from math import ceil
from typing import Any

from sage_fastapi_obs.alerting.expressions import duration
from sage_fastapi_obs.export import services as of
from sage_fastapi_obs.export.exported_rule import ExportedRule, RuleTest
from sage_fastapi_obs.export.grafana import boards
from sage_fastapi_obs.export.rule_test_series import SeriesShape, TestSeries, series
from sage_fastapi_obs.export.rules import alerts, recordings
from sage_fastapi_obs.export.services import Services
from sage_fastapi_obs.export.yaml import dumped
from sage_fastapi_obs.settings import Settings

__all__ = ["configuration", "files", "grouped", "links", "rule_groups"]

INTERVAL = "15s"
GROUP_INTERVALS = {"sage_critical": "30s", "sage_warning": "30s", "availability": "30s", "slo": "30s"}
MINUTE, HOUR = 60, 3600
SPARE = 3
"""Evaluations that a scene of a unit test lasts longer than it has to."""
STEPPED_SECONDS = 300
"""The window that a rule without one is taken to have."""
STEPS = {21_600: 600, 300: 60, 75: 15, 25: 5, 0: 1}
"""Seconds between samples in unit tests, by the least window that they are for."""
ANY_SERVICE = "service"
"""The dashboard that has a row for each pack without one of its own."""
FILES = {"customer-id-alerts": "customer-id"}
"""Rule files that are called otherwise than their group, besides what dashes are in one and underscores in the other."""


def files(services: Services) -> dict[str, str]:
    """Return all files by their path."""
    groups = rule_groups(services)
    written = {f"prometheus/rules/{_file(group['name'])}.yml": dumped({"groups": [group]}) for group in groups}
    return {"prometheus/prometheus.yml": dumped(configuration(services)), **written, **_unit_tests(services)}


def rule_groups(services: Services) -> list[dict[str, Any]]:
    """Return the groups of all rules."""
    return grouped(alerts(services), recordings(services), services)


def grouped(some: Iterable[ExportedRule], recorded: list[dict[str, str]], services: Services) -> list[dict[str, Any]]:
    """Return the groups of some alerts and recording rules."""
    found: dict[str, list[dict[str, Any]]] = {}
    dashboards = {board.name for board in boards(services)}
    for alert in some:
        found.setdefault(alert.group, []).append(alert.entry(links(alert, services, dashboards)))
    if recorded:
        found["slo"] = [*recorded, *found.get("slo", [])]
    return [_group(name, rules) for name, rules in found.items()]


def links(alert: ExportedRule, services: Services, dashboards: Collection[str]) -> dict[str, str]:
    """Return the links that an alert carries: what to do, and where to look, as far as that is among the dashboards."""
    settings = next((one for one in services if of.name(one) == alert.labels.get("service")), services[0]).export
    shown = next((name for name in (alert.dashboard, ANY_SERVICE) if name in dashboards), None)
    runbook = {"runbook_url": f"{settings.runbooks_url.rstrip('/')}/{alert.name}.md"}
    return runbook if shown is None else {**runbook, "dashboard": f"{settings.dashboards_url.rstrip('/')}/d/{shown}"}


def configuration(
    services: Services, *, alertmanager: str = "alertmanager:9093", node: str = "node-exporter:9100"
) -> dict[str, Any]:
    """Return the configuration; `alertmanager` and `node`: where these are, as host and port."""
    jobs = [_scraped(one) for one in of.distinct(services)]
    return {
        "global": {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL},
        "rule_files": ["rules/*.yml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [*jobs, {"job_name": "node", "static_configs": [{"targets": [node]}]}],
    }


def _scraped(service: Settings) -> dict[str, Any]:
    name = of.name(service)
    job: dict[str, Any] = {"job_name": name}
    if service.metrics.path != "/metrics":
        job["metrics_path"] = service.metrics.path
    if service.monitoring.access == "token":
        job["authorization"] = {"credentials_file": f"secrets/{name}-token"}
    copied = {"source_labels": ["route"], "regex": "(.+)", "target_label": "path"}
    return {
        **job,
        "static_configs": [{"targets": of.targets(service), "labels": {"service": name}}],
        "metric_relabel_configs": [copied],
    }


def _group(name: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    interval = {"interval": GROUP_INTERVALS[name]} if name in GROUP_INTERVALS else {}
    return {"name": name, **interval, "rules": rules}


def _file(group: str) -> str:
    return FILES.get(group, group.replace("_", "-"))


def _unit_tests(services: Services) -> dict[str, str]:
    """Return the unit tests: a file for each group, and one more for what takes long and is not to be judged each minute."""
    found: dict[str, tuple[str, int, list[ExportedRule]]] = {}
    for alert in alerts(services):
        name, every = (
            (_file(alert.group), MINUTE) if _settled(alert) < 6 * HOUR else (f"{_file(alert.group)}-long", 10 * MINUTE)
        )
        found.setdefault(f"prometheus/tests/{name}.yml", (_file(alert.group), every, []))[2].append(alert)
    return {path: _tests(*about) for path, about in found.items()}


def _settled(alert: ExportedRule) -> float:
    return alert.story.settled_seconds if alert.story else 0.0


def _tests(rules: str, every: int, some: Sequence[ExportedRule]) -> str:
    told = [test for alert in some if alert.story is not None for test in _stories(alert, alert.story, every)]
    untold = [alert.name for alert in some if alert.story is None]
    comment = f"No series could be made up for {', '.join(untold)}." if untold else ""
    return dumped(
        {"rule_files": [f"../rules/{rules}.yml"], "evaluation_interval": duration(every), "tests": told}, comment=comment
    )


def _stories(alert: ExportedRule, story: RuleTest, every: int) -> Iterable[dict[str, Any]]:
    ended = story.quiet if story.after is None else story.after
    yield _test(alert, alert.name, every, (story.quiet, story.loud, ended), story.labels)
    if story.gone is not None:
        yield _test(alert, f"{alert.name}: nothing there", every, (story.quiet, story.gone, story.quiet), story.gone_labels)


def _test(
    alert: ExportedRule, name: str, every: int, scenes: Sequence[TestSeries], labels: Mapping[str, str]
) -> dict[str, Any]:
    """Hold a rule against a quiet scene, a loud one, and what ends it; each is judged when it is all that the rule sees."""
    settled = _settled(alert)
    assert alert.story is not None
    ending = settled if alert.story.ending_seconds is None else alert.story.ending_seconds
    lasting = [settled + alert.for_seconds, settled + alert.for_seconds, ending + alert.keep_firing_seconds]
    # Whole evaluations, and some to spare.
    lasts = [(ceil(seconds / every) + SPARE) * every for seconds in lasting]
    step = next(step for least, step in STEPS.items() if (settled or STEPPED_SECONDS) >= least)
    shown = {"alertname": alert.name, "alertstate": "firing", **labels, **alert.shown_labels}
    fires = {"labels": series("ALERTS", shown), "value": 1}
    asked = series("ALERTS", {"alertname": alert.name, "alertstate": "firing", **alert.labels})
    steps = [seconds // step for seconds in lasts]
    return {
        "name": name,
        "interval": duration(step),
        "input_series": [
            {"series": one, "values": _values([scene.get(one, SeriesShape()) for scene in scenes], steps, step)}
            for one in dict.fromkeys(chain.from_iterable(scenes))
        ],
        "promql_expr_test": [
            {"expr": asked, "eval_time": duration(end - every), "exp_samples": samples}
            for end, samples in zip(accumulate(lasts), ([], [fires], []), strict=True)
        ],
    }


def _values(courses: Sequence[SeriesShape], lengths: Sequence[int], step: int) -> str:
    """Write samples in promtool's notation: `0+1x4` is 0 1 2 3 4."""
    written, total = [], None
    for course, samples in zip(courses, lengths, strict=True):
        rise = course.per_second * step
        if course.is_missing:
            written.append(f"stale _x{samples - 1}")
        elif course.level is not None:
            written.append(f"{_plain(course.level)}+0x{samples - 1}")
        else:
            begin = 0.0 if total is None else total + rise
            total = begin + rise * (samples - 1)
            written.append(f"{_plain(begin)}+{_plain(rise)}x{samples - 1}")
    return " ".join(written)


def _plain(value: float) -> str:
    """Write a number without an exponent, which promtool does not know."""
    return f"{value:.9f}".rstrip("0").rstrip(".")
