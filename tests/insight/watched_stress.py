"""Looks at a busy event loop so many times, while the collector runs, objects are finalized and threads start.

Run as a program, as what it looks for is a crash: `python watched_stress.py 10000`.
"""

import asyncio
import faulthandler
import gc
import sys
import threading
import time
from typing import Any

from sage_fastapi_obs.insight.application_code import ApplicationCode
from sage_fastapi_obs.insight.await_chain import wait_place
from sage_fastapi_obs.insight.thread_frames import collector_off, frame_of, frames_of_pools, running_task


class Finalized:
    """Lets other threads run while the collector works, and is in a cycle."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        """Make garbage while garbage is collected, in a frame of its own."""
        [[] for _ in range(5)]


def deep(depth: int) -> int:
    """Build a stack."""
    Finalized()
    return 0 if not depth else deep(depth - 1)


def generator(depth: int) -> Any:
    """Build a chain of generators."""
    yield deep(3)
    if depth:
        yield from generator(depth - 1)


async def busy(depth: int) -> None:
    """Build a chain of coroutines, and fail sometimes."""
    list(generator(depth % 7))
    if depth:
        await asyncio.sleep(0)
        await busy(depth - 1)
    elif deep(2) == 0:
        raise ValueError


class Looks:
    """What the watch thread does, without pauses."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        self._loop = loop
        self._number = number
        self._thread = threading.get_ident()
        self.places: set[str] = set()
        self.done = threading.Event()

    def look(self) -> None:
        """Look, so many times."""
        code = ApplicationCode()
        for number in range(self._number):
            # Let the loop go on between any two looks.
            time.sleep(0)
            with collector_off():
                running = running_task(self._loop)
                place = code.line(frame_of(self._thread))
                frames_of_pools()
                for task in [*asyncio.all_tasks(self._loop)][:5] if number % 10 == 0 else ():
                    if task is not running:
                        wait_place(task, code)
            if place is not None:
                self.places.add(place.rpartition("/")[2].partition(":")[0])
        self.done.set()


async def main(number: int) -> None:
    """Keep the loop busy until all looks are taken."""
    looks = Looks(asyncio.get_running_loop(), number)
    threading.Thread(target=looks.look, daemon=True).start()
    while not looks.done.is_set():
        tasks = [asyncio.create_task(busy(depth)) for depth in range(20)]
        await asyncio.gather(*tasks, *[asyncio.to_thread(deep, 5) for _ in range(4)], return_exceptions=True)
        threads = [threading.Thread(target=deep, args=(5,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        gc.collect(0)
    assert looks.places == {"watched_stress.py"}, looks.places


if __name__ == "__main__":
    faulthandler.enable()
    faulthandler.dump_traceback_later(1_200, exit=True)
    sys.setswitchinterval(0.0005)
    gc.set_threshold(20, 5, 5)
    asyncio.run(main(int(sys.argv[1])))
    sys.stdout.write("fine\n")
