"""The service as the demo starts it: on this machine only, and gone as soon as the demo is."""

import os
import signal
import sys
import threading

import uvicorn

from example_app.app import create_app

GRACE_SECONDS = 3


def main(port: int) -> None:
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    uvicorn.run(
        create_app,
        factory=True,
        host="127.0.0.1",
        port=port,
        log_config=None,  # the lines of uvicorn go where all others go
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


def _leave_with_parent() -> None:
    """Wait for the end of the input: the demo holds its other end, so it ends however the demo ends."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(int(sys.argv[1]))
