"""What the answer of a server means for what was sent to it: try again later, never again, or in smaller batches."""

__all__ = ["Refused", "TooLarge", "Unavailable"]


class Unavailable(Exception):  # noqa: N818 - says what the server is
    """The server cannot take anything now."""

    def __init__(self, reason: str, after_seconds: float = 0.0) -> None:
        super().__init__(reason)
        self.after_seconds = after_seconds


class Refused(Exception):  # noqa: N818 - says what was sent
    """The server will never take this."""


class TooLarge(Exception):  # noqa: N818 - says what the batch is
    """The server takes smaller batches."""
