"""Finds the app that `module:attribute` names, and says what is wrong where there is none."""

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from starlette.types import ASGIApp

from sage_fastapi_obs.errors import ObservabilityError
from sage_fastapi_obs.privacy.redaction import BUILT_IN
from sage_fastapi_obs.signatures import signature_of

_EXAMPLE = "write module:attribute, such as shop.main:app"
_FACTORIES = ("create_app", "make_app", "build_app", "get_app")


class AppNotFoundError(ObservabilityError, ValueError):
    """There is no app of this name; the message says what to change."""


def load_app(name: str, *, factory: bool = False, app_dir: str = ".") -> ASGIApp:
    """Import a module and return the app in it, or what a factory in it returns.

    `name`: `module:attribute`. `app_dir`: folder that the module is looked for in, before all others. Raises
    `AppNotFoundError`, also for what the module itself raises.
    """
    module_name, colon, attribute = name.partition(":")
    if module_name.startswith("."):
        raise AppNotFoundError(f"{module_name!r} is relative to another module: {_EXAMPLE}")
    if not (colon and module_name and attribute):
        path = Path(module_name)
        as_module = ".".join(path.with_suffix("").parts) if path.suffix == ".py" or len(path.parts) > 1 else module_name
        raise AppNotFoundError(f"{name!r} names no app: {_EXAMPLE}" + (f"; perhaps {as_module}:app" if as_module else ""))
    sys.path.insert(0, str(Path(app_dir).resolve()))
    found = _attribute(_module(module_name, app_dir), attribute)
    return _checked(_made(found, name) if factory else found, name, factory=factory)


def _module(name: str, app_dir: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            where = Path(app_dir).resolve()
            raise AppNotFoundError(
                f"there is no module {error.name} in {where}, nor among the installed ones: name another folder by --app-dir"
            ) from None
        raise AppNotFoundError(failure(f"importing {name}", error)) from None
    except (Exception, SystemExit) as error:
        raise AppNotFoundError(failure(f"importing {name}", error)) from None


def _attribute(module: ModuleType, attribute: str) -> Any:
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise AppNotFoundError(f"{module.__name__} has no attribute {attribute}{_others_of(module)}") from None
    return found


def _others_of(module: ModuleType) -> str:
    """Say what else could be named."""
    if apps := [f"{module.__name__}:{name}" for name in _apps_in(module)]:
        return f"; there is {', '.join(apps)}"
    made = [name for name in _FACTORIES if inspect.isfunction(getattr(module, name, None))]
    return f"; there is {module.__name__}:{made[0]}, to be named with --factory" if made else ""


def _apps_in(module: ModuleType) -> Iterator[str]:
    for name, value in vars(module).items():
        if not name.startswith("_") and not inspect.isroutine(value) and not isinstance(value, type) and _is_asgi(value):
            yield name


def _made(found: Any, name: str) -> Any:
    if not callable(found):
        raise AppNotFoundError(f"{name} is a {type(found).__name__} and no function: leave out --factory")
    if _is_app(found):
        raise AppNotFoundError(f"{name} is an app and no function that makes one: leave out --factory")
    if not _can_be_called(found, 0):
        raise AppNotFoundError(f"{name} wants arguments: name a function without any by --factory")
    try:
        made = found()
    except (Exception, SystemExit) as error:
        raise AppNotFoundError(failure(f"calling {name}", error)) from None
    if inspect.iscoroutine(made):
        made.close()
        raise AppNotFoundError(f"{name} is a coroutine function: name a plain function that returns the app")
    return made


def _checked(app: Any, name: str, *, factory: bool) -> ASGIApp:
    if _is_app(app):
        checked: ASGIApp = app
        return checked
    what = f"what {name} returns" if factory else name
    if not callable(app):
        raise AppNotFoundError(f"{what} is a {type(app).__name__}, which no server could call: {_EXAMPLE}")
    if not factory and inspect.isroutine(app) and _can_be_called(app, 0):
        raise AppNotFoundError(f"{what} is a function that makes an app: add --factory")
    if isinstance(app, type):
        raise AppNotFoundError(f"{what} is a class: name an instance of it")
    if _can_be_called(app, 2):
        raise AppNotFoundError(f"{what} is a WSGI app: wrap it, as by a2wsgi.WSGIMiddleware, and name what you get")
    raise AppNotFoundError(f"{what} is no ASGI app: it cannot be called with scope, receive and send")


def _is_app(value: Any) -> bool:
    """Tell whether something is an ASGI app and not a function with optional parameters that makes one."""
    return not isinstance(value, type) and _is_asgi(value) and not (inspect.isroutine(value) and _can_be_called(value, 0))


def _is_asgi(value: Any) -> bool:
    return callable(value) and _can_be_called(value, 3)


def _can_be_called(value: Any, arguments: int) -> bool:
    try:
        signature_of(value).bind(*(None,) * arguments)
    except (TypeError, ValueError):
        return False
    return True


def failure(doing: str, error: BaseException) -> str:
    """Say what was raised, and where in the application's code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<frozen")]
    last = next((frame for frame in reversed(frames) if "site-packages" not in frame.filename), frames[-1])
    # In one row: some have several.
    text = " ".join(BUILT_IN.readable(BUILT_IN.error_text(str(error))).split())
    name = type(error).__name__ + (f": {text}" if text else "")
    return f"{doing} has raised {name} ({last.filename}, line {last.lineno})"
