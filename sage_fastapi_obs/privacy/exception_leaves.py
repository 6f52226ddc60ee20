"""What is in a group of exceptions, however deep it is, and in however many places."""

from collections.abc import Iterator


def exception_leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group and in the groups in it, each once; one that is no group is its own leaf."""
    found = [error]
    seen = {id(error)}
    for one in found:
        # By type: `isinstance` asks an exception for its class, and that may fail.
        if not issubclass(type(one), BaseExceptionGroup):
            yield one
            continue
        for member in one.exceptions:  # type: ignore[attr-defined]
            if id(member) not in seen:
                seen.add(id(member))
                found.append(member)
