"""Which code is the application's, and how a line of it is written: `app/report.py:14`."""

import sys
import sysconfig
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from types import CodeType, FrameType

from sage_fastapi_obs.insight.thread_frames import outward

_OWN = str(Path(__file__).parents[1])
_STANDARD = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})
_INSTALLED = ("/site-packages/", "/dist-packages/")
_FRAMEWORKS = {"fastapi", "starlette", (__package__ or "").partition(".")[0]}
_MOST_FILES = 4096
_SHOWN_PARTS = 3
"""Of the path of a file that is not below the working directory."""


class ApplicationCode:
    """Tells by its file whose code is: libraries, the interpreter and this package are not the application.

    Packages that serve routes are, also where they are installed as libraries are.
    """

    def __init__(self) -> None:
        self._roots: set[str] = set()
        self._known: dict[str, str | None] = {}
        """How each file is shown; None for one that is not the application's."""
        self._folder = str(Path.cwd()) + "/"
        self._libraries = (*_STANDARD, *_folders_of_libraries())

    def add_packages_of(self, endpoints: Iterable[object]) -> None:
        """Count the packages of endpoints to the application, wherever they are."""
        for endpoint in endpoints:
            name, dot, _ = _module_of(endpoint).partition(".")
            file = getattr(sys.modules.get(name), "__file__", None)
            # Routes that the framework has added itself, such as that of its documentation, are not the application's.
            if file and name not in _FRAMEWORKS:
                self._roots.add(str(Path(file).parent) + "/" if dot or Path(file).name == "__init__.py" else file)
        self._known.clear()

    def place(self, code: CodeType, line: int | None) -> str | None:
        """Return how a line of code is written; None if it is not the application's."""
        shown = self._shown(code.co_filename)
        return None if shown is None else f"{shown}:{line or code.co_firstlineno}"

    def file(self, code: CodeType) -> str:
        """Return how the file of any code is written."""
        return self._name(code.co_filename)

    def line(self, frame: FrameType | None) -> str | None:
        """Return the innermost line of the application in a stack; None where there is none."""
        return self.innermost(outward(frame))

    def innermost(self, frames: Iterable[FrameType]) -> str | None:
        """Return the first line of the application, of frames whose innermost is the first."""
        places = (self.place(frame.f_code, frame.f_lineno) for frame in frames)
        return next((place for place in places if place is not None), None)

    def _shown(self, file: str) -> str | None:
        try:
            return self._known[file]
        except KeyError:
            shown = self._name(file) if self._is_application(file) else None
            if len(self._known) < _MOST_FILES:
                self._known[file] = shown
            return shown

    def _is_application(self, file: str) -> bool:
        if file.startswith(("<", _OWN + "/")):
            return False
        if any(file.startswith(root) for root in self._roots):
            return True
        return not file.startswith(self._libraries) and not any(part in file for part in _INSTALLED)

    def _name(self, file: str) -> str:
        """Name a file from the working directory, or by the end of its path: where people keep their files is theirs."""
        for part in (*_INSTALLED, self._folder):
            if part in file:
                return file.rpartition(part)[2]
        return "/".join(Path(file).parts[-_SHOWN_PARTS:]).lstrip("/")


def _module_of(endpoint: object) -> str:
    while isinstance(endpoint, partial):
        endpoint = endpoint.func
    return str(getattr(endpoint, "__module__", ""))


def _folders_of_libraries() -> list[str]:
    """Return folders that `pip install --target` has filled: the only sign is what it notes of each library."""
    folders = (Path(entry) for entry in sys.path if entry)
    return [f"{folder}/" for folder in folders if next(folder.glob("*.dist-info"), None) is not None]
