"""Questions to the store, compared with a list of what was kept."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import failure, file_of, new_store, opened, request, supplement
from support import times

from sage_fastapi_obs.store.reader import StoreReader
from sage_fastapi_obs.store.records import RequestQuery, StoredRequest

ROUTES = st.sampled_from(["/items/{id}", "/orders", None])
IDS = st.sampled_from(["a", "b", "", "ü\ud800", "key-5", "0" * 32])
WORDS = st.sampled_from(["refused", "Grün", "x\ny", 'a "quoted" word', "timeout"])
REQUESTS = st.builds(
    request,
    route=ROUTES,
    path=st.text(max_size=8),
    status=st.sampled_from([200, 204, 404, 422, 500, 503]),
    failed=st.booleans(),
    kept=st.sampled_from(["failed", "slow", "ratio", "asked"]),
    duration_us=st.integers(0, 5_000_000),
    request_id=IDS,
    correlation_id=IDS,
    trace_id=IDS,
    error_type=st.sampled_from([None, "ValueError"]),
    cause=st.sampled_from([None, "waiting"]),
    why=st.sampled_from([None, "Refused at shop.py:3"]),
    details=st.fixed_dictionaries({"lines": st.lists(st.fixed_dictionaries({"message": WORDS}), max_size=2)}),
)


def maybe(values: st.SearchStrategy) -> st.SearchStrategy:
    return st.none() | values


QUERIES = st.builds(
    RequestQuery,
    route=maybe(st.sampled_from(["/items/{id}", "/orders", "/none"])),
    status=maybe(st.sampled_from(["404", "4xx", "5xx", "204"])),
    failed=maybe(st.booleans()),
    kept=maybe(st.sampled_from(["failed", "slow", "ratio"])),
    cause=maybe(st.sampled_from(["waiting", "call"])),
    slower_than_seconds=maybe(st.floats(0, 5)),
    id=maybe(IDS.filter(bool)),
    text=maybe(st.sampled_from(["REFUSED", "grün", "x\ny", 'a "quoted"', "valueerror", "/orders"])),
    limit=st.integers(1, 7),
)


def printable(text: str | None) -> str | None:
    return text and text.encode(errors="replace").decode()


def shown(record: StoredRequest) -> StoredRequest:
    """Return a request as a page lists it: without details, and without what no database can hold."""
    return StoredRequest._make(printable(value) if isinstance(value, str) else value for value in record)._replace(details=b"")


def is_wanted(record: StoredRequest, query: RequestQuery) -> bool:
    """Say in plain Python whether a query asks for a request."""
    status = str(record.status)
    everything = f"{printable(record.path)}\n{record.route}\n{record.error_type}\n{record.why}\n".lower()
    in_json = record.details.decode().lower()
    text = (query.text or "").replace("G", "g").lower()
    return (
        query.route in (None, record.route)
        and query.status in (None, status, f"{status[0]}xx")
        and query.failed in (None, record.failed)
        and query.kept in (None, record.kept)
        and query.cause in (None, record.cause)
        and (query.slower_than_seconds is None or record.duration_us > query.slower_than_seconds * 1e6)
        and (query.id is None or query.id in (record.request_id, record.correlation_id, record.trace_id))
        and (query.text is None or text in everything or text.replace("\n", "\\n").replace('"', '\\"') in in_json)
    )


def pages(reader: StoreReader, query: RequestQuery) -> list[list[StoredRequest]]:
    """Follow the cursor to the end."""
    found = []
    before = None
    while True:
        asked = {name: getattr(query, name) for name in RequestQuery.__dataclass_fields__}
        page = reader.list(RequestQuery(**{**asked, "before": before}))
        assert page.is_complete
        found.append([each.request for each in page.requests])
        before = page.next
        if before is None:
            return found


@given(records=st.lists(REQUESTS, max_size=60), asked=st.lists(QUERIES, min_size=1, max_size=5), flushed=st.integers(0, 60))
@settings(max_examples=times(40))
def test_pages_are_what_a_list_would_give(records: Sequence[StoredRequest], asked: list[RequestQuery], flushed: int) -> None:
    """Whatever is stored and asked for, the pages are the wanted requests, newest first, each full but the last."""
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder)) as store:
        store.reader._clock = lambda: 0.0
        for record in records[:flushed]:
            store.keep(record)
        store.flush(60)
        for record in records[flushed:]:
            store.keep(record)
        for query in asked:
            wanted = [shown(record) for record in reversed(records) if is_wanted(record, query)]
            found = pages(store.reader, query)
            assert [each for page in found for each in page] == wanted
            assert all(len(page) == query.limit for page in found[:-1])


def test_a_search_for_a_text_ends_in_time_and_goes_on(tmp_path: Path) -> None:
    """A page that comes to its time limit says so, and its cursor leads on to everything."""
    with opened(tmp_path) as store:
        for number in range(20):
            store.keep(request(details={"lines": [{"message": "needle" if number % 5 == 0 else "hay"}]}))
        ticks = iter(range(10_000))
        store.reader._clock = lambda: next(ticks) * 0.02
        found, before, incomplete = 0, None, 0
        while True:
            page = store.reader.list(RequestQuery(text="needle", before=before))
            found += len(page.requests)
            incomplete += not page.is_complete
            if page.next is None:
                break
            before = page.next
        assert found == 4
        assert incomplete > 3


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        *((text, True) for text in ("needle", "Shop.Tenant", "a/b", "503", "order.total", "12.5", "tor", "two\nlines")),
        # Names of our fields, what JSON is made of, and what is not there at all.
        *(
            (text, False)
            for text in ("none", "null", "started_ns", "1796", "span_id", "attributes", "spans", '"', "}", '":"', ",")
        ),
    ],
)
def test_a_search_finds_what_is_shown(tmp_path: Path, text: str, is_found: bool) -> None:
    """A text is looked for in values, and in names that the application gave; not in how a request is stored."""
    span = {"name": "order.total", "span_id": "1", "started_ns": 1796000000000000000, "attributes": {"shop.tenant": "a/b"}}
    event = {"name": "torn", "at_ns": 1796000000000000000, "attributes": {"left": 12.5}}
    lines = [{"message": "NEEDLE", "status": 503, "route": None}, {"message": "two\nlines"}]
    details = {"pid": 7, "spans": [{**span, "events": [event]}], "lines": lines}
    with opened(tmp_path) as store:
        store.keep(request(path="/x", route=None, error_type=None, cause=None, why=None, details=details))
        assert bool(store.reader.list(RequestQuery(text=text)).requests) is is_found


def test_a_key_addresses_one_of_many_with_an_id(tmp_path: Path) -> None:
    """An id that clients repeat leads to the newest 20; each of them, and each older one, has a key of its own."""
    with opened(tmp_path) as store:
        for number in range(30):
            store.keep(request(request_id="same", path=f"/{number}"))
        assert [story.request.path for story in store.reader.find("same")] == [f"/{number}" for number in range(29, 9, -1)]
        listed = store.reader.list(RequestQuery(id="same")).requests
        assert len({each.key for each in listed}) == 30
        for each in listed:
            (story,) = store.reader.find(each.key)
            assert story.request.path == each.request.path
            assert story.key == each.key


@pytest.mark.parametrize(
    "some_id", ["key-zz", "key-", "key--1", f"key-{'f' * 15}", f"key-{'f' * 40}", "", "\ud800", "x" * 10_000]
)
def test_an_id_that_is_no_key_is_an_id(tmp_path: Path, some_id: str) -> None:
    """Whatever somebody asks for, the answer is what has this id: here nothing, and where it has, that."""
    with opened(tmp_path) as store:
        store.keep(request())
        assert store.reader.find(some_id) == []
        assert store.reader.lines(some_id, 10) == []
        store.keep(request(request_id=some_id))
        assert len(store.reader.find(some_id)) == bool(some_id)


def test_a_story_has_what_came_later(tmp_path: Path) -> None:
    """Spans and lines of supplements are merged by time, also for a request found by its key; those of others are not."""
    first = failure(
        request_id="r",
        trace_id="1" * 32,
        details={
            "spans": [{"name": "late", "started_ns": 9}, {"name": "early", "started_ns": 1}],
            "lines": [{"timestamp": "2027-01-01T00:00:02Z", "message": "b"}],
            "dropped_spans": 2,
            "unknown": 1,
        },
    )
    more = {
        "spans": [{"name": "middle", "started_ns": 5}],
        "lines": [{"timestamp": "2027-01-01T00:00:01Z", "message": "a"}],
        "dropped_spans": 1,
        "dropped_lines": 4,
    }
    with opened(tmp_path) as store:
        store.keep(first)
        store.keep(request(request_id="r", trace_id="2" * 32))
        store.keep(supplement(request_id="r", trace_id="1" * 32, details=more))
        store.keep(supplement(request_id="q", trace_id="1" * 32, details=more))
        (key,) = [each.key for each in store.reader.list(RequestQuery(failed=True)).requests]
        for found in (store.reader.find("1" * 32)[0], store.reader.find("r")[1], store.reader.find(key)[0]):
            assert [span["name"] for span in found.spans] == ["early", "middle", "late"]
            assert [line["message"] for line in found.lines] == ["a", "b"]
            assert (found.dropped_spans, found.dropped_lines) == (3, 4)
            assert found.request == first._replace(details=b"")


def test_a_repeated_id_gets_what_came_later_once(tmp_path: Path) -> None:
    """Of several requests with one id, the last that had started gets a late line, also one without a trace."""
    late = {"lines": [{"message": "late"}]}
    with opened(tmp_path) as store:
        for number in range(3):
            store.keep(request(request_id="r", path=f"/{number}", started_ns=10 * number))
        store.keep(supplement(request_id="r", at_ns=15, details=late))
        store.keep(supplement(request_id="r", at_ns=-1, details=late))
        store.keep(supplement(correlation_id="r", at_ns=15, details=late))
        assert [(story.request.path, len(story.lines)) for story in store.reader.find("r")] == [("/2", 0), ("/1", 1), ("/0", 1)]
        assert len(store.reader.lines("r", 10)) == 3


def test_lines_of_an_id_are_in_order_of_time(tmp_path: Path) -> None:
    """Lines of all requests of a correlation id, and those outside of requests, come in order; of too many the newest."""

    def line(second: int) -> dict:
        return {"lines": [{"timestamp": f"2027-01-01T00:00:0{second}Z", "message": str(second)}]}

    with opened(tmp_path) as store:
        store.keep(request(correlation_id="c", details=line(3)))
        store.keep(supplement(correlation_id="c", details=line(1)))
        store.keep(request(correlation_id="c", details=line(2)))
        store.keep(request(correlation_id="d", details=line(4)))
        assert [line["message"] for line in store.reader.lines("c", 10)] == ["1", "2", "3"]
        assert [line["message"] for line in store.reader.lines("c", 1)] == ["2"]
        for number in "567":
            at_once = {"lines": [{"timestamp": "2027-01-01T00:00:05Z", "message": number}]}
            store.keep(supplement(correlation_id="c", details=at_once))
        assert [line["message"] for line in store.reader.lines("c", 10)] == ["1", "2", "3", "5", "6", "7"]
        assert store.reader.list(RequestQuery(id="c")).requests[0].request.kind == "http"
        assert len(store.reader.list(RequestQuery(id="c")).requests) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"status": "4x"},
        {"status": "-1"},
        {"status": "٤xx"},
        {"before": "x"},
        {"before": "f" * 16},
        {"limit": 0},
        {"limit": 1001},
        {"slower_than_seconds": -1.0},
        {"slower_than_seconds": float("nan")},
        {"slower_than_seconds": float("inf")},
    ],
)
def test_a_query_that_cannot_be_meant_is_refused(wrong: dict) -> None:
    """Wrong values are told before any file is read."""
    with pytest.raises(ValueError, match=next(iter(wrong)).partition("_")[0]):
        RequestQuery(**wrong)


def test_a_command_reads_the_file_beside_the_service(tmp_path: Path) -> None:
    """A reader of the file alone answers while the service writes, after it has ended, and before there is a file."""
    path = file_of(tmp_path)
    reader = StoreReader.of_file(path)
    assert reader.list(RequestQuery()).requests == []
    assert not path.exists()
    store = new_store(tmp_path)
    store.keep(failure(request_id="r"))
    assert store.flush(60)
    assert len(reader.find("r")) == 1
    store.close(time.monotonic() + 300)
    assert len(reader.find("r")) == 1
