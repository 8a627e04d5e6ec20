"""Memory of models beyond their file, such as pools of generated pictures, for each process.

NAME       memory of the first process, and of all others with the same one
NAME/2     memory of the third process
"""

from collections.abc import Mapping

from torch import Tensor

from limner.contract.model import Learner
from limner.runtime import processes


def gather_memory(model: Learner) -> dict[str, Tensor]:
    """Return copies of the memory of all processes; to be called on every process."""
    memory = dict[str, Tensor]()
    for name, buffer in model.memory().items():
        first, *others = processes.values_of_all(buffer)
        memory[name] = first
        for rank, other in enumerate(others, start=1):
            if not other.equal(first):
                memory[f"{name}/{rank}"] = other
    return memory


def restore_memory_(model: Learner, memory: Mapping[str, Tensor]) -> None:
    """Restore this process's memory, or the first process's if none was kept for this one."""
    for name, buffer in model.memory().items():
        value = memory.get(f"{name}/{processes.rank()}", memory[name])
        buffer.detach().copy_(value)
