"""What has changed between two contracts, and which dashboards, alerts and runbooks that breaks."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from sage_fastapi_obs.contract.needs import Break, RuleNeed, Subject
from sage_fastapi_obs.contract.query_needs import needs_of
from sage_fastapi_obs.contract.rule_uses import recorded_in
from sage_fastapi_obs.contract.telemetry_contract import Contract, MetricTerms, Use

_PARTS = {"route": "routes", "field": "fields", "level": "levels", "attribute": "attributes", "hidden": "hidden"}
_GONE = {
    "route": "the route {} is gone",
    "field": "log lines have no field {}",
    "level": "lines of level {} are not written",
    "attribute": "spans have no attribute {}",
    "hidden": "hidden no more, or in another way: {}",
}


class Affected(NamedTuple):
    """A place that asks for what has changed."""

    kind: str
    name: str
    part: str
    file: str
    effect: str
    is_fatal: bool


@dataclass
class Difference:
    """One difference."""

    subject: Subject
    text: str
    is_addition: bool = False
    """Whether nobody can miss anything."""
    affected: list[Affected] = field(default_factory=list)


@dataclass(frozen=True)
class Comparison:
    """All differences."""

    changes: Sequence[Difference]
    searched: Sequence[tuple[Use, str]]
    """Queries that could not be parsed, and why: they were searched for names."""

    @property
    def is_compatible(self) -> bool:
        """Whether nothing has gone and nothing is broken."""
        return all(change.is_addition and not change.affected for change in self.changes)


def compare(old: Contract, new: Contract, found: Iterable[Use]) -> Comparison:
    """Compare two contracts; `found`: queries in files of the service's owners, besides those in the old contract."""
    uses = [*found]
    in_files = {_query(use) for use in uses}
    uses += (use for use in old.used_by if _query(use) not in in_files)
    alerts = {use.name: use.text for use in uses if use.kind == "alert"}
    known, now = (
        replace(one, rules={**{name: alerts[name] for name in alerts if name not in old.rules}, **one.rules})
        for one in (old, new)
    )
    changes = {change.subject: change for change in _differences(old, new)}
    recorded = recorded_in(uses)
    searched: list[tuple[Use, str]] = []
    about: dict[str, list[Use]] = {}
    for use in uses:
        needs, reason = needs_of(use, known, recorded)
        if reason and use.file:
            searched.append((use, reason))
        for need in needs:
            if isinstance(need, RuleNeed):
                about.setdefault(need.name, []).append(use)
            for broken in need.broken_by(known, now):
                _add(changes[broken.subject], use, broken)
    for change in changes.values():
        _follow(change, about)
        change.affected = sorted(set(change.affected))
    return Comparison([*changes.values()], searched)


def _query(use: Use) -> tuple[str, ...]:
    return use.kind, use.name, use.part, use.language, use.text


def _add(change: Difference, use: Use, broken: Break) -> None:
    change.affected.append(Affected(use.kind, use.name, use.part, use.file, broken.effect, broken.is_fatal))


def _follow(change: Difference, about: Mapping[str, Sequence[Use]]) -> None:
    """Add what is about the alerts that are broken."""
    already = {(one.kind, one.name, one.part) for one in change.affected}
    for alert in {one.name for one in change.affected if one.kind == "alert" and one.is_fatal}:
        for use in about.get(alert, ()):
            if (use.kind, use.name, use.part) not in already and use.kind != "alert":
                _add(change, use, Break(change.subject, f"is about the alert {alert}"))


def _differences(old: Contract, new: Contract) -> Iterator[Difference]:
    if old.service != new.service:
        yield Difference(Subject("service", old.service), f"the service {old.service} is called {new.service}")
    yield from _changed_metrics(old.metrics, new.metrics)
    for kind, name in _PARTS.items():
        had, has = getattr(old, name), getattr(new, name)
        gone, added = _difference(had, has)
        hint = f"; perhaps it is {added[0]} now" if len(gone) == len(added) == 1 and kind != "hidden" else ""
        yield from (Difference(Subject(kind, one), _GONE[kind].format(one) + hint) for one in gone)
        yield from (Difference(Subject(kind, one), f"{kind} {one}", is_addition=True) for one in added)
    yield from _changed_rules(old.rules, new.rules)


def _changed_rules(had: Mapping[str, str], has: Mapping[str, str]) -> Iterator[Difference]:
    gone, added = _difference(had, has)
    for name in gone:
        alike = [one for one in added if has[one] == had[name]]
        yield Difference(Subject("rule", name), f"the rule {name} is gone{_perhaps(alike)}")
    yield from (Difference(Subject("rule", name), f"rule {name}", is_addition=True) for name in added)
    for name in sorted(had.keys() & has.keys()):
        if had[name] != has[name]:
            yield Difference(Subject("rule", name), f"the rule {name} has changed\n  was {had[name]}\n  is {has[name]}")


def _changed_metrics(had: Mapping[str, MetricTerms], has: Mapping[str, MetricTerms]) -> Iterator[Difference]:
    gone, added = _difference(had, has)
    for name in gone:
        alike = [one for one in added if _shape(has[one]) == _shape(had[name])]
        yield Difference(Subject("metric", name), f"the metric {name} is gone{_perhaps(alike)}")
    yield from (Difference(Subject("metric", name), f"metric {name}", is_addition=True) for name in added)
    for name in sorted(had.keys() & has.keys()):
        yield from _changed_terms(name, had[name], has[name])


def _changed_terms(name: str, old: MetricTerms, new: MetricTerms) -> Iterator[Difference]:
    if old.type != new.type:
        yield Difference(Subject("type", name), f"{name} was a {old.type}, and is a {new.type}")
    gone, added = _difference(old.labels, new.labels)
    hint = _perhaps(added) if len(gone) == 1 else ""
    yield from (Difference(Subject("label", name, label), f"{name} has no label {label}{hint}") for label in gone)
    yield from (Difference(Subject("label", name, label), f"label {label} of {name}", is_addition=True) for label in added)
    for label in sorted(old.labels.keys() & new.labels.keys()):
        yield from _changed_values(Subject("value", name, label), old.labels[label], new.labels[label])
    if old.type == new.type and old.buckets != new.buckets:
        lost, won = _bounds(old.buckets, new.buckets), _bounds(new.buckets, old.buckets)
        parts = [f"without {lost}" if lost else "", f"with {won}" if won else ""]
        yield Difference(Subject("buckets", name), f"{name} has other buckets: {', '.join(filter(None, parts))}")


def _changed_values(subject: Subject, had: Collection[str], has: Collection[str]) -> Iterator[Difference]:
    where = f"the label {subject.detail} of {subject.name}"
    if has and not had:
        yield Difference(subject, f"{where} can only be {', '.join(has)}: all else becomes other")
    elif has and (gone := _difference(had, has)[0]):
        yield Difference(subject, f"{where} cannot be {', '.join(gone)} any more")
    elif set(had) != set(has):
        yield Difference(subject, f"values of {where}", is_addition=True)


def _difference(had: Iterable[str], has: Iterable[str]) -> tuple[list[str], list[str]]:
    return sorted({*had} - {*has}), sorted({*has} - {*had})


def _shape(terms: MetricTerms) -> tuple[str, frozenset[str], tuple[float, ...]]:
    return terms.type, frozenset(terms.labels), terms.buckets


def _perhaps(names: Sequence[str]) -> str:
    return f"; perhaps it is {names[0]} now" if len(names) == 1 else ""


def _bounds(some: Sequence[float], but: Sequence[float]) -> str:
    return ", ".join(f"{bound:g}" for bound in some if bound not in but)
