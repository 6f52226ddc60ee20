"""Kept failures by type, route and place in the code, over HTTP; and which of them are resolved."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kept_requests import BEGIN_NS, filled, kept, put
from support import client
from test_requests_pages import TOKEN, Shop

from sage_fastapi_obs.endpoints.issues import MOST_ISSUES, PARTS, _kind, issues_of
from sage_fastapi_obs.store.records import ListedRequest, RequestPage
from sage_fastapi_obs.store.schema import MOST_RESOLVED
from sage_fastapi_obs.store.store import Store

HEADERS = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with filled(tmp_path / "stores") as store:
        yield store


def failed(number: int, **more: Any) -> Any:
    """Make a request that raised at a line."""
    raised = {"error_type": "LookupError", "cause": "exception", "why": "raised LookupError at app/shop.py:14"}
    return kept(number, **{"status": 500, "failed": True, "kept": "failed", **raised, **more})


async def change(shop: Shop, issue: str, content: Any, headers: dict[str, str] = HEADERS) -> tuple[int, Any]:
    """Send a PUT for an issue."""
    async with client(shop.app) as http:
        answer = await http.put(f"/monitoring/issues/{issue}", content=content, headers=headers)
    return answer.status_code, answer.json()


async def test_identical_failures_are_one_issue(watch: Any, store: Store) -> None:
    """However many they are; another type, route or line is another one, a path or a time is not."""
    put(store, *(failed(number, path=f"/items/{number}") for number in range(23)))
    put(
        store,
        failed(30, error_type="KeyError", why="raised KeyError at app/shop.py:14"),
        failed(31, route="/orders"),
        failed(32, why="raised LookupError at app/shop.py:15"),
        *(failed(40 + n, error_type="504", cause="database", why=f"the database took {n} s: SELECT orders") for n in range(3)),
        kept(50),
    )
    found = await Shop(watch, store).get("issues")
    assert [(one["error_type"], one["route"], one["count"]) for one in found["issues"]] == [
        ("504", "/items/{item_id}", 3),
        ("LookupError", "/items/{item_id}", 1),
        ("LookupError", "/orders", 1),
        ("KeyError", "/items/{item_id}", 1),
        ("LookupError", "/items/{item_id}", 23),
    ]
    last = found["issues"][-1]
    assert (last["first_seen"], last["last_seen"]) == ("2026-11-30T00:20:00.000Z", "2026-11-30T00:20:22.000Z")
    assert (sum(last["counts"]), len(last["counts"]), found["since"]) == (23, PARTS, "2026-11-30T00:20:00.000Z")
    assert (found["failures"], found["is_complete"]) == (29, True)
    story = (await Shop(watch, store).get(f"requests/{last['example']}"))["stories"][0]
    assert story["request"]["path"] == "/items/22"


async def test_an_issue_is_resolved_and_comes_again(watch: Any, store: Store) -> None:
    """With the token; a failure that begins later reopens it, and anybody with the token may reopen it."""
    put(store, failed(0), failed(1, route="/orders"))
    shop = Shop(watch, store, token=TOKEN)
    orders, items = (await shop.get("issues"))["issues"]
    status, changed = await change(shop, orders["id"], '{"resolved": true}')
    assert (status, [(one["id"], one["state"]) for one in changed["issues"]]) == (
        200,
        [(items["id"], "open"), (orders["id"], "resolved")],
    )
    put(store, failed(2, route="/orders", started_ns=store.clock() + 1))
    assert [one["state"] for one in (await shop.get("issues"))["issues"]] == ["reopened", "open"]
    await change(shop, orders["id"], '{"resolved": true}')
    _, changed = await change(shop, orders["id"], '{"resolved": false}')
    assert [one["state"] for one in changed["issues"]] == ["open", "open"]


@pytest.mark.parametrize(
    ("content", "headers", "status", "detail"),
    [
        ('{"resolved": true}', {}, 401, "a bearer token is needed"),
        ('{"resolved": true}', {"Authorization": "Bearer wrong"}, 401, "a bearer token is needed"),
        ('{"resolved": 1}', HEADERS, 422, "resolved: Input should be a valid boolean"),
        ('{"resolved": true, "x": 1}', HEADERS, 422, "x: Extra inputs are not permitted"),
        ("[" * 10_000, HEADERS, 413, "the body is longer than 4096 bytes"),
        ("[" * 4_000, HEADERS, 422, "body: "),
    ],
)
async def test_changes_that_are_refused(
    content: str, headers: dict[str, str], status: int, detail: str, watch: Any, store: Store
) -> None:
    """Without the token, and what is no change: nothing is resolved."""
    put(store, failed(0))
    shop = Shop(watch, store, token=TOKEN)
    (issue,) = (await shop.get("issues"))["issues"]
    code, answer = await change(shop, issue["id"], content, headers)
    assert (code, detail in answer["detail"]) == (status, True)
    assert store.reader.resolved() == {}


async def test_an_id_that_is_none(watch: Any, store: Store) -> None:
    """Is not remembered."""
    shop = Shop(watch, store, token=TOKEN)
    for issue in ("x", "A" * 16, "0" * 17, "%00" * 16):
        assert (await change(shop, issue, '{"resolved": true}'))[0] == 404
    assert store.reader.resolved() == {}


async def test_without_a_store_and_with_a_damaged_one(watch: Any, store: Store, tmp_path: Path) -> None:
    """The pages say so; a damaged file is replaced, and issues can be resolved in the new one."""
    assert await Shop(watch, None).get("issues", 404) == "no requests are kept: set store.enabled"
    put(store, failed(0))
    for path in (tmp_path / "stores").rglob("*.sqlite3"):
        path.write_bytes(b"\xff" * 100_000)
    found = await Shop(watch, store).get("issues")
    assert (found["issues"], found["since"]) == ([], None)
    store.resolutions.resolve("0" * 16)
    assert [*store.reader.resolved()] == ["0" * 16]


def test_what_is_remembered_is_bounded(tmp_path: Path) -> None:
    """The issues that were resolved last are."""
    ticks = iter(range(10_000))
    with filled(tmp_path / "stores") as store:
        store.resolutions._clock = lambda: next(ticks)
        for number in range(MOST_RESOLVED + 5):
            store.resolutions.resolve(f"{number:016x}")
        assert {int(issue, 16) for issue in store.reader.resolved()} == {*range(5, MOST_RESOLVED + 5)}


class Reader:
    """Lists failures, as a store's reader does; by pages of a hundred."""

    def __init__(self, failures: list[ListedRequest]) -> None:
        self.failures = failures

    def list(self, query: Any) -> RequestPage:
        """Return a page."""
        first = int(query.before or "0", 16)
        rest = self.failures[first : first + 100]
        return RequestPage(rest, f"{first + 100:x}" if first + 100 < len(self.failures) else None, True, "0")


