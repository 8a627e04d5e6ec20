"""SIGTERM in processes that their parent ends."""

import signal


def hold_sigterm() -> None:
    """Leave SIGTERM to the process that began this one, and ends it by closing its input.

    Who stops a service, as systemd does, sends SIGTERM to all of its processes at once.
    """
    if hasattr(signal, "pthread_sigmask"):  # Windows has no such thing
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
