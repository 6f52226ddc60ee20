"""Where commands read kept requests: the file of a store, or the pages of a running service."""

import argparse
import os
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

from pydantic import BaseModel, RootModel, ValidationError

from sage_fastapi_obs.alerting.route_report import RoutesReport
from sage_fastapi_obs.alerting.rule_report import RuleList
from sage_fastapi_obs.cli.screen import plain
from sage_fastapi_obs.endpoints.json_page import ProblemResponse
from sage_fastapi_obs.endpoints.request_stories import KeptRequest, RequestList, StoriesOfId
from sage_fastapi_obs.endpoints.requests_pages import NOT_IN_STORE
from sage_fastapi_obs.endpoints.span_tree import shallow
from sage_fastapi_obs.endpoints.status_pages import AlertsResponse
from sage_fastapi_obs.errors import SettingsError
from sage_fastapi_obs.settings import MonitoringSettings, Settings
from sage_fastapi_obs.settings.explain import without_credentials
from sage_fastapi_obs.store.location import StoreKey, file_name, prefix_of, store_key, stored_files
from sage_fastapi_obs.store.reader import StoreReader, UnreadableStoreError
from sage_fastapi_obs.store.records import RequestQuery
from sage_fastapi_obs.workers.control_client import ask_all, sockets_of

TOKEN_VARIABLE = "SAGE_OBS_MONITORING__TOKEN"  # noqa: S105 - its name
MOST_BYTES = 16 * 1024 * 1024
"""Of an answer, and of a case: packed, and unpacked."""
MOST_LISTED = 10_000
"""Requests that a command looks through, the newest."""
_PAGE = 500
_MOST_LINES = 1_000
_SECONDS = 10.0
"""Without a sign of a service; an answer that has begun may take as long again."""
_FLUSH_SECONDS = 1.0
_NOT_IN_A_STORE = "a store has kept requests only: name the running service with --url, such as http://localhost:8000"
_NO_SERVICE = "is the service running, and is this its address?"
_PREFIX = MonitoringSettings().prefix
Answer = TypeVar("Answer", bound=BaseModel)


class SourceError(Exception):
    """Nothing can be read there; the text says why, and what to do."""


class NotKeptError(SourceError):
    """There is no such request."""


class _Lines(RootModel[list[dict[str, Any]]]):
    """Log lines."""


class StoreFile:
    """Reads the file of a store, also while the service writes it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._reader = StoreReader.of_file(path)
        self._reader.hurry_others = self._hurry

    def requests(self, query: RequestQuery) -> RequestList:
        """Return a page of a list."""
        with self._readable():
            return RequestList.of(self._reader.list(query))

    def stories(self, some_id: str) -> StoriesOfId:
        """Return the newest requests with an id."""
        with self._readable():
            found = StoriesOfId.found(self._reader, some_id, with_lines=True)
        if found is None:
            raise NotKeptError(NOT_IN_STORE)
        return found

    def lines(self, some_id: str) -> list[dict[str, Any]]:
        """Return the lines with an id."""
        with self._readable():
            return [shallow(line) for line in self._reader.lines(some_id, _MOST_LINES)]

    def alerts(self) -> AlertsResponse:
        """Refuse it: a store has no alerts."""
        raise SourceError(_NOT_IN_A_STORE)

    def rules(self) -> RuleList:
        """Refuse it: a store has no rules."""
        raise SourceError(_NOT_IN_A_STORE)

    def traffic(self, _seconds: int) -> RoutesReport:
        """Refuse it: a store has only what was kept."""
        raise SourceError(_NOT_IN_A_STORE)

    def _hurry(self) -> bool:
        """Have the processes that serve write what they have kept; tells whether there are any."""
        return bool(ask_all(sockets_of(prefix_of(self._path)), "flush", seconds=_FLUSH_SECONDS))

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except UnreadableStoreError as error:
            raise SourceError(f"cannot read the store {self._path}: {error}") from None


class Pages:
    """Asks the pages of a running service."""

    def __init__(self, url: str, token: str | None) -> None:
        address = re.fullmatch(r"https?://[^/?#\s]+(/[^?#\s]+?)?/?", url)
        if not address:
            raise SourceError(
                f"{plain(without_credentials(url))} is no address of a service: use one like http://localhost:8000"
            )
        self._prefix = url.rstrip("/") + ("" if address[1] else _PREFIX)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def requests(self, query: RequestQuery) -> RequestList:
        """Return a page of a list."""
        conditions = {name: str(value) for name, value in asdict(query).items() if value is not None}
        return self._ask("requests", RequestList, conditions)

    def stories(self, some_id: str) -> StoriesOfId:
        """Return the newest requests with an id."""
        return self._ask(f"requests/{_segment(some_id)}", StoriesOfId)

    def lines(self, some_id: str) -> list[dict[str, Any]]:
        """Return the lines with an id, if the service shows any."""
        try:
            return self._ask(f"logs/{_segment(some_id)}", _Lines).root
        except NotKeptError:
            return []

    def alerts(self) -> AlertsResponse:
        """Return alerts that are pending, firing or just over."""
        return self._ask("alerts", AlertsResponse)

    def rules(self) -> RuleList:
        """Return all alert rules."""
        return self._ask("rules", RuleList)

    def traffic(self, seconds: int) -> RoutesReport:
        """Return what all routes did in the last seconds."""
        return self._ask("routes", RoutesReport, {"seconds": str(seconds)})

    def _ask(self, page: str, model: type[Answer], conditions: Mapping[str, str] | None = None) -> Answer:
        # Other commands need not wait for it.
        import httpx  # noqa: PLC0415

        address = f"{self._prefix}/{page}"
        where = plain(without_credentials(address))
        try:
            with httpx.stream("GET", address, params=conditions, headers=self._headers, timeout=_SECONDS) as response:
                body = bounded(_until(time.monotonic() + _SECONDS, response.iter_bytes()), f"the answer of {where}")
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise SourceError(f"{where} does not answer: {plain(error) or type(error).__name__}; {_NO_SERVICE}") from None
        if response.status_code != 200:
            problem = NotKeptError if response.status_code == 404 else SourceError
            hint = f"; set {TOKEN_VARIABLE}, or use --token" if response.status_code == 401 else ""
            raise problem(f"{where} answers {response.status_code}: {_detail(body)}{hint}")
        return parsed(model, body, where)


def _segment(some_id: str) -> str:
    """Write an id as one part of a path, also `..`."""
    return quote(some_id, safe="", errors="replace").replace(".", "%2E")


Source: TypeAlias = StoreFile | Pages
"""Answers from what one service has kept, or raises `SourceError`."""


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which store is read."""
    add_store_arguments(parser)
    parser.add_argument("--url", help="ask the pages of a running service, such as http://localhost:8000")
    parser.add_argument("--token", help=f"token of the pages (monitoring.token); by default {TOKEN_VARIABLE}")