TIMES = st.integers(min_value=-(2**62), max_value=2**62)
KINDS = st.tuples(
    st.sampled_from(["A", "B", None]), st.sampled_from(["/a", None]), st.sampled_from(["raised A at a.py:1", None])
)


@given(st.lists(st.tuples(KINDS, TIMES), max_size=300), TIMES, st.dictionaries(st.text(), TIMES))
def test_every_failure_is_in_one_issue(failures: list[Any], now_ns: int, resolved: dict[str, int]) -> None:
    """Whatever the clocks said: counts add up, and an issue has what is alike."""
    now_ns, found = abs(now_ns) % BEGIN_NS, []
    for number, ((error, route, why), at_ns) in enumerate(failures):
        at_ns = abs(at_ns) % BEGIN_NS
        request = failed(number, error_type=error, route=route, why=why, started_ns=at_ns)._replace(details=b"")
        found.append(ListedRequest(f"key-{number:x}", request))
    issues = issues_of(Reader(found), resolved, now_ns)  # type: ignore[arg-type]
    assert sum(issue.count for issue in issues.issues) == len(failures) == issues.failures
    assert all(sum(issue.counts) == issue.count for issue in issues.issues)
    assert len({issue.id for issue in issues.issues}) == len({_kind(one.request) for one in found}) <= MOST_ISSUES
    json.loads(issues.model_dump_json())


def test_more_kinds_than_are_shown() -> None:
    """The newest are, and it is said that there are more."""
    found = [ListedRequest(f"key-{n:x}", failed(1_000 - n, route=f"/{n}")) for n in range(MOST_ISSUES + 7)]
    issues = issues_of(Reader(found), {}, BEGIN_NS * 2)  # type: ignore[arg-type]
    assert [issue.route for issue in issues.issues] == [f"/{n}" for n in range(MOST_ISSUES)]
    assert not issues.is_complete
