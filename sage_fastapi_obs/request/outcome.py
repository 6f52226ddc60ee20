"""How an exchange has ended: its error type and its status, decided once for all signals."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.websockets import WebSocketDisconnect

from sage_fastapi_obs.privacy.exception_leaves import exception_leaves
from sage_fastapi_obs.privacy.exception_name import exception_name
from sage_fastapi_obs.request.exchange import CANCELLED, CLIENT_DISCONNECT, NOT_OUR_FAULT, Exchange

_INCOMPLETE = "incomplete_response"
_INVALID = "invalid_response"
SWITCHING_PROTOCOLS = 101
CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that left before it was answered."""
ABNORMAL_CLOSURE = 1006
"""WebSocket code of a connection that ended without a close frame."""
_CLEAN_CLOSURES = frozenset({1000, 1001, 1005})
"""WebSocket codes of a client that said goodbye: normal, going away, and a close frame without a code."""
_SERVICE_RESTART = 1012
"""WebSocket code by which a server that stops ends its connections."""
_UNCLEAN_CLOSURES: dict[int | None, str] = {ABNORMAL_CLOSURE: CLIENT_DISCONNECT, _SERVICE_RESTART: CANCELLED}
"""Error types of WebSocket codes that come without an exception."""


def classify(exchange: Exchange, *, complete: bool, valid: bool = True, stopping: bool = False) -> None:
    """Set the error type of an exchange, and its status if none was sent.

    `complete`: whether the server has the whole response. `valid`: whether the app has kept to the protocol. `stopping`:
    whether the service is about to end, which is why an app may leave a response unfinished.
    """
    error, status = exchange.error, exchange.status
    if exchange.client_gone and status in (0, CLIENT_CLOSED_REQUEST):
        exchange.error_type = CLIENT_DISCONNECT
    elif error is not None and (not complete or (status >= 500 and is_failure(exchange, error))):
        exchange.error_type = _error_type_of(error, client_gone=exchange.client_gone)
    elif not complete:
        unfinished = CANCELLED if stopping and status else _INCOMPLETE
        exchange.error_type = CLIENT_DISCONNECT if exchange.client_gone else unfinished
    elif not valid:
        exchange.error_type = _INVALID
    elif status >= 500:
        exchange.error_type = str(status)
    elif exchange.client_gone:
        code = ABNORMAL_CLOSURE if exchange.socket is None else exchange.socket.close_code
        exchange.error_type = _UNCLEAN_CLOSURES.get(code)
    if not status:
        exchange.status = 500 if exchange.failed else CLIENT_CLOSED_REQUEST


def is_failure(exchange: Exchange, error: BaseException | None) -> bool:
    """Tell whether an exception is the service's own, and not a client that left or a cancellation."""
    return error is not None and _error_type_of(error, client_gone=exchange.client_gone) not in NOT_OUR_FAULT


def _error_type_of(error: BaseException, *, client_gone: bool) -> str | None:
    try:
        types = set()
        for leaf in exception_leaves(error):
            types.add(_type_of_leaf(leaf, client_gone=client_gone))
            if len(types) > 1 or not types <= NOT_OUR_FAULT:
                return exception_name(error)
        return types.pop()
    except Exception:
        # An exception is the app's own code, and may not let itself be read; its request has to be counted all the same.
        return exception_name(error)


def _type_of_leaf(error: BaseException, *, client_gone: bool) -> str | None:
    if isinstance(error, asyncio.CancelledError) or _is_trio_cancellation(error):
        return CLIENT_DISCONNECT if client_gone else CANCELLED
    if isinstance(error, WebSocketDisconnect):
        return None if error.code in _CLEAN_CLOSURES else _UNCLEAN_CLOSURES.get(error.code, CLIENT_DISCONNECT)
    if isinstance(error, ClientDisconnect) or (client_gone and isinstance(error, OSError)):
        return CLIENT_DISCONNECT
    return exception_name(error)


def _is_trio_cancellation(error: BaseException) -> bool:
    """Trio has a cancellation of its own, and importing trio to name it would be a dependency."""
    kind = type(error)
    return kind.__name__ == "Cancelled" and kind.__module__.partition(".")[0] == "trio"
