"""Ctrl-C and SIGTERM end a training at the end of a step, with everything saved, and other work with everything tidied up."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable


@contextlib.contextmanager
def stop_on_signal(request: Callable[[], None], say: Callable[[str], None]):
    """The first signal calls `request`; the second acts as if this were not here."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may handle signals
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore():
        for number, handler in before.items():
            signal.signal(number, handler)

    def handle(number, frame):
        restore()
        say("Stopping at the end of this step (or validation) with a checkpoint. Ctrl-C again stops at once.")
        request()

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        restore()


@contextlib.contextmanager
def tidy_on_sigterm():
    """SIGTERM leaves the block as an exception, so that its temporary files go, rather than ending the process on the spot.

    A handler that the program has set itself stays.
    """
    own = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if own:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        if own:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
