"""A signal at which a process writes the stacks of its threads to stderr, also while the interpreter is held."""

import faulthandler
import signal
import sys


class StacksSignal:
    """The signal of `insight.stacks_signal`, while the service runs."""

    def __init__(self, name: str | None) -> None:
        self._number = None if name is None else getattr(signal, name)

    def start(self) -> None:
        """Write stacks at the signal; whoever has a handler for it is called afterwards."""
        if self._number is not None:
            is_taken = callable(signal.getsignal(self._number))
            faulthandler.register(self._number, file=sys.__stderr__ or sys.stderr, all_threads=True, chain=is_taken)

    def close(self) -> None:
        """Give the signal back."""
        if self._number is not None:
            faulthandler.unregister(self._number)
