"""What agents say to each other inside a session."""

from dataclasses import dataclass
from typing import Literal

from example_app.sage.errors import InvalidMessage

__all__ = ["MOST_BYTES", "Message", "MessageType", "type_of"]

MessageType = Literal["text", "binary"]
MOST_BYTES = 64 * 1024
_TEXT, _BINARY = b"t", b"b"


def type_of(data: bytes) -> str:
    """Tell what a message says to be, before it is read; empty if it does not say."""
    return {_TEXT: "text", _BINARY: "binary"}.get(data[:1], "")


@dataclass(frozen=True, slots=True)
class Message:
    """A message, before it is encrypted and after it is decrypted."""

    type: MessageType
    content: bytes

    def __post_init__(self) -> None:
        if len(self.content) > MOST_BYTES:
            raise InvalidMessage("too long")
        if self.type == "text":
            try:
                self.content.decode()
            except UnicodeDecodeError:
                raise InvalidMessage("not a text") from None

    def to_bytes(self) -> bytes:
        """Write it down, its type first."""
        return (_TEXT if self.type == "text" else _BINARY) + self.content

    @classmethod
    def from_bytes(cls, data: bytes) -> "Message":
        """Read and check it; `InvalidMessage` says what is wrong."""
        match data[:1]:
            case b"t":
                return cls("text", data[1:])
            case b"b":
                return cls("binary", data[1:])
        raise InvalidMessage("neither text nor binary")
