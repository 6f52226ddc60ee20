"""`sage-obs mcp`: lets an assistant look at what a service has recorded, over the Model Context Protocol."""

import argparse
import signal
import sys
from functools import partial

import anyio

from sage_fastapi_obs.cli.request_sources import Pages, SourceError, add_source_arguments, source_of, token_of

HELP = "Serve read-only tools for an assistant (Model Context Protocol, on standard input and output)."
FAILED = 1
_WAITING = (
    "sage-obs mcp: waits for an assistant that speaks the Model Context Protocol on standard input; it starts this itself."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes."""
    add_source_arguments(parser)


def run(given: argparse.Namespace) -> int:
    """Serve until the input ends; return the exit code."""
    try:
        from sage_fastapi_obs.cli.assistants.mcp_server import mcp_server, serve  # noqa: PLC0415 - an extra
    except ImportError:
        print("sage-obs mcp needs the SDK of the protocol: pip install 'sage_fastapi_obs[mcp]'", file=sys.stderr)
        return FAILED
    token = token_of(given)
    try:
        if given.url:
            Pages(given.url, token)
    except SourceError as error:
        print(f"sage-obs mcp: {error}", file=sys.stderr)
        return FAILED
    if sys.stdin.isatty():
        print(_WAITING, file=sys.stderr)
    # The SDK reads in a thread, for which Python would wait until the next line comes.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    anyio.run(serve, mcp_server(partial(source_of, given), [token] if token else []))
    return 0
