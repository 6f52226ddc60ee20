"""The only ASGI callable: it guards the scope, starts a watch for each request, and hands everything else on."""

from collections.abc import Callable
from functools import partial

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from sage_fastapi_obs.request.exchange import SCOPE_KEY, Exchange
from sage_fastapi_obs.request.route import RouteTemplates
from sage_fastapi_obs.request.watch import HttpWatch, Observer, Watch, WebSocketWatch

__all__ = ["ObservabilityMiddleware"]


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
        """Whether this layer has been where it belongs since it saw its first scope."""
        self._watches: dict[str, Callable[[Scope, Receive, Send], Watch]] = {
            "http": partial(HttpWatch, observability, self._template),
            "websocket": partial(WebSocketWatch, observability, self._template),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request to the app, unchanged, and watch."""
        observability = self.observability
        if not observability.enabled:
            return await self.app(scope, receive, send)
        if scope["type"] == "lifespan":
            self._move_outermost(scope)
            return await observability.lifespan(self.app, scope, receive, send)
        start_watch = self._watches.get(scope["type"])
        if start_watch is None or (SCOPE_KEY in scope and not scope[SCOPE_KEY].finished):
            return await self.app(scope, receive, send)
        try:
            if not self._placed:
                self._move_outermost(scope)
            observability.ensure_started()
            watch = start_watch(scope, receive, send)
        except Exception as error:
            observability.faults.count("ObservabilityMiddleware", error)
            return await self.app(scope, receive, send)
        app = self.app if watch.exchange.refusal is None else _refuse
        try:
            await app(scope, watch.receive, watch.send)
        except BaseException as error:
            watch.close(error)
            raise
        else:
            watch.close(None)

    def _template(self, exchange: Exchange) -> str | None:
        """Find the route template of an exchange whose app has been routed; None also when looking for it fails."""
        try:
            return self._routes.template(exchange.scope, exchange.status)
        except Exception as error:
            self.observability.faults.count("RouteTemplates", error)
            return None

    def _move_outermost(self, scope: Scope) -> None:
        """Become the app's outermost layer when added with `add_middleware`.

        Starlette puts user middleware inside the one that answers unhandled exceptions, so from there that answer could
        not carry the ids. The layer that stays behind sees a watched scope and passes it on.
        """
        self._placed = True
        app = scope.get("app")
        stack = getattr(app, "middleware_stack", None)
        if stack is None or isinstance(stack, ObservabilityMiddleware):
            return
        for added in getattr(app, "user_middleware", ()):
            if getattr(added, "kwargs", {}).get("observability") is self.observability:
                app.middleware_stack = ObservabilityMiddleware(stack, observability=self.observability)  # type: ignore[union-attr]
                return


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": scope[SCOPE_KEY].refusal})
        return
    await JSONResponse({"detail": scope[SCOPE_KEY].refusal}, status_code=400)(scope, receive, send)
