"""SIGTERM in processes that their parent process ends."""

import signal


def hold_sigterm() -> None:
    """Block SIGTERM in this process; its parent ends it by closing its input.

    A service manager such as systemd sends SIGTERM to all processes of a service at the same time.
    """
    if hasattr(signal, "pthread_sigmask"):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
