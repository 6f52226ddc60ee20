"""The queries of runbooks, and the names in their text."""

import re
from collections.abc import Iterator

from sage_fastapi_obs.contract.telemetry_contract import LANGUAGES, Use

_FENCE = re.compile(r"^[ ]*(```+|~~~+)[ ]*(\w*)[^\n]*\n(.*?)(?:^[ ]*\1[ ]*$|\Z)", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"`([\w.@-]{1,80})`")
_OTHER_NAMES = {"kql": "lucene", "kuery": "lucene", "prometheus": "promql"}
_NAME = re.compile(r"\b[A-Za-z]\w*(?:[a-z][A-Z]|[_:.]\w)[\w:.]*\b")
_FIELD = re.compile(r"[.\"'](\w[\w.]*)")


def runbook_uses(text: str, name: str, file: str = "") -> Iterator[Use]:
    """Yield the queries in fences of their language, separated by empty lines, and the names in the text."""
    shown: set[str] = set()
    for _, tag, body in _FENCE.findall(text):
        language = _OTHER_NAMES.get(tag, tag)
        if language in LANGUAGES:
            for query in filter(None, map(str.strip, re.split(r"\n\s*\n", body))):
                yield Use("runbook", name, language, query, file=file)
        else:
            # A shell command or a program: fields are `.field` or in quotes there.
            shown |= {*_FIELD.findall(body)}
    prose = _FENCE.sub("", text)
    # Names of metrics, attributes and rules are words that no sentence has.
    names = " ".join(sorted({*_NAME.findall(text)}))
    yield Use("runbook", name, "words", names, shown=tuple(sorted(shown | {*_CODE.findall(prose)})), file=file)
