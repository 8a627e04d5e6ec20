"""Tasks that the processes of a Ray cluster run, on this machine or on many."""

import contextlib
import logging
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from limner.contract.errors import LimnerError, install_command


def run_by_ray(
    make: type,
    arguments: Sequence[Any],
    numbers: Sequence[int],
    *,
    workers: int,
    address: str | None,
    device: str = "auto",
) -> Iterator[tuple[int, Any]]:
    """Yield the results of tasks as they are finished.

    If a worker dies, another one runs its task again.

    Args:
        make: the class of a worker; its method `do` takes the number of a task.
        arguments: the arguments of the class.
        numbers: the numbers of the tasks.
        workers: the largest number of workers.
        address: the address of a cluster; None starts one on this machine.
        device: with "cuda", each worker has its own GPU.

    Raises:
        LimnerError: Ray is not installed, no cluster answers, a worker cannot start, or it raises
            this error.
    """
    with _cluster(address, workers) as ray:
        gpus = 1 if device.startswith("cuda") else 0
        options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": -1, "max_task_retries": -1}
        actor: Any = ray.remote(**options)(make)
        idle = [actor.remote(*arguments) for _ in range(min(workers, len(numbers)))]
        waiting, running = list(reversed(numbers)), dict[Any, tuple[int, Any]]()
        while waiting or running:
            while waiting and idle:
                worker, number = idle.pop(), waiting.pop()
                running[worker.do.remote(number)] = number, worker
            (ref, *_), _ = ray.wait(list(running))
            number, worker = running.pop(ref)
            try:
                result = ray.get(ref)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, LimnerError) else error) from None
            except ray.exceptions.ActorDiedError as error:
                reason = str(error).strip().splitlines()[-1].strip()
                raise LimnerError(
                    f"a worker could not start ({reason}); other machines must have the files at "
                    "the same paths"
                ) from None
            yield number, result
            idle.append(worker)


@contextlib.contextmanager
def _cluster(address: str | None, workers: int) -> Iterator[Any]:
    """Connect Ray to a cluster within a `with`.

    Raises:
        LimnerError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray
    except ImportError:
        raise LimnerError(f"several workers need Ray; type: {install_command('ray')}") from None
    if address not in (None, "auto", "local"):
        _check_address(address)
    options = {} if address else {"num_cpus": workers, "include_dashboard": False}
    with contextlib.redirect_stdout(sys.stderr):  # Ray reports lost workers there
        try:  # without an address, Ray would look for a cluster on this machine
            ray.init(
                address=address or "local",
                log_to_driver=False,
                logging_level=logging.ERROR,
                **options,
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


def _check_address(address: str) -> None:
    """Refuse an address at which no cluster answers; Ray itself would wait for it."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    if not (port.isdecimal() and int(port) < 2**16):
        raise LimnerError(f"'{address}' is not a Ray cluster's address; write HOST:PORT, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, ValueError) as error:
        raise LimnerError(f"no Ray cluster answers at '{address}' ({error})") from None
