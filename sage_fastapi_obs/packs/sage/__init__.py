"""The SAGE pack: handshakes, sessions and cryptography of a secure messaging back end."""

from sage_fastapi_obs.packs.sage import api
from sage_fastapi_obs.packs.sage.api import *  # noqa: F403 - the public names of the pack

__all__ = api.__all__
