"""A small shop, watched: what an app that uses sage_fastapi_obs looks like."""
