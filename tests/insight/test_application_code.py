"""Which lines are the application's, and how they are written."""

import importlib
import json
import sys
from functools import partial
from pathlib import Path
from types import FrameType

import fastapi
import httpx
import pytest
from fastapi import FastAPI

from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.request.route import endpoints_of


def frame_in(file: Path | str, source: str = "frame = sys._getframe()") -> FrameType:
    """Run a line as if it stood in a file, and return its frame."""
    names = {"sys": sys}
    exec(compile(source, str(file), "exec"), names)
    found = names["frame"]
    assert isinstance(found, FrameType)
    return found


def test_a_line_is_written_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file below the working directory has its path from there; of others the end of their path is enough."""
    monkeypatch.chdir(tmp_path)
    code = ApplicationCode()
    assert code.line(frame_in(tmp_path / "shop" / "cart.py")) == "shop/cart.py:1"
    assert code.line(frame_in("/home/somebody/secret-project/app/api/cart.py")) == "app/api/cart.py:1"


@pytest.mark.parametrize("file", [json.__file__, fastapi.__file__, ApplicationCode.__module__, "<string>", "<frozen os>"])
def test_libraries_are_not_the_application(file: str) -> None:
    """Lines of libraries, of the interpreter and of this package are skipped: the line is that of who called them."""
    module = sys.modules.get(file)
    frame = frame_in(file if module is None else str(module.__file__))
    line = ApplicationCode().line(frame)
    assert line is not None
    assert "tests/insight/test_application_code.py" in line


def test_a_library_in_a_folder_of_its_own_is_not_the_application(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that pip has filled has libraries, whatever it is called; the application beside them is known by its routes."""
    (tmp_path / "orm-2.0.dist-info").mkdir()
    (tmp_path / "shop.py").write_text("def endpoint(): pass")
    monkeypatch.syspath_prepend(str(tmp_path))
    code, shop = ApplicationCode(), importlib.import_module("shop")
    code.add_packages_of([shop.endpoint])
    line = code.line(frame_in(tmp_path / "orm" / "query.py"))
    assert line is not None
    assert "test_application_code.py" in line
    assert str(code.line(frame_in(tmp_path / "shop.py"))).endswith(f"{tmp_path.name}/shop.py:1")
    del sys.modules["shop"]


def test_an_installed_package_that_serves_routes_is_the_application() -> None:
    """A service that is installed as a package is named by its lines."""
    code, frame = ApplicationCode(), frame_in(httpx.__file__)
    code.add_packages_of([partial(httpx.get)])
    assert code.line(frame) == "httpx/__init__.py:1"


def test_the_framework_is_never_the_application() -> None:
    """The routes of its documentation, which FastAPI adds to each app, do not make it the application."""
    app = FastAPI()
    code, frame = ApplicationCode(), frame_in(fastapi.__file__)
    code.add_packages_of(endpoints_of(app))
    line = code.line(frame)
    assert line is not None
    assert "fastapi" not in line
