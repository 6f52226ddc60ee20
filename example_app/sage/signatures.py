"""Signed requests: HTTP Message Signatures (RFC 9421) by the keys of agents, over the body's digest (RFC 9530) too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

import http_sf
from http_message_signatures import (
    HTTPMessageSigner,
    HTTPMessageVerifier,
    HTTPSignatureAlgorithm,
    HTTPSignatureKeyResolver,
    InvalidSignature,
)

from example_app.sage.errors import BadSignature
from example_app.sage.keys import KeyType, SigningKey, VerifyKey

__all__ = ["COVERED", "IN_SESSION", "Envelope", "Signed", "key_id_of", "sign", "verify"]

COVERED = ("@method", "@target-uri")
"""What a signature is over at least, the body's digest beside."""
IN_SESSION = (*COVERED, "sage-session")
"""The same of a request with an encrypted body, whose session is named in a header."""
TAG = "sage"


@dataclass(frozen=True, slots=True)
class Envelope:
    """A request but for its body."""

    method: str
    url: str
    headers: Mapping[str, str]


class Signed(NamedTuple):
    """What a good signature says."""

    key_id: str
    nonce: str
    created: float
    """Unix time in seconds."""


def sign(
    envelope: Envelope,
    body: bytes,
    key: SigningKey,
    key_id: str,
    *,
    nonce: str,
    created: float,
    covered: Sequence[str] = COVERED,
) -> dict[str, str]:
    """Sign a request; returns all its headers, with `Content-Digest`, `Signature-Input` and `Signature` added."""
    signed = Envelope(envelope.method, envelope.url, dict(envelope.headers))
    signer = HTTPMessageSigner(signature_algorithm=_ALGORITHMS[key.key_type], key_resolver=_Only(private=key))
    at = datetime.fromtimestamp(created, UTC)
    signer.sign(signed, key_id=key_id, created=at, nonce=nonce, label=TAG, tag=TAG, covered_component_ids=covered, body=body)
    return dict(signed.headers)


def verify(
    envelope: Envelope, body: bytes | None, key: VerifyKey, *, tag: str | None = TAG, covered: Sequence[str] = COVERED
) -> Signed:
    """Check the signature of a request; `BadSignature` unless all of `covered`, and the body if given, are as they were signed.

    How old a signature may be, and how often it may be used, is not looked at here.
    """
    verifier = HTTPMessageVerifier(signature_algorithm=_ALGORITHMS[key.key_type], key_resolver=_Only(public=key))
    try:
        (result,) = verifier.verify(envelope, max_age=None, expect_tag=tag, require_components=covered, body=body)
    except (InvalidSignature, ValueError) as error:
        raise BadSignature(str(error)) from error
    parameters = result.parameters
    return Signed(str(parameters["keyid"]), result.nonce or "", float(parameters["created"]))


def key_id_of(envelope: Envelope) -> str:
    """Read who says to have signed, which is not known before `verify`."""
    try:
        field = next(value for name, value in envelope.headers.items() if name.lower() == "signature-input")
        parsed: Any = http_sf.parse(field.encode(), tltype="dictionary")
        ((_, parameters),) = parsed.values()
        key_id = parameters["keyid"]
    except (StopIteration, ValueError, KeyError, TypeError):
        raise BadSignature("not signed, or not once") from None
    if not isinstance(key_id, str):
        raise BadSignature("not signed by anybody")
    return key_id


class _Algorithm(HTTPSignatureAlgorithm):
    """Signs and verifies with a key of ours."""

    def __init__(self, public_key: VerifyKey | None = None, private_key: SigningKey | None = None) -> None:
        self._public = public_key
        self._private = private_key

    def sign(self, message: bytes) -> bytes:
        assert self._private is not None
        return self._private.sign(message)

    def verify(self, signature: bytes, message: bytes) -> None:
        assert self._public is not None
        self._public.verify(signature, message)


class _Ed25519(_Algorithm):
    algorithm_id = "ed25519"


class _Secp256k1(_Algorithm):
    # Not in the RFC's registry, which has no algorithm for this curve.
    algorithm_id = "ecdsa-secp256k1-sha256"


_ALGORITHMS: dict[KeyType, type[_Algorithm]] = {"ed25519": _Ed25519, "secp256k1": _Secp256k1}


class _Only(HTTPSignatureKeyResolver):
    """Whoever signs, this is the key to try."""

    def __init__(self, public: VerifyKey | None = None, private: SigningKey | None = None) -> None:
        self._public = public
        self._private = private

    def resolve_public_key(self, key_id: str) -> Any:  # noqa: ARG002 - the agent's only key
        return self._public

    def resolve_private_key(self, key_id: str) -> Any:  # noqa: ARG002 - the agent's only key
        return self._private
