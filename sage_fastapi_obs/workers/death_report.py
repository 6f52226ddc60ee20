"""Tells of a worker that has died: a line for it, one for each request that it was serving, counts, and rows in the store."""

from collections.abc import Callable, Mapping
from typing import Any

from sage_fastapi_obs.catalog import UNMATCHED
from sage_fastapi_obs.request.exchange import Exchange, current_exchange
from sage_fastapi_obs.request.in_flight import Record
from sage_fastapi_obs.request.route import RouteTemplates
from sage_fastapi_obs.retention_reasons import FAILED
from sage_fastapi_obs.store.exchange_records import KeptExchange
from sage_fastapi_obs.store.store import Store
from sage_fastapi_obs.workers.death import Death

ERROR_TYPE = "worker_died"


class DeathReport:
    """Writes what is known of a death."""

    component = "DeathReport"

    def __init__(
        self,
        log: Callable[[str, str, Mapping[str, Any]], object],
        readable: Callable[[str], str],
        observer: Any,
        store: Store | None,
        count_death: Callable[[str], object],
        count_lost: Callable[[str], object],
        count_answered: Callable[[Exchange], object] | None,
    ) -> None:
        """`log`: writes a line: level, message, fields. `readable`: cuts and redacts a text of the caller's.

        `observer`: whose requests these are. `count_death`: counts one by its reason. `count_lost`: counts a request by its
        route. `count_answered`: counts one as answered.
        """
        self._log, self._readable, self._observer, self._store = log, readable, observer, store
        self._count_death, self._count_lost, self._count_answered = count_death, count_lost, count_answered
        self._routes: RouteTemplates | None = None

    def add_application(self, app: Any) -> None:
        """Know the routes of an app, by which requests are named."""
        self._routes = RouteTemplates(app)

    def route_of(self, record: Record) -> str | None:
        """Return the template of the route that serves a request; None where there is none."""
        if self._routes is None:
            return None
        return self._routes.template_of("websocket" if record.kind == "websocket" else "http", record.method, record.path)

    def write(self, death: Death) -> None:
        """Write everything."""
        lost = len(death.lost) + death.lost_beyond
        fields = {"worker": death.number, "worker_pid": death.pid, "reason": death.reason, "lost_requests": lost}
        known = {"evidence": death.evidence, "at": death.at, "not_listed": death.lost_beyond}
        self._log("error", f"worker {death.number} died", fields | {name: value for name, value in known.items() if value})
        self._count_death(death.reason)
        for record in death.lost:
            self._write_request(death, record, f"worker {death.number} died while serving")
        for record in death.answering:
            self._log("warn", f"worker {death.number} died while answering", self._fields(death, record))
            if self._count_answered is not None:
                answered = self._exchange(death, record)
                answered.status, answered.error_type = record.status, None
                self._count_answered(answered)

    def _write_request(self, death: Death, record: Record, message: str) -> None:
        exchange = self._exchange(death, record)
        self._count_lost(exchange.route or UNMATCHED)
        # So the store gets the line with the request.
        token = current_exchange.set(exchange)
        try:
            self._log("error", message, self._fields(death, record))
        finally:
            current_exchange.reset(token)
        if self._store is not None:
            self._store.keep(KeptExchange(exchange, exchange.story, is_whole=True))

    def _fields(self, death: Death, record: Record) -> dict[str, Any]:
        route = self.route_of(record)
        where = {"path": self._readable(record.path)} if route is None else {"route": route}
        age_ms = self._age_us(death, record) / 1_000
        fields = {"request_id": record.request_id, "method": self._readable(record.method), **where, "age_ms": age_ms}
        fields |= {"worker": death.number, "reason": death.reason}
        if record.trace_id:
            fields["trace_id"] = record.trace_id
        if record.kind != "http":
            fields["kind"] = record.kind
        return fields | ({"at": death.at} if death.at else {})

    def _age_us(self, death: Death, record: Record) -> int:
        """Return how old a request was when its worker died."""
        died_ns = self._observer.wall_clock() - int(death.seconds_ago * 1_000_000_000)
        return int(max(0, died_ns - record.started_ns) // 1_000)

    def _exchange(self, death: Death, record: Record) -> Exchange:
        """Make what the worker would have recorded."""
        kind = "websocket" if record.kind == "websocket" else "http"
        scope = {"type": kind, "method": record.method, "path": record.path, "headers": []}
        exchange = Exchange(scope, 0, record.started_ns, self._observer)
        exchange.request_id = exchange.correlation_id = record.request_id
        exchange.trace_id, exchange.route = record.trace_id, self.route_of(record)
        exchange.duration_us = self._age_us(death, record)
        exchange.status, exchange.error_type, exchange.kept = 500, ERROR_TYPE, FAILED
        exchange.finished = True
        return exchange
