"""Which requests are kept: decided once for each, by how it ended. Spans, held lines, exemplars and the store follow that.

Kept is a request that failed, was slow, was asked for, was refused, or is the first of its route in a while; and of all others
those of which the trace is sampled: by the caller, or by the ratio. What is not sampled is kept within budgets, so that an
outage in which every request fails stays cheap.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from sage_fastapi_obs.catalog import RETENTION_METRIC, CountCollector
from sage_fastapi_obs.otel_internals import is_fast
from sage_fastapi_obs.request.debug_token import DebugToken
from sage_fastapi_obs.request.exchange import Exchange
from sage_fastapi_obs.request.recorder import Headers, Recorder
from sage_fastapi_obs.retention_reasons import ASKED, FAILED, FIRST, NOT_KEPT, RATIO, REFUSED, SLOW, UNDECIDED, UPSTREAM
from sage_fastapi_obs.settings import Settings

PER_ROUTE = {FAILED: 10, SLOW: 5, ASKED: 10, REFUSED: 1, FIRST: 1}
"""Requests of a route that are kept in one second."""
OF_ALL_ROUTES = {FAILED: 50, SLOW: 25, ASKED: 50, REFUSED: 10, FIRST: 10}
"""Requests that are kept in one second. Failures cannot use up what others may have, nor the other way round."""
AWHILE_NS = 600 * 1_000_000_000
"""A route or an error type that was not seen for so long is new again."""
SHORTEST_SLOW_US = 100_000
"""Shorter requests are not slow, however quick the others of their route are."""
MOST_ROUTES, MOST_ERROR_TYPES = 2_000, 1_000
_REVIEW_REQUESTS, _REMEMBERED_REQUESTS = 32, 256
_FEWEST_REQUESTS = 16
_NEVER_US = 1 << 62
_HEALTH_CHECKS = frozenset({"/health", "/healthz", "/live", "/livez", "/ping", "/ready", "/readyz", "/status"})
_SECOND_NS = 1_000_000_000


class _Route:
    """How long the requests of a route have taken lately, and what of it was kept in this second."""

    __slots__ = ("_longest_us", "_until_review", "durations", "kept", "second", "seen_ns", "slow_us")

    def __init__(self, longest_us: int) -> None:
        """`longest_us`: requests that take so long are slow, whatever the others of the route take."""
        self.durations = [0] * 64
        """Requests by the number of bits of their duration in microseconds."""
        self._until_review = _REVIEW_REQUESTS
        self._longest_us = self.slow_us = longest_us
        """The limit of the settings, and the one in force."""
        self.seen_ns = -AWHILE_NS
        self.second = 0
        self.kept: Counter[str] = Counter()

    def add(self, answered_us: int) -> None:
        """Add the duration of a request."""
        self.durations[min(answered_us.bit_length(), 63)] += 1
        self._until_review -= 1
        if not self._until_review:
            self._review()

    def _review(self) -> None:
        """Set the limit to twice the 95th percentile, and give later requests more weight than earlier ones."""
        self._until_review = _REVIEW_REQUESTS
        total = sum(self.durations)
        self.slow_us = min(self._longest_us, max(SHORTEST_SLOW_US, int(2 * _percentile(self.durations, 0.95 * total))))
        if total >= _REMEMBERED_REQUESTS:
            self.durations = [count >> 1 for count in self.durations]


def _percentile(durations: list[int], rank: float) -> float:
    """Find the duration below which `rank` requests are, evenly spread between two powers of two."""
    below = 0
    for bits, count in enumerate(durations):
        if count and below + count >= rank:
            return (1 << bits) * (1 + (rank - below) / count) / 2
        below += count
    return _NEVER_US


class Retention(Recorder):
    """Decides for each exchange whether it is kept, before the other recorders see its end."""

    component = "Retention"

    def __init__(self, settings: Settings) -> None:
        slow_seconds = settings.tracing.slow_seconds
        self._longest_us = _NEVER_US if slow_seconds is None else int(slow_seconds * 1_000_000)
        token = DebugToken(settings.logging)
        self._asks = token.is_sent_by if token else None
        self._routes: dict[str | None, _Route] = {}
        self._other_routes = _Route(self._longest_us)
        self._error_types: dict[str, int] = {}
        """When each was seen last, by the monotonic clock."""
        self._second = 0
        self._kept: Counter[str] = Counter()
        self.dropped = dict.fromkeys(PER_ROUTE, 0)
        """Requests that were not kept because too many were, by the reason for which they would have been."""
        self.holds_spans = False
        """Whether spans of what is not sampled are held, so that the outcome decides about them, too."""

    @property
    def shortest_slow_us(self) -> int:
        """The duration below which no request of any route is slow, in microseconds."""
        return min(SHORTEST_SLOW_US, self._longest_us)

    def slow_us(self, template: str | None) -> int:
        """Return the duration from which on a request of a route is slow, in microseconds."""
        route = self._routes.get(template)
        return self._longest_us if route is None else route.slow_us

    def median_us(self, template: str | None) -> int:
        """Return what half of the requests of a route take at most, in microseconds; 0 while there are too few to say."""
        route = self._routes.get(template)
        total = 0 if route is None else sum(route.durations)
        return 0 if route is None or total < _FEWEST_REQUESTS else int(_percentile(route.durations, total / 2))

    def response_started(self, exchange: Exchange, _: Headers) -> None:
        """Decide about a WebSocket that is kept for its handshake; about all others later."""
        if exchange.socket is not None:
            self._decide(exchange)
            if exchange.kept == NOT_KEPT:
                exchange.kept = UNDECIDED

    def request_finished(self, exchange: Exchange) -> None:
        """Decide, unless that was done at the handshake and nothing has changed."""
        socket = exchange.socket
        if socket is None and self._is_ordinary(exchange):
            if exchange.sampled:
                exchange.kept = UPSTREAM if _is_followed(exchange.span) else RATIO
            else:
                self._drop(exchange)
        elif socket is None or socket.handshake_us is None or exchange.failed:
            self._decide(exchange)
        elif exchange.kept == UNDECIDED:
            self._drop(exchange)

    def background_finished(self, exchange: Exchange) -> None:
        """Keep what is left of a request whose background work has failed."""
        background = exchange.background
        if background is None or background.error_type is None or exchange.kept != NOT_KEPT:
            return
        ended_us = background.started_us + background.duration_us
        if self._has_room(exchange, FAILED, background.error_type, ended_us):
            exchange.kept = FAILED
        else:
            self.dropped[FAILED] += 1

    def _decide(self, exchange: Exchange) -> None:
        reason = self._reason(exchange)
        has_room = reason is not None and (
            exchange.is_kept or self._has_room(exchange, reason, exchange.error_type, exchange.duration_us)
        )
        if reason is not None and has_room:
            exchange.kept = reason
            exchange.sampled = exchange.sampled or (self.holds_spans and _is_held(exchange))
        elif exchange.sampled:
            exchange.kept = UPSTREAM if _is_followed(exchange.span) else RATIO
        else:
            if reason is not None:
                self.dropped[reason] += 1
            self._drop(exchange)

    def _drop(self, exchange: Exchange) -> None:
        exchange.kept, exchange.story = NOT_KEPT, None

    def _is_ordinary(self, exchange: Exchange) -> bool:
        """Tell whether a request is like nearly all: quick, fine, and not the first one; `_reason` says the same, but later."""
        route = self._routes.get(exchange.route)
        duration_us, started_ns = exchange.duration_us, exchange.started_ns
        if (
            route is None
            or duration_us >= route.slow_us
            or exchange.status >= 400
            or exchange.error_type is not None
            or exchange.streamed
            or exchange.explanation is not None
            or self._asks is not None
            or started_ns - route.seen_ns >= AWHILE_NS
        ):
            return False
        route.seen_ns = started_ns
        route.add(duration_us)
        return True

    def _reason(self, exchange: Exchange) -> str | None:
        """Find why a request matters; None for one like most others."""
        route = self._routes.get(exchange.route) or self._add_route(exchange.route)
        answered_us = exchange.answered_us
        is_first = exchange.started_ns - route.seen_ns >= AWHILE_NS
        route.seen_ns = exchange.started_ns
        if exchange.failed:
            return FAILED
        explanation = exchange.explanation
        is_slow = answered_us >= route.slow_us or (explanation is not None and explanation.is_slow)
        route.add(answered_us)
        if is_slow:
            return SLOW
        if self._asks is not None and self._asks(exchange):
            return ASKED
        if exchange.route is None or exchange.error_type is not None:
            return None
        if 400 <= exchange.status < 500:
            return REFUSED
        return FIRST if is_first and route is not self._other_routes and exchange.route not in _HEALTH_CHECKS else None

    def _add_route(self, template: str | None) -> _Route:
        if len(self._routes) >= MOST_ROUTES:
            return self._other_routes
        route = self._routes[template] = _Route(self._longest_us)
        return route

    def _has_room(self, exchange: Exchange, reason: str, error_type: str | None, ended_us: int) -> bool:
        """Tell whether one more may be kept in this second; the first of an error type in a while always may."""
        ended_ns = exchange.started_ns + ended_us * 1_000
        second = ended_ns // _SECOND_NS
        route = self._routes.get(exchange.route, self._other_routes)
        if self._second != second:
            self._second, self._kept = second, Counter()
        if route.second != second:
            route.second, route.kept = second, Counter()
        is_new = self._is_new_error(error_type, ended_ns)
        if not is_new and (route.kept[reason] >= PER_ROUTE[reason] or self._kept[reason] >= OF_ALL_ROUTES[reason]):
            return False
        route.kept[reason] += 1
        self._kept[reason] += 1
        return True

    def _is_new_error(self, error_type: str | None, ended_ns: int) -> bool:
        known = self._error_types
        if error_type is None or (len(known) >= MOST_ERROR_TYPES and error_type not in known):
            return False
        seen_ns = known.get(error_type, -AWHILE_NS)
        known[error_type] = ended_ns
        return ended_ns - seen_ns >= AWHILE_NS


def _is_held(exchange: Exchange) -> bool:
    """Tell whether the span that the ids of a request name is ours, and can still be sampled; others decide about theirs."""
    span = exchange.span
    is_named = f"{span.get_span_context().span_id:016x}" == exchange.span_id
    return is_named and exchange.outer_context is not None and span.is_recording()


def _is_followed(span: Any) -> bool:
    """Tell whether a span is sampled because that of the caller is."""
    if is_fast(span):
        return bool(span.has_remote_parent)
    parent = getattr(span, "parent", None)
    return parent is not None and parent.is_remote


class RetentionLosses(CountCollector):
    """Shows how many requests were not kept because too many were."""

    component = "RetentionLosses"
    metric = RETENTION_METRIC

    def __init__(self, retention: Retention) -> None:
        self._retention = retention

    def counted(self) -> Iterator[tuple[tuple[str], int]]:
        """Return the counts."""
        return (((reason,), count) for reason, count in self._retention.dropped.copy().items())
