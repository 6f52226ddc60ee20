"""Keys that sign, Ed25519 and secp256k1, and how documents write all keys down."""

import base64
from dataclasses import dataclass
from typing import Literal, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from example_app.sage.errors import BadSignature, InvalidDocument

__all__ = ["KEY_TYPES", "KeyType", "SigningKey", "VerifyKey", "agreement_from_multibase", "agreement_to_multibase"]

KeyType = Literal["ed25519", "secp256k1"]
KEY_TYPES: tuple[KeyType, ...] = ("ed25519", "secp256k1")

# Multicodec prefixes, as varints: https://github.com/multiformats/multicodec
_ED25519 = b"\xed\x01"
_SECP256K1 = b"\xe7\x01"
_X25519 = b"\xec\x01"
_HASHED = ec.ECDSA(hashes.SHA256())
_HALF = 32
"""Bytes of each of the two numbers of an ECDSA signature on secp256k1."""


@dataclass(frozen=True, slots=True)
class VerifyKey:
    """A public key that signatures are checked with."""

    key: Ed25519PublicKey | ec.EllipticCurvePublicKey

    @property
    def key_type(self) -> KeyType:
        """Name the kind of key."""
        return "ed25519" if isinstance(self.key, Ed25519PublicKey) else "secp256k1"

    def verify(self, signature: bytes, data: bytes) -> None:
        """Raise `BadSignature` unless the key's owner has signed the data."""
        try:
            if isinstance(self.key, Ed25519PublicKey):
                self.key.verify(signature, data)
            elif len(signature) != 2 * _HALF:
                raise BadSignature("a signature of another length")
            else:
                halves = (int.from_bytes(signature[:_HALF]), int.from_bytes(signature[_HALF:]))
                self.key.verify(encode_dss_signature(*halves), data, _HASHED)
        except InvalidSignature:
            raise BadSignature("not signed with this key") from None

    def to_multibase(self) -> str:
        """Write the key down as documents do."""
        return _multibase(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Give the key with the prefix of its kind."""
        if isinstance(self.key, Ed25519PublicKey):
            return _ED25519 + self.key.public_bytes_raw()
        return _SECP256K1 + self.key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    @classmethod
    def from_multibase(cls, text: str) -> Self:
        """Read a key of a document."""
        prefix, raw = _from_multibase(text)
        try:
            match prefix:
                case b"\xed\x01":
                    return cls(Ed25519PublicKey.from_public_bytes(raw))
                case b"\xe7\x01":
                    return cls(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256K1(), raw))
        except ValueError as error:
            raise InvalidDocument(f"no key: {error}") from error
        raise InvalidDocument("a key of an unknown kind")


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A private key that signs."""

    key: Ed25519PrivateKey | ec.EllipticCurvePrivateKey

    @classmethod
    def generate(cls, key_type: KeyType) -> Self:
        """Make a new key."""
        return cls(Ed25519PrivateKey.generate() if key_type == "ed25519" else ec.generate_private_key(ec.SECP256K1()))

    @property
    def verify_key(self) -> VerifyKey:
        """The public half."""
        return VerifyKey(self.key.public_key())

    @property
    def key_type(self) -> KeyType:
        """Name the kind of key."""
        return self.verify_key.key_type

    def sign(self, data: bytes) -> bytes:
        """Sign; always 64 bytes."""
        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.sign(data)
        return b"".join(half.to_bytes(_HALF) for half in decode_dss_signature(self.key.sign(data, _HASHED)))


def agreement_to_multibase(key: X25519PublicKey) -> str:
    """Write down a key that secrets are agreed with."""
    return _multibase(_X25519 + key.public_bytes_raw())


def agreement_from_multibase(text: str) -> X25519PublicKey:
    """Read a key that secrets are agreed with."""
    prefix, raw = _from_multibase(text)
    if prefix != _X25519 or len(raw) != 32:
        raise InvalidDocument("no X25519 key")
    return X25519PublicKey.from_public_bytes(raw)


def _multibase(data: bytes) -> str:
    """Write bytes in base64url, which multibase marks with a u."""
    return "u" + base64.urlsafe_b64encode(data).decode().rstrip("=")


def _from_multibase(text: str) -> tuple[bytes, bytes]:
    if not text.startswith("u"):
        raise InvalidDocument("not base64url")
    try:
        data = base64.b64decode(text[1:] + "=" * (-(len(text) - 1) % 4), altchars=b"-_", validate=True)
    except ValueError as error:
        raise InvalidDocument("not base64url") from error
    return data[:2], data[2:]
