"""What can go wrong between agents.

SageError
├── BadSignature            not made by that key, or over something else
├── BadHandshake            an offer or answer that cannot be opened
├── Undecryptable           a frame that is not of this session, or was changed
├── InvalidMessage          decrypted, and yet no message
├── ReplayError
│   ├── ReplayedNonce       a signed request that was here before
│   └── ReplayedFrame       an encrypted frame that was here before
├── ExpiredNonce            signed too long ago to know
├── SessionError
│   ├── UnknownSession
│   ├── ExpiredSession
│   └── TooManySessions
├── DidError
│   ├── UnknownDid
│   ├── RevokedDid
│   ├── InvalidDocument     a document that does not belong to its DID
│   └── TransactionRefused  the registry did not want it
├── PeerRefused             the other agent did not want it
├── Unreachable             the registry or the other agent; a ConnectionError too
└── TookTooLong             the same; a TimeoutError too
"""

__all__ = [
    "BadHandshake",
    "BadSignature",
    "DidError",
    "ExpiredNonce",
    "ExpiredSession",
    "InvalidDocument",
    "InvalidMessage",
    "PeerRefused",
    "ReplayError",
    "ReplayedFrame",
    "ReplayedNonce",
    "RevokedDid",
    "SageError",
    "SessionError",
    "TooManySessions",
    "TookTooLong",
    "TransactionRefused",
    "Undecryptable",
    "UnknownDid",
    "UnknownSession",
    "Unreachable",
]


class SageError(Exception):
    """Anything that goes wrong between agents; its text may be told to the other side."""


class BadSignature(SageError): ...


class BadHandshake(SageError): ...


class Undecryptable(SageError): ...


class InvalidMessage(SageError): ...


class ReplayError(SageError): ...


class ReplayedNonce(ReplayError): ...


class ReplayedFrame(ReplayError): ...


class ExpiredNonce(SageError): ...


class SessionError(SageError): ...


class UnknownSession(SessionError): ...


class ExpiredSession(SessionError): ...


class TooManySessions(SessionError): ...


class DidError(SageError): ...


class UnknownDid(DidError): ...


class RevokedDid(DidError): ...


class InvalidDocument(DidError): ...


class TransactionRefused(DidError): ...


class PeerRefused(SageError): ...


class Unreachable(SageError, ConnectionError): ...


class TookTooLong(SageError, TimeoutError): ...
