"""DIDs, the documents that say which keys they have, and the transactions that publish those."""

import hashlib
import json
import re
from typing import Literal, Self, get_args

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PublicKey
from pydantic import BaseModel, ConfigDict, Field

from example_app.sage.errors import BadSignature, InvalidDocument
from example_app.sage.keys import SigningKey, VerifyKey, agreement_from_multibase, agreement_to_multibase

__all__ = ["CHAINS", "DID_PATTERN", "Chain", "DidDocument", "Operation", "Transaction", "chain_of", "did_for", "did_of_key_id"]

Chain = Literal["ethereum", "solana"]
CHAINS: tuple[Chain, ...] = get_args(Chain)
Operation = Literal["register", "update", "revoke"]
DID_PATTERN = r"^did:sage:(ethereum|solana):[0-9a-f]{40}$"
_SIGNS = "#sign"
_AGREES = "#agree"


def did_for(chain: Chain, key: VerifyKey) -> str:
    """Name the agent of a key: the DID holds the key's fingerprint, so nobody can publish another key for it."""
    return f"did:sage:{chain}:{hashlib.sha256(key.to_bytes()).hexdigest()[:40]}"


def chain_of(did: str) -> Chain:
    """Name the chain that a DID is registered on."""
    if not re.match(DID_PATTERN, did):
        raise InvalidDocument("not a DID of ours")
    return "ethereum" if did.split(":")[2] == "ethereum" else "solana"


def did_of_key_id(key_id: str) -> str:
    """Name the agent that a key id belongs to."""
    return key_id.removesuffix(_SIGNS)


class _Method(BaseModel):
    id: str
    type: Literal["Multikey"] = "Multikey"
    controller: str
    public_key_multibase: str = Field(alias="publicKeyMultibase", max_length=100)
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True, frozen=True)


class DidDocument(BaseModel):
    """A DID document in the form of the W3C, with one key that signs and one that agrees on secrets."""

    id: str = Field(pattern=DID_PATTERN)
    verification_method: tuple[_Method] = Field(alias="verificationMethod")
    key_agreement: tuple[_Method] = Field(alias="keyAgreement")
    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True, frozen=True)

    @classmethod
    def of(cls, chain: Chain, signs: VerifyKey, agrees: X25519PublicKey) -> Self:
        """Write the document of an agent."""
        did = did_for(chain, signs)
        return cls(
            id=did,
            verification_method=(_Method(id=did + _SIGNS, controller=did, public_key_multibase=signs.to_multibase()),),
            key_agreement=(_Method(id=did + _AGREES, controller=did, public_key_multibase=agreement_to_multibase(agrees)),),
        )

    @property
    def key_id(self) -> str:
        """The id of the key that signs."""
        return self.id + _SIGNS

    def verify_key(self) -> VerifyKey:
        """Read the key that signs; `InvalidDocument` if it is not the one that the DID was made from."""
        key = VerifyKey.from_multibase(self.verification_method[0].public_key_multibase)
        if did_for(chain_of(self.id), key) != self.id:
            raise InvalidDocument("this key is another agent's")
        return key

    def agreement_key(self) -> X25519PublicKey:
        """Read the key that secrets are agreed with."""
        return agreement_from_multibase(self.key_agreement[0].public_key_multibase)


class Transaction(BaseModel):
    """A change of what is published for a DID, with the proof that its owner wants it."""

    operation: Operation
    document: DidDocument
    sequence: int = Field(ge=0, le=2**53)
    """Rises with each transaction of a DID, so that none works twice."""
    proof: str = Field(default="", max_length=128)

    @classmethod
    def signed(cls, operation: Operation, document: DidDocument, sequence: int, key: SigningKey) -> Self:
        """Write a transaction, with its proof."""
        bare = cls(operation=operation, document=document, sequence=sequence)
        return bare.model_copy(update={"proof": key.sign(bare._signed_bytes()).hex()})

    def verify(self) -> None:
        """Raise `BadSignature` or `InvalidDocument` unless the DID's owner has signed this."""
        try:
            proof = bytes.fromhex(self.proof)
        except ValueError:
            raise BadSignature("no proof") from None
        self.document.verify_key().verify(proof, self._signed_bytes())

    def _signed_bytes(self) -> bytes:
        return json.dumps(self.model_dump(exclude={"proof"}), sort_keys=True, separators=(",", ":")).encode()
