"""What a query tells before it is parsed."""

import re

MOST_CHARACTERS = 20_000
"""Of a query that is read."""
STRING = re.compile(r'"(?:\\.|[^"\\])*"|\'(?:\\.|[^\'\\])*\'|`[^`]*`', re.DOTALL)
"""A text in quotes, of PromQL and of LogQL."""
_PIPE = re.compile(r"\}\s*\|")


def without_texts(query: str) -> str:
    """Leave out what stands in quotes."""
    return STRING.sub('""', query)


def is_logql(query: str) -> bool:
    """Tell the only language with pipes behind its selectors."""
    return bool(_PIPE.search(without_texts(query)))
