"""What may be shown: which names hide their values, and what in a text has the shape of a secret."""

import re
from base64 import b64decode
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import unquote_plus

from sage_fastapi_obs.privacy import secret_names
from sage_fastapi_obs.privacy.secret_names import letters
from sage_fastapi_obs.privacy.secret_shapes import JWT, KEYS, PRIVATE_KEY, QUOTED
from sage_fastapi_obs.privacy.secret_values import NAMED, WITH_SIGNS, Extent, extent_of_literal, extent_of_value
from sage_fastapi_obs.settings import LoggingSettings

REDACTED = "REDACTED"
MOST_CHARACTERS = 2048
MARGIN = 1024
"""Read beyond a cut, so that a secret which the cut goes through is still known as one."""
_SHORT = 256
"""Texts up to this length are worth remembering."""
_LONGEST_SOURCE = 1_000
"""A longer row of source is redacted as a text, without separating literals from code."""
_LONGEST_WORD = 12
"""Every secret known here that has only letters and digits is longer."""
_LONGEST_PARAMETER = 64
"""Longer names of parameters are seldom the same."""
_HARMLESS = frozenset({"none", "null", "true", "false"})
_LONGEST_HARMLESS = 128

_URL = re.compile(r"""://([^\s"'<>]+)""")
_HOST_AND_PORT = re.compile(r"(?:\[[^\]]*\]|[^:]*)(?::\d*)?")
_ENCODED_URL = re.compile(r"""(%3A%2F%2F)[^\s"'&]{1,256}(%40)""", re.IGNORECASE)
_LOGIN = re.compile(r"""(?<![\w/.%+-])([\w.%+-]++:)[^\s:@/"']++(?=@)""")
_QUERY = re.compile(r"""\?(?=[^\s"'<>?#=]*+=)([^\s"'<>#]*+)""")
_SCHEME = re.compile(r"\b([Bb]earer|BEARER|[Bb]asic|BASIC)((?:\s|%20|\+|:)+)([\w.~+/=%-]+)")
_DIGITS = re.compile(
    r"[0-9](?<![A-Fa-f0-9.][0-9])"
    r"(?:[0-9]{12,18}|[0-9]{3}([ -]|%20)(?:[0-9]{4}\1[0-9]{4}\1[0-9]{1,7}|[0-9]{6}\1[0-9]{4,5}))(?![A-Fa-f0-9]|\.[0-9])"
)
_SEPARATORS = re.compile("[ -]|%20")
_CARD = re.compile(
    r"4\d{12}(?:\d{3}){0,2}|5[1-5]\d{14}|2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12}|3[47]\d{13}"
    r"|3(?:0[0-59]|[689]\d)\d{11}|35(?:2[89]|[3-8]\d)\d{12}|6(?:011|4[4-9]\d|5\d\d)\d{12}|62\d{14,17}"
)
"""The numbers that issuers of cards use; without them one id in ten would pass for a card."""
_FLAG = re.compile(r"[A-Za-z][A-Za-z_.-]{0,31}")
_UNDERLINED_KEY = re.compile("_[A-Za-z0-9]{10}")
_HYPHENED_KEY = re.compile("gl[a-z]{2,3}-|xox[a-z]-|xapp-|sk-|pypi-A")


def _kind(byte: int) -> int:
    """Return a letter for all of its kind: capitals, small letters, digits, what announces values, what stands around data."""
    character = chr(byte)
    if byte < 128 and character.isalnum():
        return ord("0" if character.isdigit() else "A" if character.isupper() else "a")
    return ord(":" if character in ":=<&~%" else "," if character in "'\"(," else character)


_KINDS = bytes(map(_kind, range(256)))


