"""Who may see the page: the token, the cookie in its place, hosts and origins."""

import json
import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from support import http_scope

from sage_fastapi_obs import Observability, Settings, SettingsError
from sage_fastapi_obs.endpoints.login_cookie import FAILURE_SECONDS, LIFE_SECONDS, MOST_FAILURES, Failures, LoginCookie

TOKEN = "a-token-of-sixteen-or-more"
PAGE = {"host": "shop.test", "origin": "https://shop.test", "sec-fetch-site": "same-origin"}
DATA = ["overview", "live", "summary", "requests", "alerts", "workers", "stacks", "loggers", "openapi.json"]
LEVEL = {"level": "debug", "seconds": 60}


def watched_app(**monitoring: Any) -> FastAPI:
    """Build an app with the pages; by default the token is needed."""
    app = FastAPI()
    monitoring = {"access": "token", "token": TOKEN, **monitoring}
    Observability(Settings(monitoring=monitoring, logging={"output": "stderr"}, store={"enabled": False})).install(app)
    return app


def browser(app: FastAPI, client: str = "10.0.0.7", **headers: str) -> httpx.AsyncClient:
    """Open a client that keeps cookies and sends what a browser does from the page."""
    transport = httpx.ASGITransport(app, client=(client, 1))
    return httpx.AsyncClient(transport=transport, base_url="https://shop.test", headers={**PAGE, **headers})


async def logged_in(client: httpx.AsyncClient, token: str = TOKEN) -> httpx.Response:
    """Log in."""
    return await client.post("/monitoring/login", json={"token": token})


async def test_without_the_token_there_is_only_the_question_for_it():
    """In production page, data, stream and changes answer 401; the page's own files, which are public, let it ask."""
    app = FastAPI()
    Observability(Settings.production(monitoring={"token": TOKEN}, logging={"output": "stderr"})).install(app)
    async with browser(app) as client:
        page = await client.get("/monitoring/")
        assert (page.status_code, page.headers["content-type"]) == (401, "text/html; charset=utf-8")
        assert page.headers["cache-control"] == "no-store"
        assert [(path, (await client.get(f"/monitoring/{path}")).status_code) for path in DATA if path != "requests"] == [
            (path, 401) for path in DATA if path != "requests"
        ]
        assert (await client.put("/monitoring/loggers", json=LEVEL)).status_code == 401
        assert (await client.get("/monitoring/static/index.html")).status_code == 200


async def test_a_production_service_without_a_token_is_closed():
    """Nobody may log in where there is no token; each answer names the setting."""
    app = FastAPI()
    Observability(Settings.production(logging={"output": "stderr"})).install(app)
    async with browser(app) as client:
        for path in ("", "static/index.html", "live", "overview"):
            answer = await client.get(f"/monitoring/{path}")
            assert answer.status_code == 403
            assert "SAGE_OBS_MONITORING__TOKEN" in answer.json()["detail"]
        assert (await logged_in(client)).status_code == 403


async def test_a_login_opens_the_page_and_lets_it_change_levels_until_the_logout():
    """The token goes to the service once; what the browser keeps is no token, and no script can read it."""
    app = watched_app()
    async with browser(app) as client:
        answer = await logged_in(client)
        assert (answer.status_code, answer.json()) == (200, {"seconds": LIFE_SECONDS})
        cookie = answer.headers["set-cookie"]
        assert {"HttpOnly", "Secure", "SameSite=strict", f"Max-Age={LIFE_SECONDS}"} <= {*cookie.split("; ")}
        assert "Path=" not in cookie
        assert TOKEN not in cookie
        assert (await client.get("/monitoring/")).status_code == 200
        assert (await client.get("/monitoring/overview")).status_code == 200
        assert (await client.put("/monitoring/loggers", json=LEVEL)).status_code == 200
        assert (await client.post("/monitoring/logout")).json() == {"seconds": 0}
        assert (await client.get("/monitoring/overview")).status_code == 401


@pytest.mark.parametrize(
    ("scheme", "headers", "secure"),
    [
        ("http", {"origin": "http://shop.test"}, False),
        ("https", {}, True),
        ("http", {"origin": "https://shop.test"}, True),
        ("http", {"origin": "http://shop.test", "x-forwarded-proto": "https"}, True),
    ],
)
async def test_the_cookie_is_for_encrypted_connections_where_there_is_one(scheme, headers, secure):
    """Also where a proxy decrypts: what the browser says counts."""
    async with browser(watched_app(), **headers) as client:
        answer = await client.post(f"{scheme}://shop.test/monitoring/login", json={"token": TOKEN})
    assert ("Secure" in answer.headers["set-cookie"]) == secure


