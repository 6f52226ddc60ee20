"""`python -m sage_fastapi_obs` is `sage-obs`."""

import sys

from sage_fastapi_obs.cli import main

if __name__ == "__main__":
    sys.exit(main())
