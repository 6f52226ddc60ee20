"""The SAGE pack: handshakes, sessions and cryptography of a secure messaging back end."""

from sage_fastapi_obs.packs.sage import api, handles, steps
from sage_fastapi_obs.packs.sage.api import *  # noqa: F403 - what happens in a moment
from sage_fastapi_obs.packs.sage.handles import *  # noqa: F403 - the metrics themselves
from sage_fastapi_obs.packs.sage.steps import *  # noqa: F403 - the steps of the protocol

__all__ = api.__all__ + handles.__all__ + steps.__all__