async def test_any_worker_knows_the_cookie_and_another_token_ends_it():
    """It is made from the token alone: another process with that token takes it, one with another does not."""
    async with (
        browser(watched_app()) as client,
        browser(watched_app()) as sibling,
        browser(watched_app(token="x" * 16)) as other,
    ):
        await logged_in(client)
        for one in (sibling, other):
            one.cookies = client.cookies
        assert (await sibling.get("/monitoring/overview")).status_code == 200
        assert (await other.get("/monitoring/overview")).status_code == 401


FOREIGN = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "origin": "https://evil.test"},
    {"sec-fetch-site": "cross-site", "origin": "null"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_another_site_neither_reads_nor_changes_with_the_cookie(headers):
    """Should a browser send the cookie for a page of another origin all the same, it counts for nothing."""
    async with browser(watched_app()) as client:
        await logged_in(client)
        assert (await client.get("/monitoring/overview", headers=headers)).status_code == 401
        assert (await client.get("/monitoring/live", headers=headers)).status_code == 401
        assert (await client.put("/monitoring/loggers", headers=headers, json=LEVEL)).status_code == 401
        assert (await client.post("/monitoring/logout", headers=headers)).status_code == 403
        assert (await client.post("/monitoring/login", headers=headers, json={"token": TOKEN})).status_code == 403
        answer = await client.get("/monitoring/overview")
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize(
    ("origin", "host", "status"),
    [
        ("http://shop.test", "shop.test", 200),
        ("http://SHOP.test", "shop.test", 200),
        ("http://shop.test:81", "shop.test", 401),
        ("http://evil.test", "shop.test", 401),
        ("null", "shop.test", 401),
        ("", "shop.test", 401),
        (None, "shop.test", 401),
    ],
)
async def test_browsers_that_do_not_say_the_site_are_told_by_their_origin(origin, host, status):
    """Over plain HTTP they send no `Sec-Fetch-Site`; a change with the cookie then needs an `Origin` that is ours."""
    app = watched_app()
    async with browser(app) as client:
        await logged_in(client)
        headers = {"host": host} if origin is None else {"host": host, "origin": origin}
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="https://shop.test", headers=headers
        ) as plain:
            plain.cookies = client.cookies
            assert (await plain.put("/monitoring/loggers", json=LEVEL)).status_code == status


async def test_what_a_person_types_reads_and_changes_nothing():
    """A browser that says that no page has sent a request has not been told to change anything by ours."""
    async with browser(watched_app(), **{"sec-fetch-site": "none"}) as client:
        assert (await logged_in(client)).status_code == 403
        assert (await client.post("/monitoring/login", headers=PAGE, json={"token": TOKEN})).status_code == 200
        assert (await client.get("/monitoring/overview")).status_code == 200
        assert (await client.put("/monitoring/loggers", json=LEVEL)).status_code == 401


async def test_a_program_with_the_token_needs_no_browser():
    """Whoever sends the token itself is asked for nothing else, and is given no cookie."""
    async with httpx.AsyncClient(transport=httpx.ASGITransport(watched_app()), base_url="http://shop.test") as client:
        client.headers["authorization"] = f"Bearer {TOKEN}"
        answers = [await client.get("/monitoring/overview"), await client.put("/monitoring/loggers", json=LEVEL)]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert not any("set-cookie" in answer.headers for answer in answers)


async def test_guessing_ends_soon_for_one_address_only():
    """After some wrong tokens of one address nothing from there is looked at, not even the right one; others get in."""
    app = watched_app()
    async with browser(app) as guesser, browser(app, "10.0.0.8") as other:
        headers = [{"authorization": f"Bearer guess-{number}"} for number in range(MOST_FAILURES)]
        statuses = {(await guesser.get("/monitoring/overview", headers=one)).status_code for one in headers[1:]}
        assert statuses | {(await logged_in(guesser, "guess")).status_code} == {401}
        late = await logged_in(guesser)
        assert (late.status_code, late.headers["retry-after"]) == (429, "60")
        assert (await guesser.get("/monitoring/overview", headers={"authorization": f"Bearer {TOKEN}"})).status_code == 429
        assert (await logged_in(other)).status_code == 200


def test_guesses_are_forgotten_after_a_while_and_take_little_room():
    """The next try is allowed a minute later; of many addresses only the newest are remembered."""
    now = 0.0
    failures = Failures(lambda: now)

    def request(number: int) -> Request:
        return Request(http_scope("/", client=(f"10.0.{number // 256}.{number % 256}", 1)))

    for _ in range(MOST_FAILURES):
        failures.add(request(0))
    assert failures.are_too_many(request(0))
    now = FAILURE_SECONDS
    assert not failures.are_too_many(request(0))
    for number in range(5000):
        failures.add(request(number))
    assert len(failures._times) <= 1024


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b'{"token": 1}', b'{"token": "' + b"x" * 9000 + b'"}', b"token=" + TOKEN.encode(), b"\xff"],
)
async def test_a_login_that_makes_no_sense_tells_nothing(body):
    """What was sent is not repeated: it may be the token."""
    async with browser(watched_app()) as client:
        answer = await client.post("/monitoring/login", content=body)
    assert answer.status_code in {413, 422}
    assert TOKEN not in answer.text


