"""What a query needs of a service, and which change of the contract breaks it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from sage_fastapi_obs.alerting.label_matchers import matcher
from sage_fastapi_obs.contract.telemetry_contract import TARGET_LABELS, Contract
from sage_fastapi_obs.errors import SettingsError

EVERY_LABEL = "*"
_ALTERNATIVES = re.compile(r"[|()]")
_VARIABLE = re.compile(r"\$\{|\$\w|\[\[")


class Subject(NamedTuple):
    """Something that a contract promises."""

    kind: str
    name: str
    detail: str = ""


class Break(NamedTuple):
    """What has changed, and what that does to a query."""

    subject: Subject
    effect: str
    is_fatal: bool = True
    """Whether it answers nothing or nonsense now, and not only something else."""


class Need(Protocol):
    """Something that a query relies on."""

    def broken_by(self, old: Contract, new: Contract) -> Iterable[Break]:
        """Say what it relied on in the old contract that the new one does not promise any more."""
        ...


@dataclass(frozen=True)
class MetricNeed:
    """A metric has to exist, as the type that it was."""

    metric: str

    def broken_by(self, old: Contract, new: Contract) -> Iterator[Break]:
        """Say whether it has gone, or is of another type."""
        if self.metric not in new.metrics:
            yield Break(Subject("metric", self.metric), "finds nothing")
        elif new.metrics[self.metric].type != old.metrics[self.metric].type:
            yield Break(Subject("type", self.metric), "asks in a way that is right for the old type")


@dataclass(frozen=True)
class LabelNeed:
    """A metric has to have a label; `*`: exactly those that it had."""

    metric: str
    label: str

    def broken_by(self, old: Contract, new: Contract) -> Iterator[Break]:
        """Say whether the label has gone."""
        if self.metric not in new.metrics:
            return
        had, has = old.metrics[self.metric].labels.keys(), new.metrics[self.metric].labels.keys()
        if self.label != EVERY_LABEL:
            if self.label in had - has:
                yield Break(Subject("label", self.metric, self.label), f"needs {self.label}")
            return
        for label in sorted(had ^ has):
            yield Break(Subject("label", self.metric, label), "matches series with other labels, and finds no partner")


@dataclass(frozen=True)
class ValueNeed:
    """A label of a metric has to be able to have a value; without a metric, that of any series."""

    metric: str
    label: str
    operator: str
    text: str

    def broken_by(self, old: Contract, new: Contract) -> Iterator[Break]:
        """Say which of the values that it looks for have gone."""
        if not self.metric or self.metric in new.metrics:
            values = old.values(self.metric, self.label), new.values(self.metric, self.label)
            yield from _lost_values(self, *values, self._subject(old, new))

    def _subject(self, *contracts: Contract) -> Subject:
        if self.label in TARGET_LABELS:
            return Subject("service", "")
        is_listed = any(self.metric and one.metrics[self.metric].labels.get(self.label) for one in contracts)
        return Subject("value", self.metric, self.label) if is_listed else Subject("route", "")


@dataclass(frozen=True)
class FieldNeed:
    """Log lines have to have a field; with a text, one that can have this value."""

    name: str
    operator: str = ""
    text: str = ""

    def broken_by(self, old: Contract, new: Contract) -> Iterator[Break]:
        """Say whether the field has gone, or its value."""
        if self.name in old.fields and self.name not in new.fields:
            yield Break(Subject("field", self.name), f"needs {self.name}")
        elif self.operator:
            values = old.field_values(self.name), new.field_values(self.name)
            yield from _lost_values(self, *values, Subject(self.name, ""))


@dataclass(frozen=True)
class AttributeNeed:
    """Spans have to have an attribute."""

    name: str

    def broken_by(self, old: Contract, new: Contract) -> Iterator[Break]:
        """Say whether it has gone."""
        if self.name in old.attributes and self.name not in new.attributes:
            yield Break(Subject("attribute", self.name), f"needs {self.name}")


@dataclass(frozen=True)
class RuleNeed:
    """There has to be an alert rule, as it was."""

    name: str

    def broken_by(self, old: Contract, new: Contract) -> Iterator[Break]:
        """Say whether it has gone or fires at something else."""
        if self.name not in new.rules:
            yield Break(Subject("rule", self.name), f"is about {self.name}, which never fires again")
        elif new.rules[self.name] != old.rules[self.name]:
            yield Break(Subject("rule", self.name), f"is about {self.name}, which fires at something else", is_fatal=False)


@dataclass(frozen=True)
class BucketsNeed:
    """A histogram has to have buckets: with a bound one that ends there, with a threshold one at or above."""

    metric: str
    bound: float | None = None
    threshold: float | None = None

    def broken_by(self, old: Contract, new: Contract) -> Iterator[Break]:
        """Say whether they are other buckets, and what that does."""
        if self.metric not in new.metrics or new.metrics[self.metric].type != old.metrics[self.metric].type:
            return
        had, has = old.metrics[self.metric].buckets, new.metrics[self.metric].buckets
        subject = Subject("buckets", self.metric)
        if not (had and has) or had == has:
            return
        if self.bound is not None:
            if self.bound in had and self.bound not in has:
                yield Break(subject, f'asks for le="{self.bound:g}", and finds nothing')
        elif self.threshold is not None:
            if max(had) > self.threshold >= max(has):
                yield Break(subject, f"never sees more than {max(has):g}, so that it is never above {self.threshold:g}")
        else:
            yield Break(subject, "estimates quantiles from other buckets", is_fatal=False)


def _lost_values(need: ValueNeed | FieldNeed, had: tuple[str, ...], has: tuple[str, ...], kind: Subject) -> Iterator[Break]:
    if need.operator not in ("=", "=~") or _VARIABLE.search(need.text) or not (had and has):
        return
    try:
        matches = matcher(f"{need.operator}{need.text}")
    except SettingsError:
        return
    left = any(map(matches, has))
    named = {one.replace("\\", "") for one in _ALTERNATIVES.split(need.text)}
    for value in had:
        # What stands for any value finds others as well.
        if value not in has and matches(value) and (not left or value in named):
            effect = f"shows less without {value}" if left else f"asks for {value}, and finds nothing"
            yield Break(kind if kind.name else kind._replace(name=value), effect, is_fatal=not left)
