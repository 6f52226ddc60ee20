"""Lines as documents of an Elasticsearch or OpenSearch index, through the bulk API."""

import uuid
from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import orjson

from sage_fastapi_obs.delivery.answers import Unavailable
from sage_fastapi_obs.delivery.queued_sender import Entry
from sage_fastapi_obs.logs.line_format import Encode
from sage_fastapi_obs.settings import LoggingSettings

_CREATED_BEFORE = 409
_ANSWER_BYTES = 4096
_DOCUMENT_BYTES = 512
"""Of an answer, for each document: only its status is asked for, but some servers send more."""


class Elasticsearch:
    """Creates a document per line: the line as it is, with its time as `@timestamp` too, where Kibana looks for it.

    Indices are of one day each, so that those who delete old indices delete old lines only.
    """

    name = "elasticsearch"
    remarks: tuple[str, ...] = ()

    def __init__(self, settings: LoggingSettings, encode: Encode) -> None:
        import httpx  # noqa: PLC0415 - takes long, as does what posts with it

        from sage_fastapi_obs.delivery.http_sender import Poster  # noqa: PLC0415

        assert settings.elasticsearch_url is not None
        self.encode = encode
        names = settings.field_aliases
        self._time_first = b"{%s:" % orjson.dumps(names.get("timestamp", "timestamp"))
        self._has_time = "@timestamp" in names.values()
        url = urlsplit(settings.elasticsearch_url)
        # Out of the URL, because HTTP clients log URLs.
        auth = None if url.username is None else (unquote(url.username), unquote(url.password or ""))
        self._index = settings.elasticsearch_index
        # Servers that check permissions by URL refuse indices that only the documents name.
        folder = "" if "%" in self._index else f"/{self._index}"
        path = f"{url.path.rstrip('/')}{folder}/_bulk"
        address = urlunsplit((url.scheme, url.netloc.rpartition("@")[2], path, "filter_path=errors,items.*.status", ""))
        self._poster = Poster(address, partial(httpx.Client, auth=auth))
        self._headers = {"content-type": "application/x-ndjson"}
        if settings.elasticsearch_api_key is not None:
            self._headers["authorization"] = f"ApiKey {settings.elasticsearch_api_key.get_secret_value()}"
        self._prefix = ""

    def prepare(self) -> None:
        """Prepare nothing."""

    def open(self) -> None:
        """Prepare in the process that sends, whose documents have ids of their own."""
        self._poster.close()
        self._prefix = uuid.uuid4().hex

    def deliver(self, batch: Sequence[Entry], seconds: float) -> tuple[Sequence[Entry], int]:
        """Create the documents of a batch; return the entries to try again, and how many were refused."""
        body = b"".join(self._action(entry) for entry in batch)
        answer = self._poster.post(body, self._headers, seconds, _ANSWER_BYTES + _DOCUMENT_BYTES * len(batch))
        return _outcome(batch, _statuses(answer, len(batch)))

    def close(self) -> None:
        """Let go of connections."""
        self._poster.close()

    def _action(self, entry: Entry) -> bytes:
        line: bytes = entry.content
        time = line[len(self._time_first) :].partition(b",")[0] if line.startswith(self._time_first) else b""
        # With an id, a document whose answer was lost is not created twice when it is sent again.
        action = b'{"create":{%s"_id":"%s-%d"}}\n' % (self._index_of(time), self._prefix.encode(), entry.number)
        if self._has_time or not time:
            return action + line
        return b'%s{"@timestamp":%s,%s' % (action, time, line[1:])

    def _index_of(self, time: bytes) -> bytes:
        """Name the index of a line's day, which stays the same however late the line is sent; nothing if all share one."""
        if "%" not in self._index:
            return b""
        day = date.fromisoformat(time[1:11].decode()) if time else datetime.now(UTC).date()
        return b'"_index":"%s",' % day.strftime(self._index).encode()


def _statuses(body: bytes, expected: int) -> list[int]:
    """Read the status of each document out of an answer."""
    try:
        answer: Any = orjson.loads(body)
        if answer["errors"] is False:
            return [201] * expected
        statuses = [int(result["status"]) for item in answer["items"] for result in item.values()]
    except (AttributeError, KeyError, TypeError, ValueError):
        raise Unavailable("an answer that is none of the bulk API") from None
    if len(statuses) != expected:
        raise Unavailable("an answer about other documents")
    return statuses


def _outcome(batch: Sequence[Entry], statuses: Sequence[int]) -> tuple[Sequence[Entry], int]:
    again = [entry for entry, status in zip(batch, statuses, strict=True) if status == 429 or status >= 500]
    created = sum(200 <= status < 300 or status == _CREATED_BEFORE for status in statuses)
    return again, len(batch) - len(again) - created