async def test_the_token_is_in_no_url_and_no_document():
    """Nothing that is shown has it, and a query with it opens nothing."""
    async with browser(watched_app()) as client:
        assert (await client.get(f"/monitoring/overview?token={TOKEN}")).status_code == 401
        await logged_in(client)
        for path in ["", *(path for path in DATA if path not in {"live", "requests"})]:
            assert TOKEN not in (await client.get(f"/monitoring/{path}")).text


def cookie_request(cookie: str) -> Request:
    """Build a request with a cookie of the name that `LoginCookie` of the token gives it."""
    name = LoginCookie(TOKEN.encode())._name
    return Request(http_scope("/", headers=[(b"cookie", f"{name}={cookie}".encode("latin-1", "replace"))]))


@given(st.one_of(st.text(max_size=100), st.from_regex(r"[0-9]{1,14}\.[0-9a-f]{64}", fullmatch=True)))
def test_a_cookie_cannot_be_made_up(value: str):
    """No text is a cookie but those that the service has given."""
    assert not LoginCookie(TOKEN.encode(), lambda: 1000.0).is_in(cookie_request(value))


def test_a_cookie_has_an_end():
    """It is right until its time has come, and one that ends later than the service would say is none."""
    cookie = LoginCookie(TOKEN.encode(), lambda: 1000.0)
    until = 1000 + LIFE_SECONDS
    good = cookie_request(f"{until}.{cookie._code(str(until))}")
    assert cookie.is_in(good)
    assert LoginCookie(TOKEN.encode(), lambda: until - 1.0).is_in(good)
    assert not LoginCookie(TOKEN.encode(), lambda: float(until)).is_in(good)
    assert not LoginCookie(TOKEN.encode(), lambda: 999.0).is_in(good)
    assert not cookie.is_in(cookie_request(f"0{until}.{cookie._code(str(until))}"))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("127.0.0.1", 200),
        ("[::1]:8000", 200),
        ("shop.localhost", 200),
        ("Shop.Test:8000", 200),
        ("shop.test.", 200),
        ("evil.shop.test", 403),
        ("shop.test.evil.test", 403),
        ("shop.test@evil.test", 403),
        ("evil.test", 403),
        ("10.0.0.7", 403),
        ("", 403),
    ],
)
@pytest.mark.parametrize("path", ["", "overview", "live", "static/index.html"])
async def test_in_development_only_names_of_this_machine_are_answered(host, status, path):
    """A name that somebody has made resolve here reads nothing; the answer names the setting for those that are ours."""
    app = watched_app(access="local", allowed_hosts="shop.test")
    if path == "live" and status == 200:
        return
    transport = httpx.ASGITransport(app, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers={"host": host}) as client:
        answer = await client.get(f"/monitoring/{path}")
        assert answer.status_code == status
        assert status == 200 or "monitoring.allowed_hosts" in answer.json()["detail"]
        foreign = await client.get(f"/monitoring/{path}", headers={"origin": "http://evil.test"})
        assert foreign.status_code == 403


async def test_an_allowed_host_is_still_this_machine_only():
    """The setting is about names: who comes from elsewhere or through a proxy needs the token."""
    app = watched_app(access="local", allowed_hosts="shop.test")
    for client_host, headers in (("10.0.0.7", {}), ("127.0.0.1", {"x-forwarded-for": "10.0.0.7"})):
        async with browser(app, client_host, **headers) as client:
            assert (await client.get("/monitoring/overview")).status_code == 403


@pytest.mark.parametrize("host", ["https://shop.test", "shop.test:8000", "*", "*.shop.test", ""])
def test_a_host_that_can_never_match_is_refused(host):
    """A scheme, a port or a wildcard is said at the start."""
    with pytest.raises(SettingsError, match=re.escape("monitoring.allowed_hosts")):
        Settings(monitoring={"allowed_hosts": [host]})


async def test_in_development_a_login_lets_the_page_change_levels():
    """Reading needs no token there; a change does, and the cookie stands for it."""
    app = watched_app(access="local")
    headers = {"host": "localhost", "origin": "http://localhost"}
    async with browser(app, "127.0.0.1", **headers) as client:
        assert (await client.get("/monitoring/overview")).status_code == 200
        assert (await client.put("/monitoring/loggers", json=LEVEL)).status_code == 401
        assert (await logged_in(client)).status_code == 200
        changed = await client.put("/monitoring/loggers", json=LEVEL)
        assert changed.status_code == 200
        assert json.dumps(changed.json())
