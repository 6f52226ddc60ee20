"""The names that users import: about thirty at the root, the rest in folders."""

import inspect
import subprocess
import sys
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from support import PATIENCE_SECONDS

import sage_fastapi_obs
from sage_fastapi_obs import observability
from sage_fastapi_obs.moved_names import MOVED

PUBLIC = dict.fromkeys(sage_fastapi_obs.__all__, "sage_fastapi_obs") | MOVED
"""Module by name."""


def test_all_is_what_is_there() -> None:
    """`__all__` lists every public name, each once; what else is visible are the package's own modules."""
    listed = sage_fastapi_obs.__all__
    others = {"Any", "import_module", "warn"}
    visible = {
        name
        for name, value in vars(sage_fastapi_obs).items()
        if not name.startswith("_") and name not in others and (name in listed or not isinstance(value, types.ModuleType))
    }
    assert visible == set(listed)
    assert len(set(listed)) == len(listed)
    assert len(listed) <= 32, "names that few services need are imported from their folders"


def test_every_public_name_is_documented() -> None:
    """Each name has a docstring of its own, not one that it inherits; an alias stands for something that has."""
    for name, module in PUBLIC.items():
        value = getattr(import_module(module), name)
        if get_origin(value) is not None or get_args(value):
            sources = [
                inspect.getsource(module) for key, module in [*sys.modules.items()] if key.startswith("sage_fastapi_obs.")
            ]
            after = [source.partition(f"\n{name} = ")[2].split("\n")[1] for source in sources if f"\n{name} = " in source]
            assert len(after) == 1, name
            assert after[0].startswith('"""'), name
        elif not isinstance(value, str | types.MappingProxyType | dict):
            assert value.__doc__, name
            assert not any(value.__doc__ == base.__doc__ for base in getattr(value, "__mro__", ())[1:]), name


def members() -> Iterator[tuple[str, Any]]:
    """List the public methods and properties that our own public classes define."""
    for name, module in PUBLIC.items():
        owner = getattr(import_module(module), name)
        if isinstance(owner, type):
            for key, value in vars(owner).items():
                function = getattr(value, "__func__", value)
                if not key.startswith("_") and isinstance(function, types.FunctionType | property):
                    yield f"{name}.{key}", function


def test_every_public_member_is_documented() -> None:
    """Each public method and property of a public class has a docstring."""
    assert [name for name, member in members() if not inspect.getdoc(member)] == []


@pytest.mark.parametrize("name", MOVED)
def test_a_name_that_moved_still_works_and_says_where_it_is(name: str) -> None:
    """For one release the root gives it, with a warning that has the new import, which is what the folder gives."""
    with pytest.warns(DeprecationWarning, match=f"use `from {MOVED[name]} import {name}`"):
        old = getattr(sage_fastapi_obs, name)
    space: dict[str, Any] = {}
    exec(f"from {MOVED[name]} import {name}", space)
    assert space[name] is old


def test_the_warning_points_at_the_import() -> None:
    """It is about the line of the application that has to change."""
    code = "# A module.\nfrom sage_fastapi_obs import instrument_redis\n"
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS
    )
    assert "<string>:2: DeprecationWarning: sage_fastapi_obs.instrument_redis goes with the next release" in done.stderr


def test_an_unknown_name_is_an_attribute_error() -> None:
    """As for any module, also for names in folders of packs."""
    for module in ("sage_fastapi_obs", "sage_fastapi_obs.packs.sage", "sage_fastapi_obs.packs.result"):
        with pytest.raises(AttributeError, match="nonsense"):
            _ = import_module(module).nonsense


def test_public_names_are_importable_from_the_package_alone() -> None:
    """A star import gives exactly the public names."""
    space: dict[str, Any] = {}
    exec("from sage_fastapi_obs import *", space)
    assert {name for name in space if name != "__builtins__"} == set(sage_fastapi_obs.__all__)
    assert space["Observability"] is observability.Observability


def test_the_package_is_typed() -> None:
    """Type checkers may rely on the annotations."""
    assert (Path(inspect.getfile(sage_fastapi_obs)).parent / "py.typed").exists()
