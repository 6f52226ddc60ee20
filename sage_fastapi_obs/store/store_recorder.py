"""Hands what is kept to the store: requests at their end, what comes after it, and lines outside of requests."""

import time
from collections.abc import Callable

from sage_fastapi_obs.log_levels import LEVELS
from sage_fastapi_obs.logs.access_line import ACCESS_LOGGER
from sage_fastapi_obs.logs.line_format import Line
from sage_fastapi_obs.request.exchange import Background, Exchange, current_exchange
from sage_fastapi_obs.request.recorder import Recorder
from sage_fastapi_obs.retention_reasons import FAILED, NOT_KEPT
from sage_fastapi_obs.store.exchange_records import KeptExchange, KeptLine
from sage_fastapi_obs.store.records import LateFailure
from sage_fastapi_obs.store.store import Store

_LOWEST_OUTSIDE = LEVELS["warn"]


class StoreRecorder(Recorder):
    """Hands over requests that are kept."""

    component = "Store"

    def __init__(self, store: Store) -> None:
        self._keep = store.keep

    def request_finished(self, exchange: Exchange) -> None:
        """Hand over a kept request, with what it holds."""
        if exchange.is_kept:
            story, exchange.story = exchange.story, None
            # Nothing around it where that is not needed: until it is written, Python's collector looks at each object.
            self._keep(exchange if story is None else KeptExchange(exchange, story, is_whole=True))

    def background_finished(self, exchange: Exchange) -> None:
        """Hand over a request that is kept only because the work after its response has failed."""
        if exchange.kept == FAILED and not exchange.failed:
            self.request_finished(exchange)

    def app_returned(self, exchange: Exchange) -> None:
        """Hand over what has come since, and that the work after the response has failed."""
        story, background = exchange.story, exchange.background
        if (story is None and background is None) or not exchange.is_kept:
            return
        exchange.story = None
        failure = None if background is None else _failure(exchange, background)
        if story is not None or failure is not None:
            self._keep(KeptExchange(exchange, story, is_whole=False, failure=failure))


def _failure(exchange: Exchange, background: Background) -> LateFailure | None:
    if background.error_type is None:
        return None
    return LateFailure(exchange.wall_ns, exchange.request_id, background.error_type, background.why)


class StoredLines:
    """Has each line of a request wait for the decision about it, and hands those outside of requests to the store."""

    def __init__(self, store: Store, observer: object, clock: Callable[[], int] = time.time_ns) -> None:
        """`observer`: whose requests these are. `clock`: Unix time in nanoseconds."""
        self._keep = store.keep
        self._observer = observer
        self._clock = clock

    def add(self, line: Line, encoded: bytes) -> None:
        """Take a line that was written; `encoded` is its JSON with its newline."""
        exchange = current_exchange.get()
        is_ours = exchange is not None and exchange.observer is self._observer
        if exchange is not None and is_ours and not exchange.has_returned:
            if exchange.kept != NOT_KEPT and not exchange.excluded:
                # Without the newline it is a copy: what orjson returns holds on to a buffer of at least 4 KiB.
                exchange.own_story.add_line(encoded[:-1], is_access_line=line.get("logger") == ACCESS_LOGGER)
        elif self._is_wanted(line, exchange if is_ours else None):
            request_id, correlation_id, trace_id = [
                line.get(name) or "" for name in ("request_id", "correlation_id", "trace_id")
            ]
            self._keep(KeptLine(self._clock(), request_id, correlation_id, trace_id, encoded[:-1]))

    def _is_wanted(self, line: Line, left: Exchange | None) -> bool:
        """Tell whether a line outside of requests is worth a place; `left`: the request that it was written after."""
        if left is not None:
            return left.is_kept
        return LEVELS[line["level"]] >= _LOWEST_OUTSIDE or "correlation_id" in line
