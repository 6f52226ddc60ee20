"""What may be shown: which names hide their values, and what in a text has the shape of a secret."""

import re
from base64 import b64decode
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote_plus

from sage_fastapi_obs.settings import LoggingSettings

__all__ = ["BUILT_IN", "REDACTED", "Redaction", "readable"]

REDACTED = "REDACTED"
MOST_CHARACTERS = 2048
MARGIN = 1024
"""Read beyond a cut, so that a secret which the cut goes through is still known as one."""
SHORT = 256
"""Texts up to this length are worth remembering."""
SENSITIVE = frozenset(
    {
        *(
            "x-amz-signature",
            "x-amz-credential",
            "x-amz-security-token",
            "awsaccesskeyid",
            "signature",
            "sig",
            "x-goog-signature",
        ),
        *("token", "access_token", "refresh_token", "id_token", "api_key", "apikey", "key", "secret", "client_secret"),
        *("password", "passwd", "pwd", "code", "auth", "authorization", "session", "jwt"),
    }
)
"""Query parameters whose values are never shown: those of the HTTP conventions, and what else carries secrets."""
NAMES = frozenset(
    {
        *("auth", "session", "bearer", "cookies", "secrets", "passcode", "otp", "csrf", "xsrf", "pem"),
        *("ssn", "cvv", "cvc", "creditcard", "cardnumber", "awsaccesskeyid"),
    }
)
"""Fields that are hidden by their whole name; shorter ones, such as `key` and `code`, name harmless things too often."""
ENDINGS = ("token", "secret", "pwd", "authorization", "cookie", "jwt", "accesskey", "accountkey", "securitytoken")
"""Fields that are hidden by the end of their name: `csrf_token`, but not `token_count`."""
PARTS = ("password", "passwd", "passphrase", "apikey", "privatekey", "secretkey", "credential")
"""Fields that are hidden by any part of their name."""
_WHOLE_ROW = ("authorization", "cookie", "cookies")
_HARMLESS = frozenset({"none", "null", "true", "false"})

_LONG_NUMBER = re.compile(r"[0-9]{4}(?:[ -]|%20)?[0-9]{4}")
_URL = re.compile(r"""://([^\s"'<>]+)""")
_HOST_AND_PORT = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::\d*)?")
_ENCODED_URL = re.compile(r"""(%3A%2F%2F)[^\s"'&]{1,256}(%40)""", re.IGNORECASE)
_LOGIN = re.compile(r"""(?<![\w/.%+-])([\w.%+-]++:)[^\s:@/"']++(?=@)""")
_QUERY = re.compile(r"""\?(?=[^\s"'<>?#=]*+=)([^\s"'<>#]*+)""")
# Possessive throughout, and started only where a name can start: the time grows with the text, whatever the text.
_NAMED = re.compile(
    r"""(?:(?<![\w.%-])|(?<=%[0-9A-Fa-f]{2}))(-{0,2}\w[\w.-]*+(?:\[\])?+)"""
    r"""(?:(?:\\*+["']|%22)?+[ \t]*+(?:=>|[=:]|%3[DdAa])[ \t]*+|\\*+["'],[ \t]*+(?=[bru]?\\*+["']))"""
)
_OPTION = re.compile(r"(?<![\w-])(--?[A-Za-z][\w-]*+)([ \t]++)[^\s-]\S*+")
_QUOTED = re.compile(r"""[bBrRuUfF]{0,2}(\\*+)(["']{3}|["'])""")
_CLOSED = {"'": re.compile(r"(?:[^'\\]|\\.)*+", re.DOTALL), '"': re.compile(r'(?:[^"\\]|\\.)*+', re.DOTALL)}
_ROW = re.compile(r"[^\r\n]*+")
_WORD = re.compile(r"""(?:(?:bearer|basic|digest|token|negotiate)[ \t]++)?(?:(?!%26)[^\s&"'])++""", re.IGNORECASE)
_SCHEME = re.compile(r"\b([Bb]earer|BEARER|[Bb]asic|BASIC)((?:\s|%20|\+|:)+)([\w.~+/=%-]+)")
_SHAPES = re.compile(
    r"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f]{2}))eyJ[\w=-]{6,}+(?:(?:\.|%2[Ee])[\w=-]*+)+"
    r"|-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,32}PRIVATE KEY-----|\Z)",
    re.DOTALL,
)
"""JSON web tokens, also cut ones, and private keys."""
_DIGITS = re.compile(
    r"(?<![A-Fa-f0-9.])(?:[0-9]{13,19}|[0-9]{4}([ -]|%20)(?:[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}|[0-9]{6}\1[0-9]{4,5}))"
    r"(?![A-Fa-f0-9]|\.[0-9])"
)
_CARD = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-59]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|6(?:011|4[4-9]\d|5\d\d)\d{12}|62\d{14,17}"
)
"""The numbers that issuers of cards use; without them one id in ten would pass for a card."""
_FRAME = re.compile(r'[ |+-]*File "')
_FLAG = re.compile(r"[A-Za-z][A-Za-z_.-]{0,31}")


