"""The services of the demo, as their dashboards are made for them."""

from pathlib import Path

from sage_fastapi_obs import Settings

SERVICES = [Settings.from_env({}, path=path) for path in sorted(Path(__file__).parents[2].glob("deploy/services/*.yaml"))]