class Redaction:
    """Decides what of names and texts may be shown; one serves all signals."""

    def __init__(self, settings: LoggingSettings | None = None, *, query_values: bool = False) -> None:
        """Build from the settings; `query_values`: show the values of query parameters that are not sensitive."""
        settings = LoggingSettings() if settings is None else settings
        self._listed = frozenset(map(letters, settings.redact)) - {""}
        self._builtin = settings.redact_builtin
        self._show_only = None if settings.show_only is None else frozenset(map(letters, settings.show_only))
        self._query_values = query_values
        # Names are few and come again with every line.
        self._hides_name = lru_cache(maxsize=4096)(self._judge)
        # A path is asked for by the span and again by the line, and most by many requests.
        self._readable_again = lru_cache(maxsize=1024)(self._readable)
        # What fails, fails in the same places.
        self._frame_again = lru_cache(maxsize=1024)(lambda row: self._scrubbed(row, code=True))
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

    def only_listed(self, fields: dict[str, object]) -> dict[str, object]:
        """Hide the values of all names that are not listed to be shown, where there is such a list."""
        if self._show_only is None:
            return fields
        return {name: value if letters(name) in self._show_only else REDACTED for name, value in fields.items()}

    def text(self, text: str) -> str:
        """Hide what in a text has the shape of a secret: the time grows with its length, and no faster."""
        return self._scrubbed(text) if _is_suspect(text) else text

    def error_text(self, text: str) -> str:
        """Hide in the text of an exception also the data that it announces: `invalid value: …`, `input=…`."""
        return self._scrubbed(text, error=True) if _is_suspect(text) else text

    def frame(self, row: str) -> str:
        """Hide secrets in a row of a traceback that has source lines: only literals in them can be secrets."""
        return self._frame_again(row) if len(row) <= _LONGEST_SOURCE else self._scrubbed(row)

    def readable(self, text: str) -> str:
        """Cut a text to a bounded length, hide what has the shape of a secret, and make it encodable as UTF-8."""
        return self._readable_again(text) if len(text) <= _SHORT else self._readable(text)

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
        return letters(name) in self._listed or (self._builtin and secret_names.is_secret(name))

    def _scrubbed(self, text: str, *, code: bool = False, error: bool = False) -> str:
        if "-----" in text:
            text = PRIVATE_KEY.sub(REDACTED, text)
        if "://" in text:
            text = _URL.sub(self._redacted_url, text)
        if "%" in text:
            text = _ENCODED_URL.sub(rf"\1{REDACTED}\2", text)
        if "@" in text:
            text = _LOGIN.sub(rf"\1{REDACTED}", text)
        if "?" in text:
            text = _QUERY.sub(lambda found: f"?{self._query(found[1])}", text)
        text = self._hidden(text, NAMED, extent_of_literal) if code else self._without_named(text, error=error)
        text = JWT.sub(_without_token, _SCHEME.sub(_without_credentials, text))
        return _DIGITS.sub(_without_card, KEYS.sub(REDACTED, text))

    def _redacted_url(self, found: re.Match[str]) -> str:
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
        name = _parameter_name_again(name) if len(name) <= _LONGEST_PARAMETER else _parameter_name(name)
        if self._query_values:
            plain_name, plain_value = unquote_plus(name), unquote_plus(value)
            if not self._hides_parameter(plain_name) and self.text(plain_value) == plain_value:
                return f"{name}={value}"
        return f"{name}={REDACTED}"

    def _hides_parameter(self, name: str) -> bool:
        return letters(name) in secret_names.PARAMETERS or secret_names.is_secret(name) or self.hides(name)

    def _without_named(self, text: str, *, error: bool) -> str:
        """Hide what names announce: in arguments, pairs, XML, forms, and `name=value`, `name: value` and the like."""
        for sign, announced, extent in WITH_SIGNS:
            if sign in text:
                text = self._hidden(text, announced, extent)
        text = QUOTED.sub(_without_data, text)
        return self._hidden(text, NAMED, extent_of_value, secret_names.QUOTING if error else frozenset())

    def _hidden(self, text: str, announced: re.Pattern[str], extent: Extent, more: frozenset[str] = frozenset()) -> str:
        return "".join(self._pieces(text, announced, extent, more))

    def _pieces(self, text: str, announced: re.Pattern[str], extent: Extent, more: frozenset[str]) -> Iterator[str]:
        done = 0
        for found in announced.finditer(text):
            name = found[1]
            if found.end() < done or not (self._hides_announced(found) or letters(name) in more):
                continue
            begin, end = extent(text, found)
            if end <= max(begin, done) or _says_nothing(text, begin, end, name):
                continue
            yield text[done:begin]
            yield REDACTED
            done = end
        yield text[done:]

    def _hides_announced(self, found: re.Match[str]) -> bool:
        name = found[1]
        if self.hides(name) or ("." in name and self.hides(name.rpartition(".")[2])):
            return True
        # The first letter may belong to a line break that is written as two characters.
        return found.string[found.start(1) - 1 : found.start(1)] == "\\" and self.hides(name[1:])


