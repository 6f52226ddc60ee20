"""Connections of httpx: what its requests wait for before they are sent, as the extension `trace` tells it."""

from time import perf_counter_ns
from typing import Any, Self

import httpx

from sage_fastapi_obs.active import count_internal_error
from sage_fastapi_obs.insight.facts import current_facts
from sage_fastapi_obs.insight.pool_use import LEAST_WAIT_NS, Asking, PoolUse

_CONNECTING = "connection."
_RELEASED = (".response_closed.complete", ".response_closed.failed")


class ConnectionTrace:
    """Follows one request from the pool of connections back to it, where a request of ours waits for it.

    What an application put into the extension itself is called, too.
    """

    def __init__(self, use: PoolUse, request: httpx.Request) -> None:
        self._use = use
        self._request = request
        self._extensions = request.extensions
        self._given: Any = request.extensions.get("trace")
        self._asking: Asking | None = None
        self._is_heard = False

    def __enter__(self) -> Self:
        """Begin to wait for a connection."""
        if current_facts() is not None:
            self._asking = self._use.ask().__enter__()
            # Not into the same dictionary: the request that a redirect leads to has it, too.
            self._request.extensions = {**self._extensions, "trace": self}
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        """End with the head of a response; the connection is in use until its body is closed."""
        asking = self._asking
        if asking is None:
            return
        self._request.extensions = self._extensions
        asking.is_full = asking.is_full or isinstance(error, httpx.PoolTimeout)
        if self._is_heard or asking.is_full:
            asking.__exit__()
        # Else it was a transport without connections.
        asking.forget()
        if error is not None:
            self._use.give_back(id(self))

    def __call__(self, event: str, info: Any) -> Any:
        """Hear of a step of the request."""
        self._hear(event)
        return None if self._given is None else self._given(event, info)

    def _hear(self, event: str) -> None:
        try:
            self._note(event)
        except Exception as error:
            count_internal_error("clients", error)

    def _note(self, event: str) -> None:
        asking = self._asking
        if asking is None or event.endswith(_RELEASED):
            self._use.give_back(id(self))
            return
        if not self._is_heard:
            # That comes at once, unless all connections are in use.
            self._is_heard = True
            asking.is_full = perf_counter_ns() - asking.asked_ns >= LEAST_WAIT_NS
        if not event.startswith(_CONNECTING) and not asking.has_ended:
            asking.given(id(self))


class AsyncConnectionTrace(ConnectionTrace):
    """The same for an `httpx.AsyncClient`."""

    async def __call__(self, event: str, info: Any) -> None:
        """Hear of a step of the request."""
        self._hear(event)
        if self._given is not None:
            await self._given(event, info)
