"""Starts workers as `fastapi run` does: the process that starts them imports the app, too."""

import sys

import uvicorn

if __name__ == "__main__":
    import killed  # noqa: F401 - as it does to find the app

    uvicorn.run("killed:app", workers=4, port=int(sys.argv[1]), log_level="warning")