class Redaction:
    """Decides what of names and texts may be shown; one serves all signals."""

    def __init__(self, settings: LoggingSettings | None = None, *, query_values: bool = False) -> None:
        """Build from the settings; `query_values`: show the values of query parameters that are not sensitive."""
        settings = LoggingSettings() if settings is None else settings
        listed = frozenset(map(_letters, settings.redact)) - {""}
        builtin = settings.redact_builtin
        self._names = listed | NAMES if builtin else listed
        self._endings: tuple[str, ...] = ENDINGS if builtin else ()
        self._parts: tuple[str, ...] = PARTS if builtin else ()
        self._shown = None if settings.show_only is None else frozenset(map(_letters, settings.show_only))
        self._query_values = query_values
        # Names are few and come again with every line.
        self._hides_name = lru_cache(maxsize=4096)(self._judge)
        # A path is asked for by the span and again by the line, and most by many requests.
        self._readable_again = lru_cache(maxsize=1024)(self._readable)
        self._is_plain_name = lru_cache(maxsize=4096)(lambda name: not self._judge(name) and self.text(name) == name)

    def hides(self, name: str) -> bool:
        """Tell whether the value of this name is hidden, wherever it stands."""
        return self._hides_name(name) if len(name) <= 128 else self._judge(name)

    def is_plain_name(self, name: str) -> bool:
        """Tell whether a field of this name can be shown, and the name too."""
        return len(name) <= 128 and self._is_plain_name(name)

    def is_plain_text(self, text: str) -> bool:
        """Tell whether a text surely holds nothing to hide; most do."""
        return not _is_suspect(text)

    def only_shown(self, fields: dict[str, object]) -> dict[str, object]:
        """Hide the values of all names that are not listed to be shown, where there is such a list."""
        if self._shown is None:
            return fields
        return {name: value if _letters(name) in self._shown else REDACTED for name, value in fields.items()}

    def text(self, text: str) -> str:
        """Hide what in a text has the shape of a secret: the time grows with its length, and no faster."""
        return self._scrubbed(text, code=False) if _is_suspect(text) else text

    def stack(self, rows: list[str]) -> str:
        """Put the rows of a traceback together, without secrets; in source lines only literals can be secrets."""
        return "".join(self._scrubbed(row, code=_FRAME.match(row) is not None) for row in rows)

    def readable(self, text: str) -> str:
        """Cut a text to a bounded length, hide what has the shape of a secret, and make it encodable as UTF-8."""
        return self._readable_again(text) if len(text) <= SHORT else self._readable(text)

    def number(self, number: int) -> int | str:
        """Hide a number that is one of a card."""
        return REDACTED if number > 0 and _is_card(str(number)) else number

    def query(self, query: bytes) -> str:
        """Show a query string by its names; values only where allowed, and never those of sensitive names."""
        return self._query(query[:MOST_CHARACTERS].decode("latin-1"))

    def _readable(self, text: str) -> str:
        text = cut(self.text(text[: MOST_CHARACTERS + MARGIN]), MOST_CHARACTERS)
        return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")

    def _judge(self, name: str) -> bool:
        letters = _letters(name)
        return letters in self._names or letters.endswith(self._endings) or any(part in letters for part in self._parts)

    def _scrubbed(self, text: str, *, code: bool) -> str:
        if "://" in text:
            text = _URL.sub(self._shown_url, text)
        text = _ENCODED_URL.sub(rf"\1{REDACTED}\2", text)
        text = _LOGIN.sub(rf"\1{REDACTED}", text)
        if "?" in text:
            text = _QUERY.sub(lambda found: f"?{self._query(found[1])}", text)
        if not code:
            text = _OPTION.sub(self._without_option, text)
        text = "".join(self._without_named(text, code=code))
        text = _SHAPES.sub(REDACTED, _SCHEME.sub(_without_token, text))
        return _DIGITS.sub(lambda found: REDACTED if _is_card(re.sub("[ -]|%20", "", found[0])) else found[0], text)

    def _shown_url(self, found: re.Match[str]) -> str:
        head, mark, tail = _without_login(found[1]).partition("?")
        query, hash_, fragment = tail.partition("#")
        return f"://{head}{mark}{self._query(query)}{hash_}{fragment}"

    def _query(self, query: str) -> str:
        return "&".join(map(self._parameter, query.split("&")))

    def _parameter(self, part: str) -> str:
        name, equals, value = part.partition("=")
        if not equals:
            # A value without a name, unless it is short and a word.
            return part if self._query_values or not part or _FLAG.fullmatch(part) else REDACTED
        if not value:
            return part
        name = _SHAPES.sub(REDACTED, name)
        if self._query_values:
            meant = unquote_plus(name)
            shown = unquote_plus(value)
            if _letters(meant) not in _SENSITIVE_LETTERS and not self.hides(meant) and self.text(shown) == shown:
                return f"{name}={value}"
        return f"{name}={REDACTED}"

    def _without_option(self, found: re.Match[str]) -> str:
        return f"{found[1]}{found[2]}{REDACTED}" if self.hides(found[1]) else found[0]

    def _without_named(self, text: str, *, code: bool) -> Iterator[str]:
        """Hide the values of sensitive names in `name=value`, `name: value`, `"name": "value"` and the like."""
        done = 0
        for found in _NAMED.finditer(text):
            name = found[1]
            if found.end() < done or not (self.hides(name) or self.hides(name.rpartition(".")[2])):
                continue
            bare = code and not _inside_literal(text, found.start())
            begin, end = _value(text, found.end(), whole_row=_letters(name).endswith(_WHOLE_ROW), code=bare)
            value = text[begin:end]
            if end <= max(begin, done) or value.lower() in _HARMLESS or _letters(value) == _letters(name):
                continue
            yield text[done:begin]
            yield REDACTED
            done = end
        yield text[done:]


