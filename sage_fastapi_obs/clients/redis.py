"""Commands and pipelines of Redis clients, sync and async, single and cluster.

This is the pattern for a client: a `ClientSystem` names its metrics, `instrument_…` checks what it is given, `_watch` replaces
methods, and a class describes a call by its arguments, without keys and values.
"""

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from sage_fastapi_obs.clients.client_call import OTEL_SCOPE_PREFIX, Call, ClientSystem, is_instrumented_by_otel
from sage_fastapi_obs.clients.patching import Instrumented, instrument_once, wrapped, wrong_client
from sage_fastapi_obs.clients.pools import PoolSizes, WatchedPool, pool_name
from sage_fastapi_obs.insight.call_notes import Callee
from sage_fastapi_obs.operations.operation_run import RunMetrics
from sage_fastapi_obs.tracing.child_spans import CachedAttributes

Client = TypeVar("Client")
_DEFAULT_PORT = 6379
_OTHER_COMMAND = "_OTHER"
MOST_COMMANDS = 512
"""Commands whose description is cached; Redis has some four hundred."""
_COMMAND = re.compile(r"[A-Z][A-Z0-9._]{0,31}")
_WITH_SUBCOMMANDS = frozenset(
    {"ACL", "CLIENT", "CLUSTER", "COMMAND", "CONFIG", "FUNCTION", "LATENCY", "MEMORY", "MODULE", "OBJECT"}
    | {"PUBSUB", "SCRIPT", "SLOWLOG", "XGROUP", "XINFO"}
)
_ERROR = re.compile(r"([A-Z]{3,32})(?: |\Z)")


def _code_of(error: Exception) -> str | None:
    """Return the prefix of Redis' error, such as `WRONGTYPE`."""
    code = getattr(error, "status_code", None)
    if code is None and type(error).__name__ == "ResponseError":
        found = _ERROR.match(str(error))
        code = found[1] if found else "ERR"
    return None if code is None else str(code)


COMMANDS = RunMetrics(duration="redis_latency_seconds", total="redis_commands_total")
_REDIS = ClientSystem(
    OTEL_SCOPE_PREFIX + "redis",
    COMMANDS,
    code_of=_code_of,
    code_attribute="db.response.status_code",
)


def instrument_redis(client: Client) -> Instrumented[Client]:
    """Watch a `redis.Redis`, `redis.RedisCluster`, or their twins of `redis.asyncio`.

    Each command and each pipeline is a span and counts in `redis_commands_total` and `redis_latency_seconds`; keys and values
    are not recorded. Pub/sub and clients made by `client.client()` are not watched.
    """
    if not callable(getattr(client, "execute_command", None)) or not callable(getattr(client, "pipeline", None)):
        takes = "a client of redis or redis.asyncio (pip install 'sage_fastapi_obs[redis]')"
        raise wrong_client("instrument_redis", takes, client)
    return instrument_once(client, _watch)


def _watch(instrumented: Instrumented[Any]) -> None:
    commands = _Commands(instrumented.client)
    instrumented.watch("execute_command", commands.command)

    def watch_pipeline(_: None, pipeline: Any) -> None:
        instrument_once(pipeline, partial(_watch_pipeline, commands))

    instrumented.replace("pipeline", lambda original: wrapped(original, with_result=watch_pipeline))
    pool = getattr(instrumented.client, "connection_pool", None)
    if callable(getattr(pool, "get_connection", None)):
        # Not for clusters: they have a pool for each node.
        instrumented.on_undo(instrument_once(pool, partial(_watch_pool, commands.attributes)).undo)


def _watch_pool(attributes: Mapping[str, Any], instrumented: Instrumented[Any]) -> None:
    pool = instrumented.client

    def ceiling() -> int | None:
        return getattr(pool, "max_connections", None)

    watched = WatchedPool(lambda: pool_name(attributes, _DEFAULT_PORT), lambda: _sizes(pool, watched), ceiling)
    watched.watch(instrumented, "get_connection", "release")


def _sizes(pool: Any, watched: WatchedPool) -> PoolSizes:
    """Read the sizes of a pool; older versions do not tell which connections are idle."""
    counts = pool.get_connection_count() if hasattr(pool, "get_connection_count") else ()
    (idle, _), (used, _) = counts or ((0, None), (len(watched.loans), None))
    return PoolSizes(used, idle, pool.max_connections)


