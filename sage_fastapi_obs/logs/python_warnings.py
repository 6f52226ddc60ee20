"""Writes Python's warnings as log lines; code that records warnings goes on recording them."""

import logging
import warnings
from collections.abc import Callable
from types import FunctionType
from typing import Any, TextIO


class Warnings:
    """Takes the place of what prints warnings to standard error; an application's own function is still called."""

    def __init__(self, log: Callable[[str], None]) -> None:
        """`log` writes a line about one; never raises."""
        self._log = log
        self._before: Callable[..., Any] = warnings.showwarning
        self._is_ours = True
        # Kept, because a bound method is a new one at each look.
        self._called = self._show
        # An application that has them logged has lines of them already.
        if self._before is not getattr(logging, "_showwarning", None):
            warnings.showwarning = self._called

    def give_back(self) -> None:
        """Remove ours, or make it do nothing if it may come back: `catch_warnings` restores it when it ends."""
        self._is_ours = False
        if warnings.showwarning is self._called:
            warnings.showwarning = self._before

    def _show(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        is_logged = self._is_ours and file is None
        if is_logged:
            self._log(warnings.formatwarning(message, category, filename, lineno, line))
        if not is_logged or not _prints(self._before):
            self._before(message, category, filename, lineno, file, line)


def _prints(show: Callable[..., Any]) -> bool:
    """Tell whether a function is Python's own, and nothing records warnings; `warnings` has no public API for either."""
    if show is not getattr(warnings, "_showwarning_orig", None):
        return False
    context = getattr(warnings, "_get_context", None)
    is_recorded = context is not None and context().log is not None
    return isinstance(getattr(warnings, "_showwarnmsg_impl", None), FunctionType) and not is_recorded
