"""What a service offers to dashboards, rules and runbooks, and those of them that it brings itself: one JSON file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sage_fastapi_obs.errors import ObservabilityError

FORMAT = 1
_OF_HISTOGRAMS = ("_bucket", "_sum", "_count", "_created")
TARGET_LABELS = ("service", "job")
"""Labels that a scrape adds: what they say is the service."""
_MOST_BYTES = 64 * 1024 * 1024


class ContractError(ObservabilityError, ValueError):
    """A contract cannot be written or compared; the message says what to change."""


@dataclass(frozen=True)
class MetricTerms:
    """What is promised of a metric."""

    type: str
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The values that each label may have; none for an open one."""
    buckets: tuple[float, ...] = ()
    """Finite upper bounds."""


@dataclass(frozen=True)
class Use:
    """A query, and where it stands."""

    kind: str
    """Of the place: `dashboard`, `alert`, `recording rule`, `runbook`."""
    name: str
    language: str
    """One of `LANGUAGES`."""
    text: str
    part: str = ""
    """Where in the place, such as the title of a panel."""
    shown: tuple[str, ...] = ()
    """Labels and fields that are shown by their names, such as those of a legend."""
    file: str = ""


LANGUAGES = ("promql", "logql", "lucene", "traceql", "words")
"""Of queries; `words`: a text in which names are looked for."""


@dataclass(frozen=True)
class Contract:
    """What a service offers."""

    format: int
    service: str
    metrics: Mapping[str, MetricTerms]
    routes: tuple[str, ...] = ()
    """Templates."""
    fields: tuple[str, ...] = ()
    """Of log lines."""
    levels: tuple[str, ...] = ()
    """That are written."""
    attributes: tuple[str, ...] = ()
    """Of server spans."""
    hidden: tuple[str, ...] = ()
    """Names of values that are hidden as secrets, besides those that always are."""
    rules: Mapping[str, str] = field(default_factory=dict)
    """Alert rules: when they fire."""
    used_by: tuple[Use, ...] = ()
    """What the package's own dashboards, rules and runbooks ask for."""

    @cached_property
    def series(self) -> dict[str, str]:
        """All names of series, with the metrics that they are of: `x_bucket` is of the histogram `x`."""
        histograms = [name for name, terms in self.metrics.items() if terms.type == "histogram"]
        return {name + suffix: name for name in histograms for suffix in _OF_HISTOGRAMS} | {name: name for name in self.metrics}

    def values(self, metric: str, label: str) -> tuple[str, ...]:
        """Return all values that a label may have; none for an open one. Without a metric, those of any series."""
        if label in TARGET_LABELS:
            return (self.service,)
        terms = self.metrics.get(metric)
        values = terms.labels.get(label, ()) if terms is not None else ()
        is_route = label == "route" and (not metric or (terms is not None and label in terms.labels))
        return values or (self.routes if is_route else ())

    def field_values(self, name: str) -> tuple[str, ...]:
        """Return all values that a field of a line may have; none for an open one."""
        return {"service": (self.service,), "route": self.routes, "level": self.levels}.get(name, ())


_adapter = TypeAdapter(Contract)


def written(contract: Contract) -> str:
    """Write a contract as JSON with one entry a line, so that version control shows what has changed."""
    sections = (f"{json.dumps(name)}: {_section(value)}" for name, value in asdict(contract).items())
    return "{\n" + ",\n".join(sections) + "\n}\n"


def _section(value: Any) -> str:
    if isinstance(value, Mapping):
        entries = [f"{json.dumps(name)}: {_compact(value[name])}" for name in sorted(value)]
        return "{\n " + ",\n ".join(entries) + "\n}" if entries else "{}"
    if isinstance(value, (tuple, list)):
        return "[\n " + ",\n ".join(map(_compact, value)) + "\n]" if value else "[]"
    return json.dumps(value)


def _compact(value: Any) -> str:
    filled = {name: one for name, one in value.items() if one} if isinstance(value, Mapping) else value
    return json.dumps(filled, ensure_ascii=False)


def read_contract(path: Path) -> Contract:
    """Read a contract; raises `ContractError` for a file that is none."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ContractError(f"{path} is too large to be a contract")
        contract = _adapter.validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ContractError(f"there is no {path}: write it with `sage-obs contract write`, and commit it") from None
    except OSError as error:
        raise ContractError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ContractError(f"{path} is no contract ({where + ': ' if where else ''}{first['msg']}): write it again") from None
    if contract.format != FORMAT:
        raise ContractError(f"{path} has format {contract.format}, this version knows {FORMAT}: write it again")
    return contract
