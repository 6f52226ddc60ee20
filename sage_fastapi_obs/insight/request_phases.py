"""How FastAPI divides a request: dependencies, endpoint, serialization; by the functions of its own that do each."""

from types import CodeType, FrameType
from typing import Any

from fastapi import routing
from fastapi.dependencies import utils
from starlette.responses import JSONResponse

DEPENDENCIES = "dependencies"
ENDPOINT = "endpoint"
SERIALIZATION = "serialization"
_FUNCTIONS = (
    (DEPENDENCIES, utils, "solve_dependencies"),
    (ENDPOINT, routing, "run_endpoint_function"),
    (SERIALIZATION, routing, "serialize_response"),
    (SERIALIZATION, JSONResponse, "__init__"),
)
SLOW_NS = 50_000_000
"""A dependency that took less is not named."""
_LONGEST_NAME = 100


def code_of(owner: object, name: str) -> CodeType | None:
    """Return the code of a function; None where this version of the library has none of this name."""
    code = getattr(getattr(owner, name, None), "__code__", None)
    return code if isinstance(code, CodeType) else None


_PHASES = {id(code): (name, code) for name, owner, function in _FUNCTIONS if (code := code_of(owner, function)) is not None}
"""By the address of the code: a hash of code reads all of it."""
PHASE_CODES = tuple(code for _, code in _PHASES.values())
"""The functions whose start and return are the borders of phases."""
BODY_CODE = code_of(utils, "request_body_to_args")
"""Called by `solve_dependencies` once it has called all dependencies."""


def phase_of(code: CodeType) -> str | None:
    """Return the phase that a function of FastAPI's is; None for all other code."""
    found = _PHASES.get(id(code))
    return None if found is None else found[0]


Marks = list[Any]
"""What the interpreter told while a request ran, in pairs: the code of a function and when it started, or the complement
of when it returned; the name of a dependency that took long and its nanoseconds; None and nanoseconds to be left out."""


class RequestPhases:
    """How long each phase took, read from marks.

    Of calls inside each other, the outermost counts. A function that raises does not return: its phase then lasts until the
    answer.
    """

    def __init__(self, marks: Marks, now_ns: int) -> None:
        """`now_ns`: when a phase ends that has not ended."""
        self.spent_ns: dict[str, int] = {}
        self.slow_dependency: str | None = None
        """The name of the dependency that took longest, where it took long."""
        self.slow_dependency_ns = 0
        self._name, self._depth, self._since_ns = "", 0, 0
        for what, number in zip(marks[::2], marks[1::2], strict=True):
            self._read(what, number)
        if self._depth:
            self._add(now_ns)

    def _read(self, what: CodeType | str | None, number: int) -> None:
        if what is None:
            self._since_ns += number
        elif isinstance(what, str):
            self._compare(what, number)
        elif (name := phase_of(what)) is not None and (not self._depth or name == self._name):
            self._enter(name, number) if number >= 0 else self._leave(~number)

    def _enter(self, name: str, at_ns: int) -> None:
        if not self._depth:
            self._name, self._since_ns = name, at_ns
        self._depth += 1

    def _leave(self, at_ns: int) -> None:
        if self._depth:
            self._depth -= 1
            if not self._depth:
                self._add(at_ns)

    def _add(self, at_ns: int) -> None:
        self.spent_ns[self._name] = self.spent_ns.get(self._name, 0) + max(0, at_ns - self._since_ns)

    def _compare(self, dependency: str, took_ns: int) -> None:
        if self._depth and self._name == DEPENDENCIES and took_ns > self.slow_dependency_ns:
            self.slow_dependency, self.slow_dependency_ns = dependency, took_ns


def note_dependency(marks: Marks, now_ns: int, code: CodeType, frame: FrameType, *, returns: bool) -> None:
    """Add the name of the dependency that has run since the last mark, if one has, and long.

    `code` and `frame`: of the function that starts or returns now.
    """
    took_ns = _since_last(marks, now_ns)
    if took_ns >= SLOW_NS and (code is BODY_CODE or phase_of(code) == DEPENDENCIES):
        solving = frame if returns else frame.f_back
        name = _last_dependency(solving, is_next=not returns and code is not BODY_CODE)
        if name is not None:
            marks += (name, took_ns)


def _since_last(marks: Marks, now_ns: int) -> int:
    """Return the time since the last start or return, without what is to be left out."""
    number: int
    for what, number in zip(marks[-2::-2], marks[::-2], strict=True):
        if isinstance(what, CodeType):
            return now_ns - (number if number >= 0 else ~number)
        now_ns -= 0 if isinstance(what, str) else number
    return 0


def _last_dependency(solving: FrameType | None, *, is_next: bool) -> str | None:
    """Return the name of the dependency that a call of `solve_dependencies` called last; None where it called none.

    `is_next`: whether it has gone on to the one after that.
    """
    try:
        variables = {} if solving is None else solving.f_locals
        called = list(variables["dependant"].dependencies)
        if is_next:
            current = variables["sub_dependant"]
            called = called[: next(number for number, one in enumerate(called) if one is current)]
        elif "body_values" in variables:
            # What took long is the validation of the body.
            return None
        call = called[-1].call
        return str(getattr(call, "__qualname__", type(call).__qualname__))[:_LONGEST_NAME]
    except Exception:
        # Another version of FastAPI's, or nothing was called.
        return None
