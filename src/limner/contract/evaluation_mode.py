"""A model in evaluation mode while it is used, in one thread or in many.

The mode is one flag of the model, so it is restored when the last user leaves, not by each.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn


class _Users:
    """The uses of a model that have begun and not ended.

    Args:
        training: the mode that the model was in before.
    """

    def __init__(self, training: bool) -> None:
        self.training = training
        self.present = set[object]()


_users = WeakKeyDictionary[nn.Module, _Users]()
_lock = threading.RLock()  # one thread may come twice: where a forgotten iterator is collected


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within it a model is in evaluation mode; after the last one it is in that of before.

    A call of `train` meanwhile counts: a use that begins after it ends in training mode.

    Args:
        model: which may be in either mode.
    """
    own = object()
    with _lock:
        users = _users.get(model)
        if users is None or model.training:
            users = _users[model] = _Users(model.training)
            model.eval()
        users.present.add(own)
    try:
        yield
    finally:
        with _lock:
            users.present.discard(own)
            if not users.present and _users.get(model) is users:
                del _users[model]
                model.train(users.training)
