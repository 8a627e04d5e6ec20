"""Tasks done by the processes of a Ray cluster, here or on many machines."""

import contextlib
import logging
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from limner.contract.errors import LimnerError, install


def done_by_ray(
    make: type,
    given: Sequence[Any],
    numbers: Sequence[int],
    *,
    workers: int,
    address: str | None,
    device: str = "auto",
) -> Iterator[tuple[int, Any]]:
    """The results of tasks as they are done; that of a worker that dies is done by another one.

    Args:
        make: the class of a worker, whose method `do` takes a task's number.
        given: what each is made with.
        numbers: of the tasks.
        workers: how many at most.
        address: of a cluster; None starts one on this machine.
        device: each worker has a GPU of its own with "cuda".

    Raises:
        LimnerError: Ray is not installed, no cluster answers, or a worker says so.
    """
    with _cluster(address, workers) as ray:
        gpus = 1 if device.startswith("cuda") else 0
        lasting = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": -1}
        actor: Any = ray.remote(**lasting)(make)
        idle = [actor.remote(*given) for _ in range(min(workers, len(numbers)))]
        waiting, running = list(reversed(numbers)), dict[Any, tuple[int, Any]]()
        while waiting or running:
            while waiting and idle:
                worker, number = idle.pop(), waiting.pop()
                running[worker.do.remote(number)] = number, worker
            (ready, *_), _ = ray.wait(list(running))
            number, worker = running.pop(ready)
            try:
                result = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, LimnerError) else error) from None
            except ray.exceptions.ActorDiedError as error:
                reason = str(error).strip().splitlines()[-1].strip()
                raise LimnerError(
                    f"a worker could not begin ({reason}); on other machines files must lie at the "
                    "same paths"
                ) from None
            yield number, result
            idle.append(worker)


@contextlib.contextmanager
def _cluster(address: str | None, workers: int) -> Iterator[Any]:
    """Ray, connected to a cluster for the length of a block.

    Raises:
        LimnerError: it is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise LimnerError(f"several workers need Ray; type: {install('ray')}") from None
    if address not in (None, "auto", "local"):
        _reach(address)
    own = {} if address else {"num_cpus": workers, "include_dashboard": False}
    with contextlib.redirect_stdout(sys.stderr):  # where Ray speaks of lost workers
        try:  # given no address, Ray looks for a cluster of this machine
            ray.init(
                address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **own
            )
        except ConnectionError as error:
            raise LimnerError(
                f"no Ray cluster answers at '{address}' ({error}); type: ray start --head; or, if "
                "it asks for a token, RAY_AUTH_MODE=token before this command"
            ) from None
        try:
            yield ray
        finally:
            ray.shutdown()


def _reach(address: str) -> None:
    """Refuse an address where nobody listens, which Ray itself would wait for."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not (port.isdecimal() and int(port) < 2**16):
        raise LimnerError(f"'{address}' is not a Ray cluster's address; write HOST:PORT, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise LimnerError(f"no Ray cluster answers at '{address}' ({error})") from None