def add_store_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which file is meant."""
    parser.add_argument("--store", type=Path, metavar="FILE", help="file of a store")
    parser.add_argument("--service", metavar="NAME", help="name of the service; by default that of the environment")
    parser.add_argument("--app", metavar="DIR", help="working directory of the service; by default this one")


def source_of(given: argparse.Namespace) -> Source:
    """Open what the options name."""
    if given.url:
        return Pages(given.url, token_of(given))
    return StoreFile(store_file(given))


def sources_of(given: argparse.Namespace) -> list[Source]:
    """Open what the options name; where they name nothing, also all other stores of this user, as an id says no service."""
    if given.url or given.store or given.service or given.app:
        return [source_of(given)]
    others = stored_files(_settings().store)
    try:
        first = store_file(given)
    except SourceError:
        if not others:
            raise
        return [StoreFile(path) for path in others]
    return [StoreFile(path) for path in (first, *(path for path in others if path != first))]


def token_of(given: argparse.Namespace) -> str | None:
    """Return the token of the pages, if there is one."""
    return given.token or os.environ.get(TOKEN_VARIABLE)


def store_file(given: argparse.Namespace) -> Path:
    """Find the file of a store; raises `SourceError` if there is none, or more than one."""
    if (path := given.store) is not None:
        if not path.is_file():
            raise SourceError(f"there is no store at {path}")
        return Path(path)
    settings = _settings()
    service = given.service or settings.service.name
    found = stored_files(settings.store, service)
    name = file_name(StoreKey(service, os.path.realpath(given.app)) if given.app else store_key(service))
    exact = [path for path in found if path.name == name]
    if not found or (given.app and not exact):
        others = _listed("; there are", stored_files(settings.store))
        raise SourceError(f"there is no store of {service!r}: name the service with --service, or a file with --store{others}")
    if len(found) > 1 and not exact:
        raise SourceError(_listed(f"there are several stores of {service!r}; name one with --store", found))
    return (exact or found)[0]


def _settings() -> Settings:
    try:
        return Settings.from_env()
    except SettingsError as error:
        raise SourceError(f"{error}; or name a file with --store") from None


def _listed(before: str, files: Sequence[Path]) -> str:
    return "".join((f"{before}:", *(f"\n  {path}" for path in files))) if files else ""


def newest(source: Source, most: int = MOST_LISTED, **conditions: Any) -> tuple[list[KeptRequest], bool]:
    """Return the newest kept requests that meet some conditions, and whether those are all."""
    found: list[KeptRequest] = []
    before = None
    for _ in range(0, most, _PAGE):
        page = source.requests(RequestQuery(before=before, limit=min(_PAGE, most), **conditions))
        found += page.requests
        if (before := page.next) is None:
            return found, True
    return found, False


def _until(deadline: float, pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Pass pieces on; raises `SourceError` where they go on for too long."""
    for piece in pieces:
        if time.monotonic() > deadline:
            raise SourceError(f"the answer has no end after {_SECONDS:.0f} s")
        yield piece


def bounded(pieces: Iterable[bytes], what: object) -> bytes:
    """Join the pieces of something; raises `SourceError` as soon as they are too many."""
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > MOST_BYTES:
            raise SourceError(f"{what} is larger than {MOST_BYTES // 1024 // 1024} MiB")
    return bytes(body)


def parsed(model: type[Answer], body: bytes, where: object) -> Answer:
    """Read a model; raises `SourceError` for anything else."""
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        wrong = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))
        raise SourceError(plain(f"{where} is not what it should be: {wrong}")) from None


def _detail(body: bytes) -> str:
    """Return what the pages say is wrong; other servers say it in other ways."""
    try:
        return plain(ProblemResponse.model_validate_json(body).detail)
    except ValidationError:
        return "this is no page of sage_fastapi_obs"
