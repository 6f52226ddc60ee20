"""Which requests are not recorded: those below some paths, and those whose URL OpenTelemetry's variables exclude."""

import os
from collections.abc import Sequence
from functools import lru_cache

from opentelemetry.util.http import ExcludeList
from starlette.types import Scope

from sage_fastapi_obs.catalog import EXCLUDED_METRIC, CountCollector
from sage_fastapi_obs.settings.standard_variables import patterns

_VARIABLES = ("OTEL_PYTHON_FASTAPI_EXCLUDED_URLS", "OTEL_PYTHON_EXCLUDED_URLS")
"""The first that is set counts, as for OpenTelemetry's instrumentation."""
_LONGEST_URL = 1024
"""Patterns are looked for no further than this: some take time that grows faster than the text."""


class ExcludedRequests(CountCollector):
    """Decides by the path, and by the URL where patterns for it are in the environment; counts those that are excluded."""

    component = "ExcludedRequests"
    metric = EXCLUDED_METRIC

    def __init__(self, paths: Sequence[str]) -> None:
        """`paths` are excluded with everything below them. `remarks` say what is wrong with the variables."""
        remarks: list[str] = []
        variable = next((name for name in _VARIABLES if name in os.environ), _VARIABLES[-1])
        urls = patterns(os.environ, variable, remarks.append)
        self.remarks = tuple(remarks)
        self.beginnings = ("",) if urls else tuple(paths)
        """How the paths of all of these begin, and of few others: what is cheap to ask first."""
        self._count = 0
        self._paths = tuple(paths)
        self._below = tuple(f"{path}/" for path in paths)
        self._matches = lru_cache(maxsize=1024)(ExcludeList(urls).url_disabled) if urls else None

    def exclude(self, scope: Scope) -> bool:
        """Tell whether a request is one of these, and count it."""
        is_excluded = scope in self
        self._count += is_excluded
        return is_excluded

    def counted(self) -> list[tuple[tuple[()], int]]:
        """Return how many there were."""
        return [((), self._count)]

    def __contains__(self, scope: Scope) -> bool:
        """Tell whether a request is one of these; a proxy's root path does not count."""
        path: str = scope.get("path", "")
        if self._matches is not None and self._matches(_url(scope, path)):
            return True
        if root_path := scope.get("root_path"):
            path = path.removeprefix(root_path)
        return path in self._paths or path.startswith(self._below)


def _url(scope: Scope, path: str) -> str:
    """Return the URL as OpenTelemetry's middleware builds it, of bounded length."""
    named = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), None)
    host = _address(scope) if named is None else named
    return f"{scope.get('scheme', 'http')}://{host}{path}"[:_LONGEST_URL]


def _address(scope: Scope) -> str:
    server = scope.get("server") or ("0.0.0.0", 80)  # noqa: S104 - only a text
    return f"{server[0]}" if str(server[1]) == "80" else f"{server[0]}:{server[1]}"
