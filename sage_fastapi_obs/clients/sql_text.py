"""What is recorded of an SQL statement: its text without literals and comments, and a summary in few words."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

_MOST_READ = 16_384
"""Characters of a statement that are read; the rest is dropped."""
MOST_SHOWN = 2_048
_MOST_SUMMARY = 255
"""As the OpenTelemetry conventions cut a summary."""
REMEMBERED = 512
"""Statements that are cached: applications have few, and repeat them."""
LONGEST_REMEMBERED = 4_096

_TOKEN = re.compile(
    r"""
      (?P<space>\s+|--[^\r\n]*)
    | (?P<comment>/\*)
    | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*+(?:'|\Z|\\\Z))
    | (?P<string>(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*+(?:'|\Z))
    | (?P<dollar>\$(?P<tag>(?:[^\W\d]\w*)?)\$(?:.*?\$(?P=tag)\$|.*\Z))
    | (?P<parameter>\$\d+|%s|%\(\w+\)s|(?<![:\w]):[^\W\d]\w*|\?)
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*+(?:"|(?P<open>\Z))|`[^`'"]*`|\[[^\W\d][\w ]*\])
    | (?P<word>[^\W\d][\w$]*)
    | (?P<number>(?:0[xX][\da-fA-F_]+|0[oObB][\d_]+|(?:\d[\d_]*(?:\.(?!\.)[\d_]*)?|\.\d[\d_]*)(?:[eE][+-]?\d+)?)\w*)
    | (?P<sign>.)
    """,
    re.VERBOSE | re.DOTALL,
)
"""The lexical rules of PostgreSQL, which are those of standard SQL but for dollars; what is not closed goes on to the end."""
_COMMENT_MARK = re.compile(r"/\*|\*/")
_LINE_END = re.compile(r"[\r\n]|\Z")
_LIST = re.compile(r"\( ?\?(?: ?, ?\?)+ ?\)")
_SPACES = re.compile(r"  +")
_BOOLEANS = frozenset({"TRUE", "FALSE"})
_OPERATIONS = {"SELECT": "select", "INSERT": "insert", "UPDATE": "update", "DELETE": "delete"}
_VERBS = frozenset({*_OPERATIONS, "MERGE"})
_TARGETS = frozenset(
    {"FROM", "JOIN", "INTO", "UPDATE", "TABLE", "CALL", "EXECUTE", "EXEC", "TRUNCATE", "COPY", "ANALYZE", "VACUUM"}
)
"""Words after which comes the name of a table or a procedure."""
_OF_OBJECTS = frozenset({"CREATE", "ALTER", "DROP"})
"""Commands that say what kind of thing they are about."""
_BETWEEN = frozenset({"ONLY", "IF", "NOT", "EXISTS", "TABLE", "LATERAL", "INTO", "VERBOSE", "FULL"})
"""Words that may stand between a target word and the name."""
_KEYWORDS = frozenset(
    {*_VERBS, *_TARGETS, "CROSS", "FULL", "INNER", "LEFT", "NATURAL", "ON", "RIGHT", "SET", "USING", "VALUES", "WHERE"}
)


class Statement(NamedTuple):
    """What is recorded of a statement."""

    text: str
    """Without comments; `?` stands for every literal, and for a list of them in brackets."""
    summary: str
    """Its commands and the tables they name, in order: `INSERT archive SELECT orders`; empty if there are none."""
    operation: str
    """`select`, `insert`, `update`, `delete`, or `other`."""


def statement(query: str, *, mysql: bool = False) -> Statement:
    """Read a statement; `mysql`: double quotes enclose a string, and `#` begins a comment."""
    return _remembered(query, mysql) if len(query) <= LONGEST_REMEMBERED else _read(query[:_MOST_READ], mysql)


class _Token(NamedTuple):
    kind: str
    text: str
    depth: int
    """Brackets around it, an opening one included."""

    @property
    def word(self) -> str:
        """The word in capitals; empty for anything else."""
        return self.text.upper() if self.kind == "word" else ""

    @property
    def names(self) -> bool:
        """Whether it may be part of a name."""
        return self.kind in ("word", "quoted")


def _read(query: str, mysql: bool) -> Statement:
    tokens = [*_tokens(query, mysql)]
    words = [token for token in tokens if token.kind != "space"]
    return Statement(_text(tokens), _StatementReader(words).text(), _operation(words))


_remembered = lru_cache(maxsize=REMEMBERED)(_read)


def _tokens(query: str, mysql: bool) -> Iterator[_Token]:
    at, depth, end = 0, 0, len(query)
    while at < end:
        found = _TOKEN.match(query, at)
        assert found is not None, "the last alternative takes any character"
        kind, text, at = str(found.lastgroup), found[0], found.end()
        if kind == "comment":
            kind, at = "space", _end_of_comment(query, at)
        elif mysql and text == "#":
            kind, at = "space", _LINE_END.search(query, at).start()  # type: ignore[union-attr]
        elif found["open"] is not None or (mysql and text[0] == '"'):
            kind = "string"
        if kind == "string" and ("\\'" in text or (mysql and '\\"' in text)):
            # Where a server reads backslashes as escapes, this string ends elsewhere, and the rest may be part of it.
            at = end
        depth += text == "("
        yield _Token(kind, text, depth)
        depth -= text == ")"


def _end_of_comment(query: str, at: int) -> int:
    """Find where a comment ends; comments nest."""
    depth = 1
    for mark in _COMMENT_MARK.finditer(query, at):
        depth += 1 if mark[0] == "/*" else -1
        if not depth:
            return mark.end()
    return len(query)


def _text(tokens: list[_Token]) -> str:
    text = _SPACES.sub(" ", "".join(map(_shown_token, tokens))).strip()
    return _LIST.sub("(?)", text)[:MOST_SHOWN]


def _shown_token(token: _Token) -> str:
    if token.kind == "space":
        return " "
    if token.kind in ("parameter", "quoted", "sign") or (token.kind == "word" and token.word not in _BOOLEANS):
        return token.text
    return "?"


def _operation(words: list[_Token]) -> str:
    """Find the command that decides; after `WITH`, the first that is not in brackets."""
    for token in words:
        if token.word in _OPERATIONS and not token.depth:
            return _OPERATIONS[token.word]
        if words[0].word != "WITH":
            break
    return "other"


class _StatementReader:
    """Reads commands and names from the words of a statement."""

    def __init__(self, words: list[_Token]) -> None:
        self._words = words
        self._at = 0
        self._found: list[str] = []
        self._verbs: dict[int, str] = {}
        """The last command at each depth: `FROM` has another meaning in `extract(day FROM x)`."""

    def text(self) -> str:
        """Put together what was found, cut between words."""
        while self._at < len(self._words):
            self._step()
        summary = ""
        for part in self._found:
            if len(summary) + len(part) >= _MOST_SUMMARY:
                break
            summary = f"{summary} {part}" if summary else part
        return summary

    def _step(self) -> None:
        at, token = self._at, self._words[self._at]
        self._at += 1
        if token.text == "(":
            self._verbs[token.depth] = ""
        word = token.word
        first = at == 0 or self._words[at - 1].text == ";"
        if word in _VERBS or (first and word):
            self._found.append(token.text)
            self._verbs[token.depth] = word
        if first and word in _OF_OBJECTS and self._is_word(self._at):
            self._found.append(self._words[self._at].text)
            if self._words[self._at].word == "TABLE":
                self._at += 1
                self._add_names()
        elif word in _TARGETS and (word != "FROM" or self._verbs.get(token.depth) in ("SELECT", "DELETE", "WITH")):
            self._add_names()

    def _add_names(self) -> None:
        """Take the names from here on, with commas between them."""
        while True:
            while self._is_word(self._at) and self._words[self._at].word in _BETWEEN:
                self._at += 1
            name = self._name()
            if not name:
                return
            self._found.append(name)
            after = self._at
            # An alias may stand between a name and the comma.
            while after < len(self._words) and self._words[after].names and self._words[after].word not in _KEYWORDS:
                after += 1
            if after >= len(self._words) or self._words[after].text != ",":
                return
            self._at = after + 1

    def _name(self) -> str:
        """Read a name with its qualifiers: `public.orders`, `"song list"`."""
        words, name = self._words, ""
        while self._at < len(words) and words[self._at].names and (name or words[self._at].word not in _KEYWORDS):
            name += words[self._at].text
            self._at += 1
            if [token.text for token in words[self._at : self._at + 1]] != ["."]:
                break
            name += "."
            self._at += 1
        return name

    def _is_word(self, at: int) -> bool:
        return at < len(self._words) and self._words[at].kind == "word"
