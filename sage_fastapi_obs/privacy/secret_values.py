"""Where in a text the values are that names announce: in pairs, headers, arguments, forms and markup."""

import re
from collections.abc import Callable

from sage_fastapi_obs.privacy.secret_names import may_have_spaces, takes_whole_row

Extent = Callable[[str, re.Match[str]], tuple[int, int]]
"""Finds where a value begins and ends, without its quotes, rather too long than too short; the first group is its name."""

# Possessive throughout, and started only where a name can start: the time grows with the text, whatever the text.
NAMED = re.compile(
    r"""(?:(?<![\w.%-])|(?<=%[0-9A-Fa-f]{2}))(?:(?<=[\[;])[0-9]{1,3}m(?=\w))?+(-{0,2}\w[\w.-]*+(?:\[[\w.-]{0,64}\])*+)"""
    r"""(?:(?:\\*+["']|%22|&quot;|&#3[49];|\\{1,8}u0022)?+[ \t]*+(?:=>|[=:]|%3[DdAa])[ \t]*+"""
    r"""|\\*+["'],[ \t]*+(?=[bru]?\\*+["']))"""
)
_QUOTE = r"""(?:\\{0,8}["'])?+"""
_PAIR = re.compile(
    rf"""(?<![\w])(?:name|key){_QUOTE}[ \t]{{0,8}}[:=][ \t]{{0,8}}{_QUOTE}([\w.\[\]-]{{1,128}}+){_QUOTE}"""
    rf"""[\s,;]{{1,32}}{_QUOTE}value{_QUOTE}[ \t]{{0,8}}[:=][ \t]{{0,8}}"""
)
"""A name and its value under names of their own, as in lists of headers, of variables and of inputs in a form."""
_CLOSING = "(?<!/)(?:>|&gt;)"
_LABELLED = re.compile(rf"""(?<![\w])name={_QUOTE}([\w.:\[\]-]{{1,128}}+){_QUOTE}[^<>]{{0,128}}{_CLOSING}""")
"""An element that is named by an attribute."""
_BESIDE = re.compile(r"<(?:key|name)>\s{0,16}([\w.:-]{1,128}+)\s{0,16}</(?:key|name)>\s{0,16}(?:<[\w.:-]{1,32}>\s{0,16}){1,2}+")
"""An element that is named by the one before it."""
_ELEMENT = re.compile(r"(?:<|&lt;)(?:[\w-]{1,64}+:)?+([\w.-]++)(?:\s[^<>]{0,128})?" + _CLOSING)
_CONTENT = re.compile(r"<!\[CDATA\[.*?(?:\]\]>|\Z)|(?:[^<&]|&(?!lt;))*+(?=</|&lt;/)|[^<&\r\n]*+", re.DOTALL)
_PART = re.compile(r"""form-data;(?:[^\r\n;]{0,128};){0,3}?[ \t]{0,8}name=(?:\\{0,8}["'])?([^"'\\;\r\n]{1,128}+)""")
_NEW_LINE = r"(?:\r?\n|(?:\\{1,8}r)?\\{1,8}n)"
_BLANK_LINE = re.compile(_NEW_LINE + "{2}")
_BOUNDARY = re.compile(_NEW_LINE + "--")
_LONGEST_HEAD = 512
_OPTION = re.compile(r"(?<![\w-])(--[A-Za-z][\w-]*+)[ \t]++(?=[^\s-])")
_ARGUMENT = re.compile(r"""(["'])(?:(?!\1).)*+\1|\S++""")
_QUOTED = re.compile(r"""[bBrRuUfF]{0,2}(\\*+)(["']{3}|["'])""")
_CLOSED = {"'": re.compile(r"(?:[^'\\]|\\.)*+", re.DOTALL), '"': re.compile(r'(?:[^"\\]|\\.)*+', re.DOTALL)}
_KEY = re.compile(r"""\\{0,8}["'][ \t]{0,8}:""")
_BLOCK = re.compile(r"[|>][+-]?[ \t]*+(?:\r?\n[ \t]++[^\r\n]*+)++")
"""A text of several rows in YAML."""
_ROW = re.compile(r"[^\r\n]*+")
_PARAMETER = r"[\w.\[\]-]{1,64}+(?:=|%3[Dd])"
_BARE = rf"""(?:(?!%26{_PARAMETER})[^\s&"']|&(?!{_PARAMETER})|["'](?=\w))++"""
_WORD = re.compile(rf"(?:(?:bearer|basic|digest|token|negotiate)[ \t]++)?{_BARE}", re.IGNORECASE)
_WORDS = re.compile(rf"""{_BARE}(?:[ \t]++(?!["']?[\w.-]{{1,64}}+["']?[ \t]{{0,4}}[=:]){_BARE})*+""")
"""Up to the next pair, or to the end of the row."""


def extent_of_value(text: str, found: re.Match[str]) -> tuple[int, int]:
    """Find a value that is in quotes, or goes on to the end of the row, of its words, or of a block in YAML."""
    start = found.end()
    quoted = _QUOTED.match(text, start)
    if quoted is not None:
        begin, end = quoted.end(), _end_of_quoted(text, quoted)
        is_key = found[0].rstrip().endswith(",") and _KEY.match(text, end)
        return (start, start) if is_key else (begin, end)
    if text[start : start + 1] in "|>" and (block := _BLOCK.match(text, start)):
        return start, block.end()
    name = found[1]
    if takes_whole_row(name) or text[start : start + 1] in "[({":
        return start, _end(_ROW, text, start)
    return start, _end(_WORDS if may_have_spaces(name) and not name.startswith("-") else _WORD, text, start)


def _end_of_quoted(text: str, quoted: re.Match[str]) -> int:
    escape, quote = quoted.groups()
    if not escape and quote in _CLOSED:
        return _end(_CLOSED[quote], text, quoted.end())
    end = text.find(escape + quote, quoted.end())
    return len(text) if end < 0 else end


def extent_of_literal(code: str, found: re.Match[str]) -> tuple[int, int]:
    """Find a value in source code: only literals, and what is inside them, are values."""
    start = found.end()
    is_inside = any(code.count(quote, 0, found.start()) % 2 for quote in "\"'")
    if is_inside or code[start : start + 1].isdigit() or _QUOTED.match(code, start):
        return extent_of_value(code, found)
    return start, start


def _argument(text: str, found: re.Match[str]) -> tuple[int, int]:
    return found.end(), _end(_ARGUMENT, text, found.end())


def _content(text: str, found: re.Match[str]) -> tuple[int, int]:
    return found.end(), _end(_CONTENT, text, found.end())


def _part(text: str, found: re.Match[str]) -> tuple[int, int]:
    """Find the value of a field in a multipart form: behind its blank line, before the next boundary."""
    blank = _BLANK_LINE.search(text, found.end(), found.end() + _LONGEST_HEAD)
    if blank is None:
        return found.end(), found.end()
    boundary = _BOUNDARY.search(text, blank.end())
    return blank.end(), len(text) if boundary is None else boundary.start()


def _end(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return start if found is None else found.end()


WITH_SIGNS: tuple[tuple[str, re.Pattern[str], Extent], ...] = (
    ("--", _OPTION, _argument),
    ("value", _PAIR, extent_of_value),
    ("name=", _LABELLED, _content),
    ("</", _BESIDE, _content),
    ("</", _ELEMENT, _content),
    ("&lt;", _ELEMENT, _content),
    ("form-data", _PART, _part),
)
"""What announces values, and is only looked for in texts that have a sign of it."""