def _watch_pipeline(commands: "_Commands", instrumented: Instrumented[Any]) -> None:
    pipeline = instrumented.client
    instrumented.watch("execute", partial(commands.pipeline, pipeline, is_instrumented_by_otel(pipeline.execute)))
    if hasattr(pipeline, "immediate_execute_command"):
        instrumented.watch("immediate_execute_command", commands.command)


class _Commands:
    """Describes the commands of one client."""

    def __init__(self, client: Any) -> None:
        self.attributes = _server(client)
        self._otel_traced = is_instrumented_by_otel(client.execute_command)
        self._cached: dict[Any, tuple[str, Mapping[str, str], Mapping[str, Any], Callee]] = {}

    def command(self, *args: Any, **_: Any) -> Call:
        """Describe a command by its first argument; the others are keys and values."""
        given = args[0] if args else ""
        return Call(_REDIS, *(self._cached.get(given) or self._describe(given)), otel_traced=self._otel_traced)

    def pipeline(self, pipeline: Any, otel_traced: bool, *_: Any, **__: Any) -> Call:
        """Describe a pipeline by the commands in it."""
        names = [_name(_first(command)) for command in _queue(pipeline)]
        name = "MULTI" if _is_transaction(pipeline) else "PIPELINE"
        of_one = f"{name} {names[0]}" if len({*names}) == 1 else name
        attributes = {**self.attributes, "db.operation.name": of_one}
        if len(names) != 1:
            attributes["db.operation.batch.size"] = len(names)
        return Call(_REDIS, of_one, {"command": name}, attributes, _callee(of_one), otel_traced=otel_traced)

    def _describe(self, given: Any) -> tuple[str, Mapping[str, str], Mapping[str, Any], Callee]:
        name = _name(given)
        attributes = CachedAttributes({**self.attributes, "db.operation.name": name})
        found = name, {"command": name}, attributes, _callee(name)
        if str(given).upper() == name and len(self._cached) < MOST_COMMANDS:
            # Not others: they have keys or values in them.
            self._cached[given] = found
        return found


def _callee(name: str) -> Callee:
    return Callee("call", f"redis {name}", name)


def _queue(pipeline: Any) -> Iterable[Any]:
    """Return the commands that wait in a pipeline; their attribute differs for clusters and between versions."""
    strategy = getattr(pipeline, "_execution_strategy", pipeline)
    queues = (getattr(strategy, name, None) for name in ("_command_queue", "command_queue", "command_stack"))
    return next((queue for queue in queues if queue is not None), ())


def _is_transaction(pipeline: Any) -> bool:
    """Return whether a pipeline is a transaction; sync and async ones have different attributes for it."""
    known = (getattr(pipeline, name, False) for name in ("is_transaction", "transaction", "explicit_transaction"))
    return any(value is True for value in known)


def _first(command: Any) -> Any:
    """Take the name out of a queued command: `(args, options)`, or an object that has them."""
    args = getattr(command, "args", None) or command[0]
    return args[0]


def _name(given: Any) -> str:
    """Return a command's name without arguments, which `execute_command("SET key value")` has in it."""
    text = given.decode("latin-1") if isinstance(given, bytes) else str(given)
    words = text.upper().split(maxsplit=2)[:2]
    if words and words[0] not in _WITH_SUBCOMMANDS:
        words = words[:1]
    return " ".join(words) if words and all(map(_COMMAND.fullmatch, words)) else _OTHER_COMMAND


def _server(client: Any) -> dict[str, Any]:
    """Return the attributes of the server; the database is the first one of the connection."""
    attributes: dict[str, Any] = {"db.system.name": "redis"}
    kwargs = getattr(getattr(client, "connection_pool", None), "connection_kwargs", {})
    address = kwargs.get("path") or kwargs.get("host")
    if address:
        attributes["server.address"] = str(address)
    port = kwargs.get("port")
    if port and port != _DEFAULT_PORT and not kwargs.get("path"):
        attributes["server.port"] = int(port)
    if kwargs:
        attributes["db.namespace"] = str(kwargs.get("db") or 0)
    return attributes
