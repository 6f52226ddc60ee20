"""The services of the demo, as their dashboards are made for them."""

from sage_fastapi_obs import Settings

_PACKS = {
    "sage-backend": ("http", "runtime", "sage", "security"),
    "ai-textbook-core": ("http", "runtime", "textbook", "security"),
    "customer-id": ("http", "runtime", "grpc", "dependencies"),
    "rfs-demo": ("http", "runtime", "result", "business"),
}
SERVICES = [Settings(service={"name": name}, metrics={"packs": packs}) for name, packs in _PACKS.items()]
