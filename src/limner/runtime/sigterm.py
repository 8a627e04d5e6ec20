"""SIGTERM in processes that their parent process ends, and in those that have nothing to save."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator

_INTERRUPT_EXIT_CODE = 130  # exit code


def hold_sigterm() -> None:
    """Block SIGTERM in this process; its parent ends it by closing its input.

    A service manager such as systemd sends SIGTERM to all processes of a service at the same time.
    """
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


@contextlib.contextmanager
def exit_at_signals(message: Callable[[], str]) -> Iterator[None]:
    """Exit at once after Ctrl-C or SIGTERM, with a message and exit code 130.

    An exception instead could be lost, or end the process with another code, in a library that is
    just being imported. Under torchrun nothing changes: it ends its processes itself.

    Args:
        message: a function that returns the line to report.
    """
    is_alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    if not is_alone or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*signal_and_frame: object) -> None:
        os.write(2, f"{message()}\n".encode())
        os._exit(_INTERRUPT_EXIT_CODE)

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
