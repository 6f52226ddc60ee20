"""`GET /monitoring/`: the live page, and the files that it loads."""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from sage_fastapi_obs.endpoints.access import Access
from sage_fastapi_obs.endpoints.background_worker import in_page_thread
from sage_fastapi_obs.endpoints.json_page import problem
from sage_fastapi_obs.endpoints.page.static_files import StaticFile, static_files

INDEX = "index.html"


class PageRoutes:
    """Answers for the page itself; its data come from the other pages."""

    def __init__(self, access: Access, prefix: str) -> None:
        self._access = access
        self._prefix = prefix

    def routes(self) -> list[Route]:
        """List the routes."""
        return [
            Route(self._prefix, self._without_slash, name="sage_obs_page_without_slash"),
            Route(f"{self._prefix}/", self._page, name="sage_obs_page"),
            Route(f"{self._prefix}/static/{{name:path}}", self._file, name="sage_obs_static"),
        ]

    async def _without_slash(self, request: Request) -> Response:
        """Lead to the page by a relative address, which is right below any prefix of a mount or a proxy."""
        page = f"{self._prefix.rpartition('/')[2]}/"
        return self._access.door_rejection(request) or RedirectResponse(page, 307, {"Cache-Control": "no-store"})

    async def _page(self, request: Request) -> Response:
        """Answer with the page, also to those who have to log in: it asks for the token."""
        rejection = self._access.rejection(request)
        if rejection is not None and rejection.status_code != 401:
            return rejection
        index = (await _files())[INDEX]
        return index.response(request) if rejection is None else index.response(request, 401)

    async def _file(self, request: Request) -> Response:
        """Answer with a file of the package, also to those who have to log in: the page consists of them."""
        if (rejection := self._access.door_rejection(request)) is not None:
            return rejection
        file = (await _files()).get(request.path_params["name"])
        return problem("there is no such file", 404) if file is None else file.revalidated(request)


async def _files() -> dict[str, StaticFile]:
    """Return the files; in a thread, as it takes a while the first time, and in none of those of the application."""
    return await in_page_thread(static_files)
