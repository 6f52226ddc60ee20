"""Which lines go together: full batches at once, others when they have waited, whatever comes meanwhile."""

import threading
import time
from collections.abc import Iterator, Sequence

import pytest
from support import PATIENCE_SECONDS, until

from sage_fastapi_obs.delivery.losses import Losses
from sage_fastapi_obs.delivery.queued_sender import Entry, Limits, Sender

BATCH = 10


class Taken:
    """A destination that takes everything, and may be asked to wait with that; new lines come while it takes a batch."""

    name, remarks = "taken", ()

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.meanwhile: list[int] = []
        """What is queued while each batch is taken, as often as there is something."""
        self.sender: Sender
        self.goes_on = threading.Event()
        self.goes_on.set()

    def prepare(self) -> None:
        """Do nothing, as the two below."""

    open = close = prepare

    def deliver(self, batch: Sequence[Entry], _: float) -> tuple[Sequence[Entry], int]:
        self.goes_on.wait(PATIENCE_SECONDS)
        self.batches.append([entry.content for entry in batch])
        if self.meanwhile:
            self.sender.put(self.meanwhile.pop(0))
        return (), 0


@pytest.fixture
def taken() -> Iterator[Taken]:
    """Yield a destination whose sender sends by itself only what fills a batch, or what hurries."""
    destination = Taken()
    limits = Limits(queue=1_000, batch=BATCH, seconds=PATIENCE_SECONDS)
    destination.sender = sender = Sender(destination, Losses(), lambda *_: None, lambda _: None, limits)
    sender.open()
    yield destination
    destination.goes_on.set()
    sender.stop(time.monotonic() + PATIENCE_SECONDS)
    sender.close()


def test_what_comes_while_a_batch_is_sent_waits_for_others(taken: Taken) -> None:
    """A server that answers quickly does not get each line alone under traffic: only full batches go at once."""
    taken.meanwhile = [*range(100, 125)]
    taken.goes_on.clear()
    for number in range(2 * BATCH + 5):
        taken.sender.put(number)
    taken.goes_on.set()
    until(lambda: len(taken.batches) == 2, "full batches")
    assert taken.sender.flush(PATIENCE_SECONDS)
    assert taken.batches == [[*range(10)], [*range(10, 20)], [20, 21, 22, 23, 24, 100, 101]]


def test_a_flush_waits_for_what_was_there(taken: Taken) -> None:
    """Traffic that goes on does not hold it up: the lines that come with each batch wait for the next flush."""
    taken.meanwhile = [*range(100, 1_100)]
    taken.sender.put(0)
    assert taken.sender.flush(PATIENCE_SECONDS)
    assert taken.batches == [[0]]
    assert taken.sender.flush(PATIENCE_SECONDS)
    assert taken.batches == [[0], [100]]


def test_a_flush_waits_for_a_batch_under_way(taken: Taken) -> None:
    """What has left the queue is not there yet."""
    taken.goes_on.clear()
    for number in range(BATCH):
        taken.sender.put(number)
    until(lambda: taken.sender._sending, "batch under way")
    assert not taken.sender.flush(0.05)
    taken.goes_on.set()
    assert taken.sender.flush(PATIENCE_SECONDS)
    assert taken.batches == [[*range(BATCH)]]


def test_what_has_waited_goes_by_itself() -> None:
    """After the interval a batch need not be full, and the end sends everything."""
    destination = Taken()
    limits = Limits(queue=1_000, batch=BATCH, seconds=0.01)
    destination.sender = sender = Sender(destination, Losses(), lambda *_: None, lambda _: None, limits)
    sender.open()
    sender.put(0)
    until(lambda: destination.batches == [[0]], "batch that is not full")
    destination.meanwhile = [*range(2, 6)]
    sender.put(1)
    sender.stop(time.monotonic() + PATIENCE_SECONDS)
    sender.close()
    assert sorted(number for batch in destination.batches for number in batch) == [*range(6)]
