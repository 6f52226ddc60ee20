"""Why a request was slow, was refused or failed: the words, and what to do about each."""

from typing import Literal, NamedTuple, get_args

Cause = Literal[
    "blocked_loop",
    "busy_threads",
    "garbage_collection",
    "thread_wait",
    "connection_wait",
    "repeated_query",
    "database",
    "call",
    "waiting",
    "dependencies",
    "serialization",
    "delayed",
    "exception",
    "validation",
    "response_validation",
    "refused",
    "unknown",
]
ALL_CAUSES: tuple[Cause, ...] = get_args(Cause)


"""What cost a request its time, or why it was refused or failed.

`busy_threads`: other threads kept the interpreter busy. `call`: something outside the process took long. `waiting`: at a
line of the application, for something that is not watched, or in a thread, which may have computed there. `delayed`: other
code blocked the event loop meanwhile.
`unknown`: nothing that is watched took long.
"""


class CauseKind(NamedTuple):
    """What is known of a cause, whichever request has it."""

    remedy: str
    """One clause: what to do."""
    is_problem: bool = False
    """Whether a request that it cost much time is told of, also where the request is no slower than others of its route."""
    is_others: bool = False
    """Whether other requests are to blame: named after what the request did itself."""
    is_elapsed: bool = False
    """Whether it is measured by the clock, so that it includes what others took meanwhile: told less that."""
    is_general: bool = False
    """Whether it names a part of the request in which others may have taken the time: told only of what they leave of it."""
    is_reason: bool = False
    """Whether it says why a request failed or was refused, and not where time went."""


CAUSES: dict[Cause, CauseKind] = {
    "blocked_loop": CauseKind("move the work to a `def` endpoint or `asyncio.to_thread`", is_problem=True),
    "busy_threads": CauseKind("move work for the processor to another process", is_problem=True),
    "garbage_collection": CauseKind("make fewer objects, or call `gc.freeze()` at the start", is_problem=True),
    "thread_wait": CauseKind("make the slow endpoint `async`, or raise the limit of threads", is_problem=True, is_elapsed=True),
    "connection_wait": CauseKind("give connections back earlier, or have more of them", is_problem=True, is_elapsed=True),
    "repeated_query": CauseKind("load the rows with one query, as by a join or `IN`", is_problem=True, is_elapsed=True),
    "database": CauseKind("look at the plan of the query, and at its indexes", is_elapsed=True),
    "call": CauseKind("set a shorter timeout, ask in parallel, or remember the answer", is_elapsed=True),
    "waiting": CauseKind("see what that line does, or waits for; watch it with a client or an `operation`", is_general=True),
    "dependencies": CauseKind("remember what the dependency computes, or do it later", is_general=True),
    "serialization": CauseKind("return less, or a `Response` that is encoded already", is_elapsed=True),
    "delayed": CauseKind("mend the request that blocked the event loop", is_problem=True, is_others=True),
    "exception": CauseKind("see the stack in the line of the request", is_reason=True),
    "validation": CauseKind("send what the schema of the route wants", is_reason=True),
    "response_validation": CauseKind("return what the response model of the route says", is_reason=True),
    "refused": CauseKind("see the line of the application that refused it", is_reason=True),
    "unknown": CauseKind("watch its parts with an `operation`"),
}


def docs_anchor(cause: Cause) -> str:
    """Return where the documentation explains a cause, as `why.md#blocked-loop`."""
    return f"why.md#{cause.replace('_', '-')}"
