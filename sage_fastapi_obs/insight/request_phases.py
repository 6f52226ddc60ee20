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
_SLOW_NS = 50_000_000
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


class RequestPhases:
    """How long each phase took.

    Of calls inside each other, the outermost counts. A function that raises does not return: its phase then lasts until the
    answer.
    """

    __slots__ = ("_depth", "_last_ns", "_mark_ns", "_name", "_since_ns", "slow_dependency", "slow_dependency_ns", "spent_ns")

    def __init__(self) -> None:
        self.spent_ns: dict[str, int] = {}
        self._depth = self._since_ns = self._mark_ns = self._last_ns = self.slow_dependency_ns = 0
        self._name = ""
        self.slow_dependency: str | None = None
        """The name of the dependency that took longest, where it took long."""

    def enter(self, code: CodeType, now_ns: int) -> bool:
        """Note that a function starts; tell whether something took long before it that may be a dependency."""
        if code is BODY_CODE:
            return self._depth > 0 and self._name is DEPENDENCIES and self._is_long(now_ns)
        name = _PHASES[id(code)][0]
        if not self._depth:
            self._name, self._since_ns, self._depth, self._mark_ns = name, now_ns, 1, now_ns
            return False
        if name is not self._name:
            return False
        self._depth += 1
        return name is DEPENDENCIES and self._is_long(now_ns)

    def leave(self, code: CodeType, now_ns: int) -> bool:
        """Note that it returns; tell the same."""
        name = _PHASES[id(code)][0]
        if name is not self._name or not self._depth:
            return False
        self._depth -= 1
        if not self._depth:
            self.spent_ns[name] = self.spent_ns.get(name, 0) + now_ns - self._since_ns
        return name is DEPENDENCIES and self._is_long(now_ns)

    def _is_long(self, now_ns: int) -> bool:
        self._last_ns, self._mark_ns = now_ns - self._mark_ns, now_ns
        return self._last_ns >= _SLOW_NS and self._last_ns > self.slow_dependency_ns

    def leave_out(self, waited_ns: int) -> None:
        """Count a time that has just passed in no phase."""
        self._since_ns += waited_ns
        self._mark_ns += waited_ns

    def spent_until(self, now_ns: int) -> dict[str, int]:
        """Return the nanoseconds of each phase, those of one that has not ended until now."""
        if not self._depth:
            return self.spent_ns
        return {**self.spent_ns, self._name: self.spent_ns.get(self._name, 0) + max(0, now_ns - self._since_ns)}

    def name_dependency(self, code: CodeType, frame: FrameType, *, returns: bool) -> None:
        """Name what has taken long, after `enter` or `leave` has told so. `frame`: of the function that starts or returns."""
        solving = frame if returns else frame.f_back
        name = None if solving is None else _last_dependency(solving.f_locals, is_next=not returns and code is not BODY_CODE)
        if name is not None:
            self.slow_dependency, self.slow_dependency_ns = name, self._last_ns


def _last_dependency(variables: Any, *, is_next: bool) -> str | None:
    """Return the name of the dependency that `solve_dependencies` called last, by its variables; None where it called none."""
    try:
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
