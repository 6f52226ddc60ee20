"""The textbook pack: learning, rewards and blockchain transactions."""

from sage_fastapi_obs.packs.textbook import api
from sage_fastapi_obs.packs.textbook.api import *  # noqa: F403 - the public names of the pack

__all__ = api.__all__
