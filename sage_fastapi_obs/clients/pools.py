"""Pools of connections: their metrics, and who holds a connection while others wait."""

from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary, WeakSet, ref

from sage_fastapi_obs.active import ActiveObservability, active_observability
from sage_fastapi_obs.clients.client_call import enable
from sage_fastapi_obs.clients.patching import Instrumented, count_errors_of, wrapped
from sage_fastapi_obs.insight.pool_use import LEAST_WAIT_NS, Asking, Loan, PoolUse
from sage_fastapi_obs.privacy.printable import printable

_NOTHING = nullcontext()


class PoolSizes(NamedTuple):
    """How many connections a pool has now."""

    used: int
    idle: int
    ceiling: int | None
    """Most that it may have; None for no limit."""


class WatchedPool(PoolUse):
    """One pool of a client, until it is closed."""

    def __init__(self, name: Callable[[], str], sizes: Callable[[], PoolSizes], ceiling: Callable[[], int | None]) -> None:
        """`name`: asked once there is a connection. `sizes`: asked at a scrape. `ceiling`: asked for every connection."""
        super().__init__(ceiling)
        self._name = name
        self.sizes = sizes
        self._closed = False
        self._series: WeakKeyDictionary[ActiveObservability, _PoolSeries | None] = WeakKeyDictionary()
        self._last: tuple[Callable[[], ActiveObservability | None], _PoolSeries | None] = (lambda: None), None

    def watch(self, instrumented: Instrumented[Any], take: str, give_back: str) -> None:
        """Watch a pool by the names of its two methods: one finds a connection, the other one gets it."""

        def giving_back(connection: Any, *_: Any, **__: Any) -> AbstractContextManager[object]:
            return self.giving_back(id(connection))

        instrumented.on_undo(self.close)
        instrumented.replace(take, lambda original: wrapped(original, self.taking, self.taken()))
        instrumented.replace(give_back, lambda original: wrapped(original, giving_back))

    def close(self) -> None:
        """Watch no longer."""
        self._closed = True
        for series in self._series.values():
            if series is not None:
                series.pools.discard(self)

    def taking(self, *_: Any, **__: Any) -> AbstractContextManager[Asking | None]:
        """Return a block around what finds a connection."""
        return _NOTHING if self._closed else self.ask()

    def taken(self, key_of: Callable[[Any], Hashable] = id) -> Callable[[Asking | None, Any], None]:
        """Return what is to be told of the connection that was found."""

        def tell(asking: Asking | None, connection: Any) -> None:
            if asking is not None:
                asking.given(key_of(connection))

        return tell

    def giving_back(self, key: Hashable) -> AbstractContextManager[object]:
        """Return a block around what takes a connection back."""
        return _GivingBack(self, key)

    def waited(self, wait_ns: int) -> None:
        """Count it."""
        series = self._own_series()
        if series is None:
            return
        if wait_ns < LEAST_WAIT_NS:
            series.wait_time.observe(wait_ns / 1e9)
        else:
            # With an exemplar, that leads to the request.
            series.observe_wait(series.wait_time, wait_ns / 1e9)

    def used(self, use_ns: int) -> None:
        """Count it."""
        series = self._own_series()
        if series is not None:
            series.use_time.observe(use_ns / 1e9)

    def _own_series(self) -> "_PoolSeries | None":
        observability = active_observability()
        if observability is None:
            return None
        last = self._last
        if last[0]() is not observability:
            if observability not in self._series:
                self._series[observability] = _series(observability, printable(self._name()), self)
            last = self._last = ref(observability), self._series[observability]
        return last[1]


class _GivingBack:
    """What takes a connection back may hand it on at once, before it returns."""

    __slots__ = ("_key", "_loan", "_pool")

    def __init__(self, pool: WatchedPool, key: Hashable) -> None:
        self._pool, self._key = pool, key
        self._loan: Loan | None = None

    def __enter__(self) -> None:
        self._loan = self._pool.loans.get(self._key)

    def __exit__(self, *_: object) -> None:
        if self._loan is not None:
            count_errors_of(partial(self._pool.give_back, self._key, self._loan))


class _PoolSeries(NamedTuple):
    """The series of all pools of one name."""

    pools: WeakSet[WatchedPool]
    wait_time: Any
    use_time: Any
    observe_wait: Callable[[Any, float], None]


_named: WeakKeyDictionary[ActiveObservability, dict[str, _PoolSeries]] = WeakKeyDictionary()


def _series(observability: ActiveObservability, name: str, pool: WatchedPool) -> _PoolSeries | None:
    """Return the series of a pool; None where there are no metrics."""
    enable("dependencies")
    known = _named.setdefault(observability, {})
    if name not in known:
        found = _new_series(observability.instruments, name)
        if found is None:
            return None
        known[name] = found
    known[name].pools.add(pool)
    return known[name]


def _new_series(instruments: Any, name: str) -> _PoolSeries | None:
    pools: WeakSet[WatchedPool] = WeakSet()
    wait_time = instruments.get("db_client_connection_wait_time_seconds")
    if wait_time is None:
        return None
    shown = {
        ("db_client_connection_count", (name, "used")): lambda one: one.sizes().used,
        ("db_client_connection_count", (name, "idle")): lambda one: one.sizes().idle,
        ("db_client_connection_max", (name,)): lambda one: one.sizes().ceiling or 0,
        ("db_client_connection_pending_requests", (name,)): lambda one: len(one.asking),
    }
    for (metric, values), number in shown.items():
        instruments.get(metric).with_values(*values).set_function(partial(_total, pools, number))
    use_time = instruments.get("db_client_connection_use_time_seconds").with_values(name)
    return _PoolSeries(pools, wait_time.with_values(name), use_time, partial(instruments.observe, wait_time))


def _total(pools: WeakSet[WatchedPool], number: Callable[[WatchedPool], int]) -> float:
    return float(sum(number(pool) for pool in pools))


def pool_name(attributes: Mapping[str, Any], default_port: int) -> str:
    """Name a pool that has no name of its own as OpenTelemetry's conventions do: `db.internal:5432/shop`."""
    address = attributes.get("server.address")
    server = f"{address}:{attributes.get('server.port', default_port)}" if address else attributes["db.system.name"]
    # Of a file, its name: where it lies is nobody's business.
    database = str(attributes.get("db.namespace", "")).rpartition("/")[2]
    return f"{server}/{database}" if database else str(server)
