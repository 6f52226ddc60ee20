"""`python -m sage_fastapi_obs` is `sage-obs`."""

from sage_fastapi_obs.cli import console

if __name__ == "__main__":
    console()
