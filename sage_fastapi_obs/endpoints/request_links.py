"""Links from a request to what else knows of it: other systems that are configured, and the docs."""

from datetime import datetime
from urllib.parse import quote, urljoin

from sage_fastapi_obs.endpoints.request_stories import KeptRequest, RequestStory, StoriesOfId
from sage_fastapi_obs.settings import Settings
from sage_fastapi_obs.settings.field_types import LINK_TEXTS
from sage_fastapi_obs.settings.standard_variables import is_http_url

AROUND_MS = 60_000
"""Of a time range: what is looked at before the start of a request, and after its end."""


class RequestLinks:
    """Fills in `monitoring.links`, and finds the docs beside the runbooks."""

    def __init__(self, settings: Settings) -> None:
        self._templates = settings.monitoring.links
        runbooks = settings.export.runbooks_url.rstrip("/") + "/"
        self._docs = urljoin(runbooks, "../") if is_http_url(runbooks) else ""

    def add_to(self, found: StoriesOfId | None) -> StoriesOfId | None:
        """Link each request, and each cause."""
        for story in found.stories if found else ():
            self._add(story)
        return found

    def _add(self, story: RequestStory) -> None:
        values = _values(story.request)
        story.links = {name: template.format_map(values) for name, template in self._templates.items()}
        for cause in story.why:
            cause.docs = self._docs + cause.docs


def _values(request: KeptRequest) -> dict[str, str]:
    """Return what templates may name, written so that it can stand anywhere in an address: clients choose some of it."""
    texts = {name: quote(getattr(request, name) or "", safe="") for name in LINK_TEXTS}
    start_ms = datetime.fromisoformat(request.timestamp).timestamp() * 1_000
    return texts | {
        "from_ms": f"{start_ms - AROUND_MS:.0f}",
        "to_ms": f"{start_ms + request.duration_ms + AROUND_MS:.0f}",
    }
