"""The names that users import."""

import inspect
import sys
import types
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest

import sage_fastapi_obs
from sage_fastapi_obs import observability

PUBLIC = sage_fastapi_obs.__all__


def test_all_is_what_is_there() -> None:
    """`__all__` lists every public name, each once; what else is visible are the package's own modules."""
    visible = {
        name
        for name, value in vars(sage_fastapi_obs).items()
        if not name.startswith("_") and (name in PUBLIC or not isinstance(value, types.ModuleType))
    }
    assert visible == set(PUBLIC)
    assert len(set(PUBLIC)) == len(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name: str) -> None:
    """Each name has a docstring of its own, not one that it inherits; an alias stands for something that has."""
    value = getattr(sage_fastapi_obs, name)
    if get_origin(value) is not None or get_args(value):
        sources = [inspect.getsource(module) for key, module in sys.modules.items() if key.startswith("sage_fastapi_obs.")]
        after = [source.partition(f"\n{name} = ")[2].split("\n")[1] for source in sources if f"\n{name} = " in source]
        assert len(after) == 1
        assert after[0].startswith('"""')
    else:
        assert value.__doc__
        assert not any(value.__doc__ == base.__doc__ for base in getattr(value, "__mro__", ())[1:])


def members() -> list[tuple[str, Any]]:
    """List the public methods and properties that our own public classes define."""
    found = []
    for name in PUBLIC:
        owner = getattr(sage_fastapi_obs, name)
        if not isinstance(owner, type):
            continue
        for key, value in vars(owner).items():
            function = getattr(value, "__func__", value)
            if not key.startswith("_") and isinstance(function, types.FunctionType | property):
                found.append((f"{name}.{key}", function))
    return found


@pytest.mark.parametrize(("name", "member"), members(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_public_member_is_documented(name: str, member: Any) -> None:
    """Each public method and property of a public class has a docstring."""
    assert inspect.getdoc(member), name


def test_public_names_are_importable_from_the_package_alone() -> None:
    """A star import gives exactly the public names."""
    space: dict[str, Any] = {}
    exec("from sage_fastapi_obs import *", space)
    assert {name for name in space if name != "__builtins__"} == set(PUBLIC)
    assert space["Observability"] is observability.Observability


def test_the_package_is_typed() -> None:
    """Type checkers may rely on the annotations."""
    assert (Path(inspect.getfile(sage_fastapi_obs)).parent / "py.typed").exists()
