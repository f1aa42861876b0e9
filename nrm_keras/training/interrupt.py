"""Ctrl-C and SIGTERM end a training at the end of a step, with everything saved."""

from __future__ import annotations

import contextlib
import signal
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
