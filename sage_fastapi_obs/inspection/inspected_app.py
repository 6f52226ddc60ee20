"""An app that is only looked at: it is loaded, and may be asked, without any effect outside of its process."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.types import ASGIApp

from sage_fastapi_obs.inspection.app_layers import FoundRoute, observability_of, routes_of, starlette_of
from sage_fastapi_obs.inspection.app_lifespan import running_lifespan
from sage_fastapi_obs.inspection.app_loading import load_app
from sage_fastapi_obs.inspection.foreign_exports import no_foreign_exports, silence_sentry
from sage_fastapi_obs.observability import Observability
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.settings.inspection_mode import inspection_mode


class InspectedApp:
    """The app, what watches it, and what it consists of."""

    def __init__(self, name: str, app: ASGIApp) -> None:
        self.name = name
        """`module:attribute`."""
        self.app = app
        self.observability: Observability | None = observability_of(app)
        """What watches it, built with quiet settings; None where nothing does."""
        self.starlette: Starlette | None = starlette_of(app)
        """The app of Starlette or FastAPI; None for those of other frameworks."""

        self.state: dict[str, Any] = {}
        """What its lifespan has left for requests."""

    @property
    def settings(self) -> Settings | None:
        """The settings as the application has them; None where nothing watches it."""
        return None if self.observability is None else self.observability.settings.declared

    @property
    def routes(self) -> list[FoundRoute]:
        """Its routes, those of mounted apps included; not the pages of ours."""
        pages = (
            set()
            if self.observability is None
            else {getattr(page, "endpoint", None) for page in self.observability.router.routes}
        )
        return [found for found in routes_of(self.app) if getattr(found.route, "endpoint", None) not in pages - {None}]

    @asynccontextmanager
    async def running(self, *, with_lifespan: bool) -> AsyncIterator[None]:
        """Start what watches the app; with the app's own lifespan only where that is wanted. Raises `LifespanError`."""
        if with_lifespan:
            async with running_lifespan(self.app) as self.state:
                silence_sentry()
                yield
        elif self.observability is None:
            yield
        else:
            async with self.observability:
                yield


@contextmanager
def inspected_app(name: str, *, factory: bool = False, app_dir: str = ".") -> Iterator[InspectedApp]:
    """Load the app that `module:attribute` names; while the block runs, nothing of it is exported, stored or notified.

    Raises `AppNotFoundError`. Some of what loading an app changes in a process stays: do it in a process of its own.
    """
    with inspection_mode(), no_foreign_exports():
        app: Any = load_app(name, factory=factory, app_dir=app_dir)
        silence_sentry()
        yield InspectedApp(name, app)