def _value(text: str, start: int, *, whole_row: bool, code: bool) -> tuple[int, int]:
    """Find where the value that begins here begins and ends, without its quotes; rather too long than too short."""
    quoted = _QUOTED.match(text, start)
    if quoted is not None:
        escape, quote = quoted.groups()
        begin = quoted.end()
        if not escape and quote in _CLOSED:
            return begin, _end(_CLOSED[quote], text, begin)
        end = text.find(escape + quote, begin)
        return begin, len(text) if end < 0 else end
    if code and not text[start : start + 1].isdigit():
        return start, start
    return start, _end(_ROW if whole_row or text[start : start + 1] in "[({" else _WORD, text, start)


def _inside_literal(code: str, position: int) -> bool:
    return any(code.count(quote, 0, position) % 2 for quote in "\"'")


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return start if found is None else found.end()


def _without_login(url: str) -> str:
    head, mark, tail = url.partition("?")
    authority = re.split("[/#]", head, maxsplit=1)[0]
    if "@" in authority:
        return f"{REDACTED}{head[head.rindex('@') :]}{mark}{tail}"
    if "@" in url and not _HOST_AND_PORT.fullmatch(authority):
        # A password with a slash or a question mark in it.
        return REDACTED + url[url.rindex("@") :]
    return url


def _without_token(found: re.Match[str]) -> str:
    scheme, space, token = found.groups()
    # Both are words, too.
    is_word = len(token) <= 16 and token.isalpha() and token.islower()
    secret = _is_login(token) if scheme.lower() == "basic" else not is_word
    return f"{scheme}{space}{REDACTED}" if secret else found[0]


def _is_login(token: str) -> bool:
    try:
        return b":" in b64decode(token + "=" * (-len(token) % 4))
    except ValueError:
        return False


def _is_card(digits: str) -> bool:
    """Tell a card's number by its issuer's and by its check digit."""
    if _CARD.fullmatch(digits) is None:
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0


def _letters(name: str) -> str:
    """Leave of a name what is the same however it is spelt: `api_key`, `api-key`, `apiKey`, `api_key[]`."""
    return "".join(filter(str.isalnum, name.lower()))


def _is_suspect(text: str) -> bool:
    """Tell whether a text has what every secret known here has one of; most have not, and are done with that."""
    # Written out, as a loop or one expression for all takes twice the time.
    return (
        ":" in text
        or "=" in text
        or "yJ" in text
        or "%3" in text
        or "--" in text
        or "'," in text
        or '",' in text
        or "earer" in text
        or "EARER" in text
        or "asic" in text
        or "ASIC" in text
        or _LONG_NUMBER.search(text) is not None
    )


_SENSITIVE_LETTERS = frozenset(map(_letters, SENSITIVE))


def cut(text: str, longest: int) -> str:
    """Cut a text to a number of characters, and mark it as cut."""
    return text if len(text) <= longest else f"{text[:longest]}…"


BUILT_IN = Redaction()
"""By the built-in rules alone."""
readable = BUILT_IN.readable
