"""What is hidden: values by their names, and texts by their shape; and what is left alone."""

import random
import re
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sage_fastapi_obs.privacy.redaction import MOST_CHARACTERS, REDACTED, Redaction, readable
from sage_fastapi_obs.privacy.secret_shapes import KEY_RULES
from sage_fastapi_obs.settings import LoggingSettings

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJib2IifQ.c2lnbmF0dXJl-_x"
SECRET = "hunter2"


def redaction(**settings: Any) -> Redaction:
    return Redaction(LoggingSettings(**settings))


@pytest.mark.parametrize(
    "name",
    [
        *("password", "Password", "PASSWORD", "pass-word", "pass_word", "userPassword", "password2", "new_password[]"),
        *("token", "access_token", "accessToken", "X-CSRF-Token", "api_key", "X-Api-Key", "apikey", "client-secret"),
        *("Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "cookies", "session", "auth", "jwt", "id_jwt"),
        *(
            "db_pass",
            "dbPass",
            "DB_PASS",
            "smtp-pass",
            "pass",
            "pass2",
            "passwd",
            "dbpass",
            "creds",
            "otp",
            "user_ssn",
            "client_secrets",
        ),
        *(
            "tokens",
            "access_tokens",
            "token_value",
            "tokenValue",
            "token_string",
            "password_base64",
            "auth_header",
            "authHeader",
        ),
        *("encryption_key", "signingKey", "session_key", "ssh_key", "master_key", "Cookie-Header", "PHPSESSID", "auth_code"),
        *("private_key", "aws_secret_access_key", "db_credentials", "mysql_pwd", "credit_card", "card_number", "cvv", "ssn"),
    ],
)
def test_names_of_secrets_are_hidden(name: str) -> None:
    """Passwords, tokens, keys, cookies and cards, however the name is spelt."""
    assert redaction().hides(name)


@pytest.mark.parametrize(
    "name",
    [
        *("session_id", "client_did", "server_did", "key_type", "operation", "event_id", "customer_id", "path", "status"),
        *("bypass", "by_pass_count", "trespass", "pass_count", "passage", "encompass", "tokenizer", "token_type"),
        *(
            "max_tokens",
            "total_tokens",
            "primary_key",
            "cache_key",
            "public_key",
            "idempotency_key",
            "key_value",
            "header",
            "value",
        ),
        *(
            "auth_method",
            "authenticated",
            "session_count",
            "secretary",
            "secret_name",
            "keyboard",
            "monkey",
            "turkey",
            "passport_no",
        ),
        *("key", "code", "status_code", "token_count", "prompt_tokens", "author", "authority", "passenger", "compass", ""),
    ],
)
def test_names_of_other_things_are_shown(name: str) -> None:
    """Ids, codes and counts are what lines are for."""
    assert not redaction().hides(name)


def test_names_may_be_added() -> None:
    """Listed names are hidden besides the built-in ones, however they are spelt."""
    listed = redaction(redact=["customer_ssn", "IBAN"])
    assert all(map(listed.hides, ["customerSsn", "customer-ssn", "iban", "I_BAN", "password"]))
    assert not listed.hides("iban_country")


def test_the_built_in_names_may_be_replaced() -> None:
    """Without the built-in names only those listed are hidden; what has the shape of a secret is hidden all the same."""
    replaced = redaction(redact=["iban"], redact_builtin=False)
    assert replaced.hides("iban")
    assert not replaced.hides("password")
    assert replaced.text(f"password={SECRET} iban={SECRET} {JWT}") == f"password={SECRET} iban={REDACTED} {REDACTED}"


HIDDEN: list[tuple[str, str]] = [
    (f"postgres://bob:{SECRET}@db:5432/shop", f"postgres://{REDACTED}@db:5432/shop"),
    (f"redis://:{SECRET}@cache/0", f"redis://{REDACTED}@cache/0"),
    (f"https://{SECRET}@github.com/x", f"https://{REDACTED}@github.com/x"),
    (f"postgres://bob:p@{SECRET}/x@db/shop", f"postgres://{REDACTED}@db/shop"),
    (f"postgres://bob:a/{SECRET}@db/shop", f"postgres://{REDACTED}@db/shop"),
    (f"amqp://bob:a?{SECRET}@mq/x", f"amqp://{REDACTED}@mq/x"),
    (f"connecting to bob:{SECRET}@tcp(db:3306)/shop", f"connecting to bob:{REDACTED}@tcp(db:3306)/shop"),
    (f"host=db user=bob password={SECRET} dbname=shop", f"host=db user=bob password={REDACTED} dbname=shop"),
    (f"host=db password='a {SECRET}' dbname=shop", f"host=db password='{REDACTED}' dbname=shop"),
    (
        f'HTTP Request: GET https://u:p@host/x?token={SECRET}&page={SECRET} "HTTP/1.1 200 OK"',
        f'HTTP Request: GET https://{REDACTED}@host/x?token={REDACTED}&page={REDACTED} "HTTP/1.1 200 OK"',
    ),
    (f'https://host:443 "GET /x?q={SECRET} HTTP/1.1" 200 None', f'https://host:443 "GET /x?q={REDACTED} HTTP/1.1" 200 None'),
    (f"to https://app/cb#access_token={SECRET}&state=1", f"to https://app/cb#access_token={REDACTED}&state=1"),
    (f"next=https%3A%2F%2Fu%3A{SECRET}%40h%2F", f"next=https%3A%2F%2F{REDACTED}%40h%2F"),
    (f"body: user=bob&password={SECRET}&x=1", f"body: user=bob&password={REDACTED}&x=1"),
    (f"state%3D1%26token%3D{SECRET}%26x%3D2", f"state%3D1%26token%3D{REDACTED}%26x%3D2"),
    (f"{{'user': 'bob', 'password': '{SECRET}'}}", f"{{'user': 'bob', 'password': '{REDACTED}'}}"),
    (f"{{'password': 'a\\'{SECRET}', 'x': 1}}", f"{{'password': '{REDACTED}', 'x': 1}}"),
    (f'{{"password":"a\\"{SECRET}","x":1}}', f'{{"password":"{REDACTED}","x":1}}'),
    (
        f'{{"body": "{{\\"api_key\\": \\"{SECRET}\\", \\"x\\": 1}}"}}',
        f'{{"body": "{{\\"api_key\\": \\"{REDACTED}\\", \\"x\\": 1}}"}}',
    ),
    (f"{{'token': ['{SECRET}', 'b']}}\nnext", f"{{'token': {REDACTED}\nnext"),
    (f"[(b'authorization', b'Basic {SECRET}'), (b'host', b'h')]", f"[(b'authorization', b'{REDACTED}'), (b'host', b'h')]"),
    (f"['mysql', '--password', '{SECRET}', 'shop']", f"['mysql', '--password', '{REDACTED}', 'shop']"),
    (f"password: correct {SECRET} battery", f"password: {REDACTED}"),
    (f"password: correct {SECRET}, user: bob", f"password: {REDACTED} user: bob"),
    (f"login with password=correct {SECRET} user=bob", f"login with password={REDACTED} user=bob"),
    (f"password: don't {SECRET}", f"password: {REDACTED}"),
    (f"'password: don't {SECRET}', x", f"'password: {REDACTED}', x"),
    (f"user=bob&password=a&{SECRET}&x=1", f"user=bob&password={REDACTED}&x=1"),
    (f"auth_header: Basic a {SECRET}", f"auth_header: {REDACTED}"),
    (f"DB_PASS={SECRET} start", f"DB_PASS={REDACTED}"),
    (f"bash -c 'mysql --password \"two {SECRET}\"'", f"bash -c 'mysql --password {REDACTED}'"),
    (f"<password>{SECRET}</password><user>bob</user>", f"<password>{REDACTED}</password><user>bob</user>"),
    (f"<ns:Password Type='text'>a\n{SECRET}</ns:Password>", f"<ns:Password Type='text'>{REDACTED}</ns:Password>"),
    (f"<token><![CDATA[a<b>{SECRET}]]></token>", f"<token>{REDACTED}</token>"),
    (f"&lt;token&gt;{SECRET}&lt;/token&gt;", f"&lt;token&gt;{REDACTED}&lt;/token&gt;"),
    (f"<a password='{SECRET}'><b/></a>", f"<a password='{REDACTED}'><b/></a>"),
    (f"<input name='password' value='{SECRET}'><b>x</b>", f"<input name='password' value='{REDACTED}'><b>x</b>"),
    (f"- name: DB_PASSWORD\n  value: {SECRET}\n- name: X\n", f"- name: DB_PASSWORD\n  value: {REDACTED}\n- name: X\n"),
    (f'{{"name": "Authorization", "value": "x {SECRET}"}}', f'{{"name": "Authorization", "value": "{REDACTED}"}}'),
    (
        f'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\na\r\n{SECRET}\r\n--b--\r\n',
        f'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\n{REDACTED}\r\n--b--\r\n',
    ),
    (
        f"b'Content-Disposition: form-data; name=\"token\"\\r\\n\\r\\n{SECRET}\\r\\n--b'",
        f"b'Content-Disposition: form-data; name=\"token\"\\r\\n\\r\\n{REDACTED}\\r\\n--b'",
    ),
    (f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{SECRET}\n-----END PGP PRIVATE KEY BLOCK-----\nx", f"{REDACTED}\nx"),
    (f"-----BEGIN OPENSSH PRIVATE KEY-----\\n{SECRET}\\n-----END OPENSSH PRIVATE KEY-----", REDACTED),
    (f"-----BEGIN+EC+PRIVATE+KEY-----{SECRET}", REDACTED),
    ("\\nAKIAIOSFODNN7EXAMPLE \x1b[31mAKIAIOSFODNN7EXAMPLE", f"\\n{REDACTED} \x1b[31m{REDACTED}"),
    (f"[generated in 0.00012s] ('bob', '{SECRET}')", f"[generated in 0.00012s] {REDACTED}"),
    (
        f"not as expected [field_name='a', input_value='{SECRET}', input_type=str])",
        f"not as expected [field_name='a', input_value={REDACTED}",
    ),
    (f"DETAIL:  Key (email)=({SECRET}) already exists.\nHINT:  x", f"DETAIL:  {REDACTED}\nHINT:  x"),
    (f"DÉTAIL : La clé « (email)=({SECRET}) » existe déjà.", f"DÉTAIL : La clé « (email)=({REDACTED}"),
    (f"private_key: -----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\nx", f"private_key: {REDACTED}\nx"),
    (f"user[password]={SECRET}&password[0]={SECRET}", f"user[password]={REDACTED}&password[0]={REDACTED}"),
    (f"<string name='password'>{SECRET}</string>", f"<string name='password'>{REDACTED}</string>"),
    (f"<key>password</key>\n<string>{SECRET}</string>", f"<key>password</key>\n<string>{REDACTED}</string>"),
    (f"<name>token</name><value><string>{SECRET}</string>", f"<name>token</name><value><string>{REDACTED}</string>"),
    (f"password&quot;:&quot;{SECRET}&quot; x=1", f"password&quot;:{REDACTED} x=1"),
    (f"password\\u0022: {SECRET}", f"password\\u0022: {REDACTED}"),
    (f"password: |\n  two\n  {SECRET}\nx: 1", f"password: {REDACTED}\nx: 1"),
    (
        f'form-data; filename="x"; name="token"\r\nContent-Type: text/plain\r\n\r\n{SECRET}\r\n--b',
        f'form-data; filename="x"; name="token"\r\nContent-Type: text/plain\r\n\r\n{REDACTED}\r\n--b',
    ),
    (f"mysql --password {SECRET} shop", f"mysql --password {REDACTED} shop"),
    (f"mysql --password={SECRET} shop", f"mysql --password={REDACTED} shop"),
    (f"Authorization: Digest username=a, response={SECRET}\nHost: h", f"Authorization: {REDACTED}\nHost: h"),
    (f"Set-Cookie: sid={SECRET}; Path=/; HttpOnly\nx", f"Set-Cookie: {REDACTED}\nx"),
    (f"Cookie: a=b; sid={SECRET}", f"Cookie: {REDACTED}"),
    (f"X-Api-Key: {SECRET}", f"X-Api-Key: {REDACTED}"),
    (f"token: Bearer {SECRET} x", f"token: {REDACTED} x"),
    (f"sent Bearer {SECRET}", f"sent Bearer {REDACTED}"),
    (f"sent bearer%20{SECRET}", f"sent bearer%20{REDACTED}"),
    ("sent Basic Ym9iOmh1bnRlcjI=", f"sent Basic {REDACTED}"),
    (f"password='''{SECRET}'''", f"password='''{REDACTED}'''"),
    (f"settings.db.auth={SECRET}", f"settings.db.auth={REDACTED}"),
    (f"password = '{SECRET}", f"password = '{REDACTED}"),
    (f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----\nx", f"{REDACTED}\nx"),
    (f"/reset/{JWT}", f"/reset/{REDACTED}"),
    (f"/reset/{JWT.replace('.', '%2E')}/x", f"/reset/{REDACTED}/x"),
    ("card 4111 1111 1111 1111.", f"card {REDACTED}."),
    (f"GET https://host/x?{SECRET}#a", f"GET https://host/x?{REDACTED}#a"),
    ("/pay/4111%201111%201111%201111/x", f"/pay/{REDACTED}/x"),
    ("5555-5555-5555-4444", REDACTED),
    ("amex 3782 822463 10005, diners 30569309025904", f"amex {REDACTED}, diners {REDACTED}"),
    ("/cards/6011111111111117/x", f"/cards/{REDACTED}/x"),
]


@pytest.mark.parametrize(("text", "shown"), HIDDEN)
def test_secrets_in_texts_are_hidden(text: str, shown: str) -> None:
    """Logins, pairs, headers, tokens, keys and cards are found in any text; what stands around them stays."""
    assert redaction().text(text) == shown


@pytest.mark.parametrize(("text", "_"), HIDDEN)
@pytest.mark.parametrize("place", ["{}", "said {} and", "({})", "'{}'", "a\n{}\nb", "\x1b[1m{}"])
def test_secrets_are_found_anywhere(text: str, _: str, place: str) -> None:
    """Whatever stands before and behind."""
    shown = redaction().text(place.format(text))
    assert SECRET not in shown
    assert REDACTED in shown


@pytest.mark.parametrize(
    "text",
    [
        *("reading order 42", "/users/42/orders", "12:30:59", "2025-10-08 09:15:27.482", "https://host/users/a@b.example/x"),
        *("the bearer of bad news", "a basic understanding", "invalid token", "login(token=token)", "password: None"),
        *(
            "4111111111111112",
            "1759914927482",
            "1759914927482000",
            "7f4111111111111111",
            "0.4111111111111111",
            "order 123456789",
        ),
        *(
            "the compass shows north",
            "bypass: on",
            "passenger: bob",
            "author: bob",
            "token_count=3",
            "a < b and c > d",
            "<b>bold</b>",
        ),
        *(
            "<usage> and </usage>",
            "name: bob value: 3",
            "AKIA is a prefix",
            "xAKIAIOSFODNN7EXAMPLE",
            "disk-" + "a" * 40,
            "ghp_short",
        ),
        *(
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "-----BEGIN PUBLIC KEY-----\nMIIB\n",
            "form-data; name=x",
        ),
        *("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "the value is odd (so far)"),
        *("6f1c2b1e-8a52-4f0e-9d5e-0a4c6b1f7a10", "4bf92f3577b34da6a3ce929d0e0e4736", "monkeyJungle.x", "status=500 code=42"),
        *(
            "what? yes=1",
            "{0.__class__} %s",
            "x -> y",
            "a: b, c: d",
            "--verbose 3",
            "Mozilla/5.0 (X11; rv:109.0) Gecko/20100101",
        ),
    ],
)
def test_ordinary_texts_are_left_alone(text: str) -> None:
    """Times, ids, numbers that are no cards, addresses, prose and code."""
    assert redaction().text(text) == text


PIECES = st.sampled_from(
    [
        *(
            "password",
            "token",
            "Authorization",
            "x",
            "bob",
            "Bearer",
            "basic",
            "Ym9iOmh1bnRlcjI=",
            "eyJhbGciOi.eyJz.c2ln",
            "%3D",
        ),
        *(
            "=",
            ":",
            ": ",
            "'",
            '"',
            "\\",
            "://",
            "@",
            "?",
            "&",
            " ",
            "\n",
            ",",
            "[",
            "]",
            "/",
            "#",
            "%",
            "4111111111111111",
            "-",
        ),
        *(
            "AKIAIOSFODNN7EXAMPLE",
            "ghp_" + "a1" * 18,
            "xoxb-123456789012-abc",
            "sk_live_" + "b2" * 12,
            "<password>",
            "</password>",
        ),
        *(
            "Duplicate entry '",
            "Failing row contains (",
            "Value error, ",
            "name",
            "value",
            "form-data; name=",
            "--password",
            "db_pass",
        ),
        *("4111 1111 1111 1111", "-----BEGIN PRIVATE KEY-----", "%22", "%26", "--", "é", "\ud800", "REDACTED", "b", "%40"),
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@given(TEXTS)
def test_what_is_not_suspect_holds_no_secret(text: str) -> None:
    """The first look at a text passes over nothing that the second would hide."""
    found = redaction()
    if found.is_plain_text(text):
        assert found._scrubbed(text, code=False) == text


@given(TEXTS)
def test_hiding_hides_and_may_be_repeated(text: str) -> None:
    """However the pieces meet, a second time finds no card, token or login that the first has left."""
    shown = redaction().text(text)
    assert not redaction().text(f"{text}\n4111111111111111").endswith("1")
    assert redaction().text(redaction().text(shown)) == redaction().text(shown)


RESTS = {
    "hooks.slack.com/": "services/T01234567/B01234567/abcdefghijklmnopqrstuvwx",
    "/api/webhooks/": f"123456789012345678/{'aB3-' * 17}",
    "SG.": f"{'aB3-' * 5}.{'aB3_' * 10}",
    "glsa_": f"{'aB3d' * 8}_0123abcd",
    "PMAK-": f"{'a1' * 12}-{'b2' * 17}",
    "/bot": f"123456789:A{'aB3_' * 9}",
}
ALPHABETS = ("aB3d", "a1b2", "A2B3")


def rest_of_key(prefix: str, rest: str) -> str:
    """Make what follows the prefix of a key: of as many characters as its rule wants, of those it wants."""
    made = (RESTS.get(prefix, (alphabet * 40)[:length]) for alphabet in ALPHABETS for length in range(10, 121))
    return next(found for found in made if re.fullmatch(rest, found))


KEYS = [(prefix, rest_of_key(prefix, rule.rest)) for rule in KEY_RULES for prefix in rule.prefixes.split()]
PLACES = (
    "{}",
    "said {} and",
    "key={}",
    "'{}'",
    "a\n{}\nb",
    "\x1b[1m{}",
    "\\n{}",
    "%3D{}",
    "https://{}?",
    "-{}",
    "_{}",
    '{{"a": "{}"}}',
)


@pytest.mark.parametrize("place", PLACES)
def test_keys_are_known_by_their_issuers(place: str) -> None:
    """A key of each of the providers is hidden, under whatever name, and wherever it stands."""
    for prefix, rest in KEYS:
        assert rest[-8:] not in redaction().text(place.format(prefix + rest)), prefix


HOSTILE = [
    *(prefix for rule in KEY_RULES for prefix in rule.prefixes.split()),
    *("eyJ", "eyJa.", "-eyJ", "_eyJ", "=eyJaaaaaa", "eyJaaaaaa-", "-----BEGIN PRIVATE KEY-----", "-----BEGIN A", "-----END "),
    *(
        "a",
        "a-",
        "a.",
        "a:",
        "a=",
        "a=>",
        "a[]=",
        "a\\",
        "a%22",
        "a%3D",
        "%41",
        "%41a",
        "'a',",
        '"a","',
        "\\'a\\':",
        "a b ",
        "a\t\t\t=",
    ),
    *("://", "://a:b@", "://a/b?c@", "a:b@", "u:p@h ", "%3A%2F%2F", "?", "?a=", "?&a=", "&a=", "&", "%26", "%26a=", "#"),
    *(
        "password=",
        "password='",
        "password: [",
        "password: a ",
        "password: a&",
        "password=%26",
        "pass: ",
        "'token','",
        "b'token': b'",
    ),
    *("auth=auth ", "auth=None ", "cookie: a=b; ", "--a", "--a  ", "--password x ", '--password "', "--password 'a ", "-p "),
    *(
        "bearer ",
        "bearer+++",
        "Basic YTpi ",
        "Basic aaaa",
        "<a>",
        "<a ",
        "<a:b",
        "<password>",
        "<password ",
        "<token><![CDATA[",
        "</",
    ),
    *("&lt;a ", "&lt;token&gt;", "&lt;/", "name: a value: ", "name: token value: ", "name='token' value='", "name=" + "\\" * 8),
    *(
        "form-data; name=a",
        "form-data; name=token",
        "form-data; name=token\n\n",
        "form-data; name=token\\r\\n\\r\\n",
        "\\n--",
        "\n\n--",
    ),
    *(
        "'loc': ",
        "'loc': 'input': ",
        "'input': ",
        "input_value=",
        "Value error, ",
        "[parameters: ",
        "[raw sql] ",
        ")=(",
        "DETAIL:  ",
    ),
    *(
        "Failing row contains (",
        "LINE 1: ",
        'value "',
        'value "1" is out of range',
        "invalid input syntax for ",
        "On instance",
        "dup key: ",
    ),
    *("1", "1 ", "4111 ", "4111-", "4111111111111112 ", "0000-0000-", "\\", '"', "'", " ", "\n", "é", "\ud800"),
]


def seconds(text: str) -> float:
    """Measure the CPU time that it takes to look through a text as one of an exception, which is looked for more."""
    started = time.thread_time()
    redaction().error_text(text + ": x")
    return time.thread_time() - started


@pytest.mark.parametrize("part", range(4))
def test_the_time_grows_with_the_text(part: int) -> None:
    """What begins like a secret again and again, and never is one, is looked through in a time that is linear in its length."""
    for piece in HOSTILE[part::4]:
        short, long = ((piece * (length // len(piece) + 1))[:length] for length in (8 * 1024, 64 * 1024))
        # The machine may be busy with other things at one moment, and not at the next.
        assert any(seconds(long) < 12 * seconds(short) for _ in range(5)), piece


@given(st.lists(st.sampled_from(HOSTILE), min_size=1, max_size=4).map("".join))
def test_the_time_grows_with_mixed_texts(piece: str) -> None:
    """The same for pieces of several patterns."""
    short, long = ((piece * (length // len(piece) + 1))[:length] for length in (2 * 1024, 16 * 1024))
    assert any(seconds(long) < 12 * seconds(short) for _ in range(5))


def test_what_follows_a_long_text_is_found() -> None:
    """However long and hostile, a text is looked through to its end."""
    for piece in HOSTILE:
        assert SECRET not in redaction().text(piece * (5_000 // len(piece)) + f"\npassword={SECRET}"), piece


CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
IDS = st.one_of(
    st.uuids().map(str),
    st.uuids().map(lambda made: str(made).upper()),
    st.binary(min_size=8, max_size=20).map(bytes.hex),
    st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=8, max_size=8)).map(
        lambda ids: f"00-{ids[0].hex()}-{ids[1].hex()}-01"
    ),
    st.text(CROCKFORD, min_size=26, max_size=26),
)


@given(IDS)
@example("12345678-1234-1234-1234-123456789012")
@example("12345678-4111-1111-1111-111111111111")
@example("00-41111111111111114111111111111111-4111111111111111-01")
def test_ids_are_known_as_such_at_first_sight(made: str) -> None:
    """UUIDs, hex, ULIDs and `traceparent` are not looked through, whatever digits they have, but for numbers of cards."""
    found = redaction()
    assert found.is_plain_text(made) or "EARER" in made or found._scrubbed(made) != made
    assert found.text(made) == found._scrubbed(made)


def test_a_long_text_is_cut_behind_what_is_hidden() -> None:
    """A secret that the cut goes through is hidden whole."""
    for start in range(MOST_CHARACTERS - 60, MOST_CHARACTERS + 2):
        shown = readable("x" * (start - 1) + "/" + JWT + "/" + "y" * 5_000)
        assert "eyJ" not in shown
        assert shown.endswith("…")
        assert len(shown) <= MOST_CHARACTERS + 1


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (b"page=3&token=x", "page=REDACTED&token=REDACTED"),
        (b"verbose&x=1", "verbose&x=REDACTED"),
        (b"hunter2x", REDACTED),
        (JWT.encode(), REDACTED),
        (JWT.encode() + b"==", f"{REDACTED}=REDACTED"),
        (b"a=&b", "a=&b"),
        (b"", ""),
    ],
)
def test_a_query_is_shown_by_its_names(query: bytes, shown: str) -> None:
    """No value is shown, also none that has no name."""
    assert Redaction().query(query) == shown


@pytest.mark.parametrize("longer", [0, 100])
@pytest.mark.parametrize("secret", [JWT, "AKIAIOSFODNN7EXAMPLE", "ghp_" + "a1B2" * 9])
def test_a_secret_in_the_name_of_a_parameter_is_hidden(secret: str, longer: int) -> None:
    """In a short name as in a long one, the first time and again."""
    shown = [Redaction().query(f"{'-' * longer}{secret}=1&page=2".encode()) for _ in range(2)]
    assert shown == [f"{'-' * longer}{REDACTED}={REDACTED}&page={REDACTED}"] * 2


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (b"page=3&q=shoes", "page=3&q=shoes"),
        (b"api_key[]=x&%74oken=y&iban=z&code=c", "api_key[]=REDACTED&%74oken=REDACTED&iban=REDACTED&code=REDACTED"),
        (b"next=https%3A%2F%2Fu%3Ap%40h&x=1", "next=REDACTED&x=1"),
        (b"next=/a%3Ftoken%3Dx", "next=REDACTED"),
        (JWT.encode() + b"&q=" + JWT.encode(), f"{JWT}&q=REDACTED"),
    ],
)
def test_values_of_a_query_may_be_shown(query: bytes, shown: str) -> None:
    """Where the settings say so: all but the sensitive ones, by their names or by what is in them."""
    assert Redaction(LoggingSettings(redact=["iban"]), query_values=True).query(query) == shown


def test_the_settings_for_queries_hold_for_urls_in_texts() -> None:
    """One policy: what `url.query` shows, a message shows."""
    text = "GET https://host/x?page=3&token=x"
    assert Redaction(query_values=True).text(text) == "GET https://host/x?page=3&token=REDACTED"
    assert Redaction().text(text) == "GET https://host/x?page=REDACTED&token=REDACTED"


def test_source_lines_lose_only_literals() -> None:
    """In a frame's source a name is a name, and the code stays readable; the exception's own text is a text."""
    rows = [
        '  File "/app/auth.py", line 3, in get_token\n    token = await provider.get(password=password)\n',
        f'  File "/app/auth.py", line 4, in login\n    login(password="{SECRET}", pin_token=1234)\n',
        f"  File \"/app/auth.py\", line 5, in login\n    raise ValueError('token: {SECRET}')\n",
        f"ValueError: token = {SECRET}\n",
    ]
    assert [*"".join(map(redaction().frame, rows[:3])).splitlines(), redaction().text(rows[3].strip())] == [
        '  File "/app/auth.py", line 3, in get_token',
        "    token = await provider.get(password=password)",
        '  File "/app/auth.py", line 4, in login',
        f'    login(password="{REDACTED}", pin_token={REDACTED}',
        '  File "/app/auth.py", line 5, in login',
        f"    raise ValueError('token: {REDACTED}')",
        f"ValueError: token = {REDACTED}",
    ]


def test_card_numbers_are_told_from_ids() -> None:
    """Of random numbers of sixteen digits one in ten has a right check digit, and far fewer are taken for a card's."""
    numbers = random.Random(1)
    taken = sum(redaction().number(numbers.randrange(10**15, 10**16)) == REDACTED for _ in range(2_000))
    assert taken < 80
    assert redaction().number(4111111111111111) == REDACTED
    assert redaction().number(-4111111111111111) == -4111111111111111
