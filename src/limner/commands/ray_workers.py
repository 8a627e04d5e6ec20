"""A set's shards painted by the processes of a Ray cluster, here or on many machines."""

import logging
import socket
from collections.abc import Iterator, Sequence
from typing import Any

from limner.commands.picture_set import Painter, Painting, Plan
from limner.commands.wish import open_model
from limner.contract.errors import LimnerError, install


def painted_by_ray(
    plan: Plan, numbers: Sequence[int], *, workers: int, address: str | None, device: str = "auto"
) -> Iterator[tuple[int, list[Painting]]]:
    """The shards of a plan as they are done. Each worker loads the model once; the shard of one
    that dies is painted by the one that takes its place.

    Args:
        plan: of the set; on other machines its model must lie at the same path.
        numbers: of the shards.
        workers: how many at most.
        address: of a cluster; None starts one on this machine.
        device: where they paint; each worker has a GPU of its own with "cuda".

    Raises:
        LimnerError: Ray is not installed, no cluster answers, or the model cannot paint this.
    """
    try:
        import ray
    except ImportError:
        raise LimnerError(f"several workers need Ray; type: {install('ray')}") from None
    if address and ":" in address:
        _reach(address)
    own = {} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
    except ConnectionError as error:
        raise LimnerError(
            f"no Ray cluster answers at '{address}' ({error}); type: ray start --head"
        ) from None
    try:
        open_model(plan.wish, "cpu")  # what is wrong with it is said here, in words
        gpus = 1 if device.startswith("cuda") else 0
        actor: Any = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(
            Painter
        )
        idle = [actor.remote(plan, device) for _ in range(min(workers, len(numbers)))]
        waiting, running = list(reversed(numbers)), dict[Any, tuple[int, Any]]()
        while waiting or running:
            while waiting and idle:
                worker, number = idle.pop(), waiting.pop()
                running[worker.paint.remote(number)] = number, worker
            (done, *_), _ = ray.wait(list(running))
            number, worker = running.pop(done)
            yield number, ray.get(done)
            idle.append(worker)
    finally:
        ray.shutdown()


def _reach(address: str) -> None:
    """Refuse an address where nobody listens, which Ray itself would wait for."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise LimnerError(f"no Ray cluster answers at '{address}' ({error})") from None
