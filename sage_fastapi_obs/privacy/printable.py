"""Names that may come from anywhere: of operations and spans, and the values of labels."""

LONGEST = 128
"""Characters of a name, the mark of a cut included."""


def printable(value: object) -> str:
    """Return a name unchanged if it is short and printable, as nearly all are; else a short printable form of it.

    White space becomes a space, what else cannot be printed `�`, and what is cut ends in `…`. The time does not grow with
    what is cut off.
    """
    name = value if type(value) is str else str(value)
    if len(name) <= LONGEST and name.isprintable():
        return name
    kept = name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"
    return "".join([sign if sign.isprintable() else " " if sign.isspace() else "�" for sign in kept])
