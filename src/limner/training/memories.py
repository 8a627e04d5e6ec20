"""What models remember beyond their file, such as pools of paintings, as each process has it.

NAME       the first process's, and that of all others which have the same
NAME/2     that of the third process
"""

from collections.abc import Mapping

from torch import Tensor

from limner.contract.model import Learner
from limner.runtime import processes


def memories(model: Learner) -> dict[str, Tensor]:
    """Copies of the memories of all processes, to be asked for on each of them."""
    found = dict[str, Tensor]()
    for name, buffer in model.memory().items():
        first, *others = processes.values_of_all(buffer)
        found[name] = first
        for rank, other in enumerate(others, start=1):
            if not other.equal(first):
                found[f"{name}/{rank}"] = other
    return found


def remember_(model: Learner, kept: Mapping[str, Tensor]) -> None:
    """Go on with this process's memory, or with the first one's where none was kept for it."""
    for name, buffer in model.memory().items():
        own = kept.get(f"{name}/{processes.rank()}", kept[name])
        buffer.detach().copy_(own)
