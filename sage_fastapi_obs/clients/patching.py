"""Puts functions around the methods of one client, and takes them away again."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial, wraps
from importlib import import_module
from typing import Any, Generic, TypeVar

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.clients.client_call import Call

Client = TypeVar("Client")
Describe = Callable[..., Call | None]
"""Builds a call from the arguments of a method; None for one that is not watched."""
_MARK = "_sage_fastapi_obs"
_NOTHING = nullcontext()


class Instrumented(Generic[Client]):
    """A client that is watched until `undo()`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        """The client to use: the given one, unless the comment of the function says otherwise."""
        self._undo: list[Callable[[], None]] = []
        self._active = True

    def undo(self) -> None:
        """Watch no longer; more than once does no harm."""
        self._active = False
        while self._undo:
            self._undo.pop()()

    def on_undo(self, undo: Callable[[], None]) -> None:
        """Add something to undo; the last one added is undone first."""
        self._undo.append(undo)

    def call(self, describe: Describe, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        """Return a context for one call while this is watched; it gives the call, or None."""
        call = self._described(describe, args, kwargs)
        return _NOTHING if call is None else call

    def begin(self, describe: Describe, *args: Any) -> Call | None:
        """Begin a call that ends elsewhere, if the client is still watched."""
        call = self._described(describe, args, {})
        if call is not None:
            call.begin()
        return call

    def replace(self, name: str, replacement_of: Callable[[Any], Any]) -> None:
        """Replace one of the client's methods by what `replacement_of` makes of it."""
        client: Any = self.client
        before = vars(client).get(name, _MARK)
        replacement = replacement_of(getattr(client, name))
        setattr(client, name, replacement)

        def restore() -> None:
            # A wrapper that others have put around ours since then stays, and ours inside it does nothing any more.
            if vars(client).get(name) is replacement:
                delattr(client, name) if before is _MARK else setattr(client, name, before)

        self.on_undo(restore)

    def watch(self, name: str, describe: Describe) -> None:
        """Watch each call of a method, as `describe` builds it from the arguments."""
        self.replace(name, lambda original: wrapped(original, partial(self.call, describe)))

    def _described(self, describe: Describe, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Describe a call; if that fails, the call goes on unwatched."""
        if not self._active:
            return None
        try:
            return describe(*args, **kwargs)
        except Exception as error:
            count_internal_error("clients", error)
            return None


def wrapped(
    original: Any,
    enter: Callable[..., AbstractContextManager[Any]] = lambda *_, **__: _NOTHING,
    with_result: Callable[[Any, Any], object] | None = None,
) -> Any:
    """Return a function of the same kind, sync or async.

    `enter`: makes a context of the arguments, in which the original is called. `with_result`: is given the value of that
    context and the result; failures are counted.
    """
    if inspect.iscoroutinefunction(original):

        @wraps(original)
        async def call_async(*args: Any, **kwargs: Any) -> Any:
            with enter(*args, **kwargs) as entered:
                result = await original(*args, **kwargs)
                if with_result is not None:
                    count_errors_of(partial(with_result, entered, result))
                return result

        return call_async

    @wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        with enter(*args, **kwargs) as entered:
            result = original(*args, **kwargs)
            if with_result is not None:
                count_errors_of(partial(with_result, entered, result))
            return result

    return call


def instrument_once(client: Client, install: Callable[[Instrumented[Client]], None]) -> Instrumented[Client]:
    """Watch a client, unless it is watched already; `install` puts what is needed around it."""
    known: Instrumented[Client] | None = vars(client).get(_MARK)
    if known is not None:
        return known
    instrumented = Instrumented(client)
    try:
        install(instrumented)
    except Exception:
        instrumented.undo()
        raise
    setattr(client, _MARK, instrumented)
    instrumented.on_undo(lambda: delattr(client, _MARK))
    return instrumented


def instrument_by_library(client: Any, modules: Mapping[str, str], function: str, takes: str) -> Instrumented[Any]:
    """Watch a client by `watch` of the module for its library.

    `modules`: by the first part of the name of the client's module, or of a base class's. They are imported only now: each
    needs an extra, which is installed if there is such a client.
    """
    libraries = [kind.__module__.partition(".")[0] for kind in client.__class__.__mro__]
    module = next((modules[library] for library in libraries if library in modules), None)
    if module is None:
        raise wrong_client(function, takes, client)
    instrumented: Instrumented[Any] = import_module(f"sage_fastapi_obs.clients.{module}").watch(client)
    return instrumented


def wrong_client(function: str, takes: str, client: object) -> TypeError:
    """Return the error for an object that a function cannot watch."""
    return TypeError(f"{function} takes {takes}, not {client!r:.80}")


def count_errors_of(work: Callable[[], object]) -> None:
    """Do some work; a client goes on without it if it fails."""
    try:
        work()
    except Exception as error:
        count_internal_error("clients", error)
