"""What may be shown of what a client sent."""

from urllib.parse import unquote_plus

__all__ = ["MOST_CHARACTERS", "REDACTED", "readable", "redacted_query"]

REDACTED = "REDACTED"
MOST_CHARACTERS = 2048
SENSITIVE = frozenset(
    {
        *(
            "x-amz-signature",
            "x-amz-credential",
            "x-amz-security-token",
            "awsaccesskeyid",
            "signature",
            "sig",
            "x-goog-signature",
        ),
        *("token", "access_token", "refresh_token", "id_token", "api_key", "apikey", "key", "secret", "client_secret"),
        *("password", "passwd", "pwd", "code", "auth", "authorization", "session", "jwt"),
    }
)
"""Query parameters whose values are never shown: those of the HTTP conventions, and what else carries secrets."""


def redacted_query(query: bytes, *, keep_values: bool) -> str:
    """Show a query string by its names; values only where allowed, and never those of sensitive names."""
    parts = []
    for part in query[:MOST_CHARACTERS].decode("latin-1").split("&"):
        name, equals, _ = part.partition("=")
        hidden = equals and (not keep_values or _letters(unquote_plus(name)) in _SENSITIVE_LETTERS)
        parts.append(f"{name}={REDACTED}" if hidden else part)
    return "&".join(parts)


def _letters(name: str) -> str:
    """Leave of a name what is the same however it is spelt: `api_key`, `api-key`, `apiKey`, `api_key[]`."""
    return "".join(filter(str.isalnum, name.lower()))


_SENSITIVE_LETTERS = frozenset(map(_letters, SENSITIVE))


def readable(text: str) -> str:
    """Cut a text to a bounded length, and make it encodable as UTF-8."""
    if len(text) > MOST_CHARACTERS:
        text = f"{text[:MOST_CHARACTERS]}…"
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
