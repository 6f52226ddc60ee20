"""`python -m example_app.visits URL…`: visitors of services that run elsewhere, until stopped."""

import argparse
import asyncio

from example_app.processes import when_told_to_end
from example_app.traffic import Traffic

__all__ = ["main"]


def main() -> None:
    """Send visitors to each service, at a rate per service."""
    arguments = argparse.ArgumentParser(prog="python -m example_app.visits", description=__doc__)
    arguments.add_argument("urls", nargs="+", metavar="URL")
    arguments.add_argument("--rate", type=float, default=20.0, help="visits per second and service")
    arguments.add_argument("--seconds", type=float, default=float("inf"), help="end by itself")
    given = arguments.parse_args()
    asyncio.run(_visit(given.urls, given.rate, given.seconds))


async def _visit(urls: list[str], rate: float, seconds: float) -> None:
    ended = asyncio.Event()
    when_told_to_end(ended.set)
    traffic = [Traffic(url, rate) for url in urls]
    visiting = [asyncio.create_task(each.run()) for each in traffic]
    try:
        await asyncio.wait_for(ended.wait(), None if seconds == float("inf") else seconds)
    except TimeoutError:
        # As long as was asked for.
        pass
    for task in visiting:
        task.cancel()
    await asyncio.gather(*visiting, return_exceptions=True)
    print(f"{sum(each.made for each in traffic)} visits")


if __name__ == "__main__":
    main()
