"""The files of the page, read as text: types, size, and nothing that reads what others wrote as HTML or code."""

import re
import subprocess
from pathlib import Path

import pytest
from servers import need

import sage_fastapi_obs.endpoints.page as package

STATIC = Path(package.__file__).parent / "static"
FILES = sorted(path for path in STATIC.rglob("*") if path.suffix in {".js", ".css", ".html", ".svg"})
FORBIDDEN = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|createContextualFragment|setHTML|parseFromString|document\.write|srcdoc|"
    r"eval\(|new Function|javascript:|style=|setAttribute\(.style|https?://(?!www\.w3\.org/2000/svg)|@import|\bon\w+=\""
)


def test_types_are_right():
    """The compiler of TypeScript has nothing to say against the types in comments, as strictly as it can."""
    done = subprocess.run(
        [need("tsc", "node-typescript"), "--project", str(Path(__file__).with_name("tsconfig.json"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nothing_is_read_as_html_or_code(path):
    """No file has a way that turns text into elements or code, an inline style or handler, or an address elsewhere."""
    assert FORBIDDEN.findall(path.read_text()) == []


def test_the_front_end_is_small_and_readable():
    """All files together have at most 3,500 lines; no line of a module is longer than people read."""
    lines = {path: path.read_text().splitlines() for path in FILES}
    assert sum(map(len, lines.values())) <= 3_500
    assert [line for path in FILES if path.suffix == ".js" for line in lines[path] if len(line) > 180] == []


def test_every_module_is_served_and_used():
    """Each module is imported by another one, or by the page: nothing is left over."""
    text = "\n".join(path.read_text() for path in FILES)
    assert [path.name for path in FILES if path.suffix == ".js" and f'{path.name}"' not in text] == []
