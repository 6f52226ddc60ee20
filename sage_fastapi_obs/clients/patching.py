"""Functions around the methods of one client, and the way back."""

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Generic, TypeVar

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.clients.client_call import Call
from sage_fastapi_obs.errors import ObservabilityError

__all__ = ["Instrumented", "count_errors_of", "instrument_once", "missing"]

Client = TypeVar("Client")
Describe = Callable[..., Call | None]
"""Makes a call of the arguments of a method; None of one that is not to be told of."""
_MARK = "_sage_fastapi_obs"
_NOTHING = nullcontext()


class Instrumented(Generic[Client]):
    """A client that is watched until `undo()`."""

    def __init__(self, client: Client) -> None:
        self.client = client
        """The client to use; that which was given, but where a method's comment says otherwise."""
        self._undo: list[Callable[[], None]] = []
        self._active = True

    def undo(self) -> None:
        """Watch no longer; more than once does no harm."""
        self._active = False
        while self._undo:
            self._undo.pop()()

    def on_undo(self, undo: Callable[[], None]) -> None:
        """Add what has to be done for the way back, before all that was added earlier."""
        self._undo.append(undo)

    def call(self, describe: Describe, *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
        """Describe a call while this is watched."""
        call = self._described(describe, args, kwargs)
        return _NOTHING if call is None else call

    def begin(self, describe: Describe, *args: Any) -> Call | None:
        """Begin a call while this is watched, for whoever hears of its end elsewhere."""
        call = self._described(describe, args, {})
        if call is not None:
            call.begin()
        return call

    def replace(self, name: str, put: Callable[[Any], Any]) -> None:
        """Put something in the place of one of the client's methods."""
        client: Any = self.client
        before = vars(client).get(name, _MARK)
        watched = put(getattr(client, name))
        setattr(client, name, watched)

        def put_back() -> None:
            # Whoever has put something around ours since then keeps it, and what it calls does nothing any more.
            if vars(client).get(name) is watched:
                delattr(client, name) if before is _MARK else setattr(client, name, before)

        self.on_undo(put_back)

    def watch(self, name: str, describe: Describe) -> None:
        """Tell of each call of a method, as `describe` makes it of the arguments."""
        self.replace(name, lambda original: self._around(original, describe))

    def _described(self, describe: Describe, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call | None:
        """Describe a call; where that fails, the call goes on untold."""
        if not self._active:
            return None
        try:
            return describe(*args, **kwargs)
        except Exception as error:
            count_internal_error("clients", error)
            return None

    def _around(self, original: Any, describe: Describe) -> Any:
        if inspect.iscoroutinefunction(original):

            async def watched_async(*args: Any, **kwargs: Any) -> Any:
                with self.call(describe, *args, **kwargs):
                    return await original(*args, **kwargs)

            return watched_async

        def watched(*args: Any, **kwargs: Any) -> Any:
            with self.call(describe, *args, **kwargs):
                return original(*args, **kwargs)

        return watched


def instrument_once(client: Client, put: Callable[[Instrumented[Client]], None]) -> Instrumented[Client]:
    """Watch a client, if nobody does so yet; `put` puts what is needed around it."""
    known: Instrumented[Client] | None = vars(client).get(_MARK)
    if known is not None:
        return known
    instrumented = Instrumented(client)
    try:
        put(instrumented)
    except Exception:
        instrumented.undo()
        raise
    setattr(client, _MARK, instrumented)
    instrumented.on_undo(lambda: delattr(client, _MARK))
    return instrumented


def count_errors_of(put: Callable[[], object]) -> None:
    """Do what a client goes on without, while it serves."""
    try:
        put()
    except Exception as error:
        count_internal_error("clients", error)


def missing(what: str, extra: str) -> ObservabilityError:
    """Say what to install."""
    return ObservabilityError(f"{what} needs: pip install 'sage_fastapi_obs[{extra}]'")
