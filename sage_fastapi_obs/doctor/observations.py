"""What was seen of an app while it was asked: all that the checks go by."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from opentelemetry.sdk.trace import ReadableSpan

from sage_fastapi_obs.inspection.app_layers import FoundRoute
from sage_fastapi_obs.inspection.inspected_app import InspectedApp
from sage_fastapi_obs.inspection.synthetic_requests import SyntheticAnswer


class GrownLabel(NamedTuple):
    """A label that had another value for each request."""

    metric: str
    label: str


class ShownSecret(NamedTuple):
    """A value that is secret by its name, and that was shown."""

    place: str
    """A field of lines, or an attribute of spans."""
    instrumentation: str | None
    """Who made the span; None for a line."""


class LayerCost(NamedTuple):
    """What one layer of the app costs each request."""

    layer: str
    cpu_us: float


@dataclass
class Observations:
    """All of it."""

    inspected: InspectedApp
    answers: dict[str, SyntheticAnswer] = field(default_factory=dict)
    """By the kind of the request; empty where no routes could be added."""
    spans: Sequence[ReadableSpan] = ()
    """Those of one request that went well, of all providers that export."""
    shown_secrets: Sequence[ShownSecret] = ()
    grown: Sequence[GrownLabel] = ()
    open_pages: Sequence[str] = ()
    """Paths of ours that answered a stranger."""
    open_foreign_pages: Sequence[FoundRoute] = ()
    """Pages of metrics of other packages that did."""
    costs: Sequence[LayerCost] = ()
    """From the outside to the inside."""
    called: Sequence[tuple[FoundRoute, SyntheticAnswer]] = ()
    """Routes of the app itself, where that was asked for."""

    @property
    def cost_us(self) -> float:
        """Processor time of one request."""
        return sum(cost.cpu_us for cost in self.costs)
