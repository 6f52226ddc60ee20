"""What names an app, and what is said where there is none."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sage_fastapi_obs.inspection.app_loading import AppNotFoundError, load_app

SHOP = """
from typing import TYPE_CHECKING

from fastapi import FastAPI

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

app = FastAPI()
number = 1

class Holder:
    api = app

def create_app():
    return FastAPI()

async def create_async():
    return FastAPI()

def create_nothing():
    return None

def create_with(settings):
    return FastAPI()

def create_with_default(settings=None):
    return FastAPI()

def create_failing():
    raise ValueError("password=hunter2 is wrong")

def wsgi(environ, start_response):
    return []

async def asgi(scope, receive, send):
    pass

async def typed(scope: Scope, receive: Receive, send: Send) -> None:
    pass

def create_typed() -> Later:
    return FastAPI()

class Later:
    pass
"""
if sys.version_info < (3, 14):
    # Later versions evaluate no annotation that nobody asks for.
    SHOP = f"from __future__ import annotations\n{SHOP}"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[str]:
    """Modules that are forgotten afterwards."""
    before, path = set(sys.modules), sys.path[:]
    (tmp_path / "doctored_shop.py").write_text(SHOP)
    (tmp_path / "doctored_factory.py").write_text("def create_app():\n    pass\n")
    (tmp_path / "doctored_import.py").write_text("import not_installed_at_all")
    (tmp_path / "doctored_raise.py").write_text("raise RuntimeError('no postgres://ada:hunter2@db')")
    (tmp_path / "doctored_exit.py").write_text("raise SystemExit(3)")
    (tmp_path / "doctored_syntax.py").write_text("def")
    yield str(tmp_path)
    sys.path[:] = path
    for name in {*sys.modules} - before:
        if name.startswith("doctored"):
            del sys.modules[name]


@pytest.mark.parametrize(
    ("name", "factory"),
    [
        *(("app", False), ("Holder.api", False), ("asgi", False), ("typed", False)),
        *(("create_app", True), ("create_with_default", True), ("create_typed", True)),
    ],
)
def test_an_app_is_found(folder: str, name: str, factory: bool) -> None:
    """An app, one in a class, a plain function of ASGI, and what a function returns are apps, whatever names their types."""
    assert callable(load_app(f"doctored_shop:{name}", factory=factory, app_dir=folder))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "write module:attribute"),
        ("doctored_shop", "perhaps doctored_shop:app"),
        ("shop/main.py", "perhaps shop.main:app"),
        ("doctored_shop:", "write module:attribute"),
        ("..doctored_shop:app", "is relative"),
        ("doctored_nowhere:app", "there is no module doctored_nowhere in /"),
        ("doctored_shop.part:app", "there is no module doctored_shop.part"),
        ("doctored_import:app", r"importing doctored_import has raised ModuleNotFoundError.*not_installed_at_all.*line 1"),
        ("doctored_raise:app", r"RuntimeError: no postgres://REDACTED@db \(.*doctored_raise.py, line 1\)"),
        ("doctored_exit:app", "SystemExit: 3"),
        ("doctored_syntax:app", "SyntaxError"),
        ("doctored_shop:application", "has no attribute application; there is doctored_shop:app$"),
        ("doctored_factory:app", "has no attribute app; there is doctored_factory:create_app, to be named with --factory$"),
        ("doctored_shop:number", "is a int"),
        ("doctored_shop:create_app", "add --factory"),
        ("doctored_shop:create_with_default", "add --factory"),
        ("doctored_shop:Holder", "is a class"),
        ("doctored_shop:wsgi", "is a WSGI app"),
        ("doctored_shop:create_with", "is no ASGI app"),
        ("doctored_shop:app --factory", "leave out --factory"),
        ("doctored_shop:number --factory", "leave out --factory"),
        ("doctored_shop:create_async --factory", "coroutine function"),
        ("doctored_shop:create_nothing --factory", "what doctored_shop:create_nothing returns is a NoneType"),
        ("doctored_shop:create_with --factory", "wants arguments"),
        ("doctored_shop:create_failing --factory", r"ValueError: password=REDACTED"),
    ],
)
def test_it_is_said_what_to_change(folder: str, name: str, said: str) -> None:
    """Whatever is wrong with the name, or raised by the application, the message says so, and holds no secret."""
    name, _, factory = name.partition(" ")
    with pytest.raises(AppNotFoundError, match=said) as raised:
        load_app(name, factory=bool(factory), app_dir=folder)
    assert "hunter2" not in str(raised.value)
