"""The only ASGI callable: it starts a watch for each request, and passes everything else on."""

from contextlib import suppress
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sage_fastapi_obs.request.exchange import SCOPE_KEY, Exchange
from sage_fastapi_obs.request.fastapi_internals import readable_attribute
from sage_fastapi_obs.request.http_watch import HttpWatch, IdsOnlyWatch
from sage_fastapi_obs.request.route import RouteTemplates
from sage_fastapi_obs.request.watch import Observer, Watch
from sage_fastapi_obs.request.websocket_watch import WebSocketWatch

_MOST_LAYERS = 100


class ObservabilityMiddleware:
    """Watch every request of an app.

    `app.add_middleware(ObservabilityMiddleware, observability=obs)`, or around any ASGI app. Installed twice, or on a
    mounted app too, it watches once.
    """

    def __init__(self, app: ASGIApp, *, observability: Observer) -> None:
        self.app = app
        self.observability = observability
        self._routes = RouteTemplates(app)
        self._placed = False
        """Whether this layer has moved to the outside, at its first scope."""
        http = HttpWatch if observability.callbacks.request_finished else IdsOnlyWatch
        watches: dict[str, type[Watch]] = {"http": http, "websocket": WebSocketWatch}
        self._watches = watches if observability.enabled else {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request to the app, unchanged, and watch."""
        observability = self.observability
        watch = self._watches.get(scope["type"])
        if watch is None or ((watching := scope.get(SCOPE_KEY)) is not None and not watching.finished):
            await self._pass_on(scope, receive, send)
            return
        app = self.app
        try:
            if not observability.running:
                observability.ensure_started()
            if not self._placed:
                self._place(scope)
            watched = watch(observability, self._routes, scope, receive, send)
        except Exception as error:
            observability.internal_errors.count("ObservabilityMiddleware", error)
            watched = None
        if watched is None:
            # Not where that is caught: it would be the context of what the app raises.
            await app(scope, receive, send)
            return
        if watched.exchange.rejection is not None:
            app = _refuse
        try:
            await app(scope, watched.receive, watched.send)
        except BaseException as error:
            watched.close(error)
            raise
        watched.close(None)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on other scopes and watched requests; run our lifespan around that of the app."""
        if scope["type"] == "lifespan" and self.observability.enabled:
            self._move_outermost(scope)
            await self.observability.lifespan(self.app, scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _place(self, scope: Scope) -> None:
        """Bring this layer and our pages to their places; an app that does not let them there is watched all the same."""
        try:
            self._move_outermost(scope)
            self.observability.place_pages(scope.get("app") or self.app)
        except Exception as error:
            self.observability.internal_errors.count("ObservabilityMiddleware", error)

    def _move_outermost(self, scope: Scope) -> None:
        """Become the app's outermost layer when added with `add_middleware`.

        Starlette puts user middleware inside the one that answers unhandled exceptions, so from there that answer could
        not carry the ids. This layer is then taken out; where the one around it does not let it go, it sees a watched scope and
        passes it on.
        """
        self._placed = True
        app = scope.get("app")
        stack = getattr(app, "middleware_stack", None)
        if stack is None or isinstance(stack, ObservabilityMiddleware):
            return
        for added in getattr(app, "user_middleware", ()):
            if getattr(added, "kwargs", {}).get("observability") is self.observability:
                app.middleware_stack = ObservabilityMiddleware(stack, observability=self.observability)  # type: ignore[union-attr]
                self._leave(stack)
                return

    def _leave(self, outside: Any) -> None:
        """Let the layer around this one call what is inside of it, if it keeps that in `.app`, as Starlette's layers do."""
        for _ in range(_MOST_LAYERS):
            inside = readable_attribute(outside, "app")
            if inside is self:
                # A layer may refuse; then this one stays behind.
                with suppress(Exception):
                    outside.app = self.app
                return
            outside = inside


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": scope[SCOPE_KEY].rejection})
        return
    await JSONResponse({"detail": scope[SCOPE_KEY].rejection}, status_code=400)(scope, receive, send)


_CALL = ObservabilityMiddleware.__call__.__code__


def exchange_behind(error: BaseException) -> Exchange | None:
    """Find the exchange that an exception has ended, after it has left the middleware; None for one that ended none."""
    traceback = error.__traceback__
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code is _CALL and (watched := frame.f_locals.get("watched")) is not None:
            exchange: Exchange = watched.exchange
            return exchange
        traceback = traceback.tb_next
    return None