def _parameter_name(name: str) -> str:
    return KEYS.sub(REDACTED, JWT.sub(_without_token, name))


_parameter_name_again = lru_cache(maxsize=4096)(_parameter_name)
"""The parameters of a service's queries are few."""


def _says_nothing(text: str, begin: int, end: int, name: str) -> bool:
    """Tell whether a value is no secret: nothing, or once more its name."""
    if end - begin > _LONGEST_HARMLESS:
        return False
    value = text[begin:end]
    return value.lower().rstrip(",;)]}") in _HARMLESS or letters(value) == letters(name)


def _without_login(url: str) -> str:
    head, mark, tail = url.partition("?")
    authority = re.split("[/#]", head, maxsplit=1)[0]
    if "@" in authority:
        return f"{REDACTED}{head[head.rindex('@') :]}{mark}{tail}"
    if "@" in url and not _HOST_AND_PORT.fullmatch(authority):
        # A password with a slash or a question mark in it.
        return REDACTED + url[url.rindex("@") :]
    return url


def _without_credentials(found: re.Match[str]) -> str:
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


def _without_token(found: re.Match[str]) -> str:
    return found[0] if found[1] is None else REDACTED


def _without_data(found: re.Match[str]) -> str:
    begin = found.start(found.lastindex or 0)
    return f"{found.string[found.start() : begin]}{REDACTED}"


def _without_card(found: re.Match[str]) -> str:
    return REDACTED if _is_card(_SEPARATORS.sub("", found[0])) else found[0]


def _has_card(text: str) -> bool:
    return any(_is_card(_SEPARATORS.sub("", found[0])) for found in _DIGITS.finditer(text))


def _is_card(digits: str) -> bool:
    """Tell a card's number by its issuer's and by its check digit."""
    if _CARD.fullmatch(digits) is None:
        return False
    doubled = (sum(divmod(2 * int(digit), 10)) for digit in digits[-2::-2])
    return (sum(doubled) + sum(map(int, digits[-1::-2]))) % 10 == 0


def _is_suspect(text: str) -> bool:
    """Tell whether a text has what every secret known here has one of; most have not, and are done with that."""
    if len(text) <= _LONGEST_WORD and text.isalnum():
        return False
    # Written out, as a loop or one expression for all takes twice the time. A kind of character is looked for first where many
    # signs have it.
    kinds = text.encode("utf-8", "surrogatepass").translate(_KINDS).decode("latin-1")
    return (
        ":" in kinds
        or "--" in kinds
        or "yJ" in text
        or "earer" in text
        or "asic" in text
        or "dapi" in text
        or "hooks" in text
        or "AIz" in text
        or ("AAAA" in kinds and _has_capitals_of_secret(text))
        or ("," in kinds and _has_punctuation_of_data(text))
        or ("_" in kinds and (_UNDERLINED_KEY.search(text) is not None or "whsec_" in text or "_pat_" in text))
        or ("." in kinds and ("SG." in text or "ya29." in text or "hvs." in text or "hvb." in text))
        or ("-" in kinds and _HYPHENED_KEY.search(text) is not None)
        or (("0" * 13 in kinds or "0000-0000" in kinds or "0000 0000" in kinds) and _has_card(text))
    )


def _has_capitals_of_secret(text: str) -> bool:
    return (
        "EARER" in text
        or "ASIC" in text
        or "IA" in text
        or "ACCA" in text
        or "ABSK" in text
        or "GOCSPX-" in text
        or "PMAK-" in text
        or "AGE-S" in text
    )


def _has_punctuation_of_data(text: str) -> bool:
    return (
        "'," in text or '",' in text or "alue" in text or "entry '" in text or "row contains" in text or "tion failed, " in text
    )


def cut(text: str, longest: int) -> str:
    """Cut a text to a number of characters, and mark it as cut."""
    return text if len(text) <= longest else f"{text[:longest]}…"


BUILT_IN = Redaction()
"""By the built-in rules alone."""
readable = BUILT_IN.readable
