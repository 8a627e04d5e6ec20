"""Evaluation mode of a model while it is used, in one thread or in many.

The mode is one flag of the model, so it is restored when the last use ends, not by each use.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn


class _Users:
    """The uses of a model that have started and not ended.

    Args:
        training: whether the model was in training mode before.
    """

    def __init__(self, training: bool) -> None:
        self.training = training
        self.present = set[object]()


_users = WeakKeyDictionary[nn.Module, _Users]()
_lock = threading.RLock()  # reentrant: a forgotten iterator may be collected within the lock


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Keep a model in evaluation mode within a `with`; the last use to end restores its earlier
    mode.

    A call of `train` meanwhile counts: a use that starts after it restores training mode.

    Args:
        model: a model in either mode.
    """
    token = object()
    with _lock:
        users = _users.get(model)
        if users is None or model.training:
            users = _users[model] = _Users(model.training)
            model.eval()
        users.present.add(token)
    try:
        yield
    finally:
        with _lock:
            users.present.discard(token)
            if not users.present and _users.get(model) is users:
                del _users[model]
                model.train(users.training)
