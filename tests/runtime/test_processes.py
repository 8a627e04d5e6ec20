"""Functions for several processes; tests/training/test_run.py runs two real ones."""

import threading

import pytest
import torch
from torch import nn

from limner.contract.errors import LimnerError
from limner.runtime import processes


def test_with_one_process_everything_is_the_identity():
    values = torch.arange(3.0)
    assert (processes.rank(), processes.size(), processes.first()) == (0, 1, True)
    assert processes.mean_(values) is values
    assert processes.anyone(True, torch.device("cpu"))
    assert not processes.anyone(False, torch.device("cpu"))
    processes.broadcast_([values])
    processes.barrier()
    processes.join(torch.device("cpu"))
    assert processes.average_gradients_([], torch.tensor(2.0)) == 2
    assert values.tolist() == [0, 1, 2]


def test_a_mean_is_over_the_processes_that_have_the_number(monkeypatch: pytest.MonkeyPatch):
    # Three numbers, then whether each is known.
    other = torch.tensor([2.0, 3.0, 0.0, 1.0, 1.0, 0.0])
    monkeypatch.setattr(processes, "sum_", lambda flat: flat + other)
    mean = processes.mean_of_known(torch.tensor([torch.nan, 1.0, torch.nan]))
    assert mean[:2].tolist() == [2, 2] and mean[2].isnan()


def test_devices_are_chosen_and_assigned():
    assert processes.device("cpu") == torch.device("cpu")
    assert processes.device().type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(LimnerError, match="'gpu' is not a device"):
        processes.device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(LimnerError, match="no CUDA device"):
            processes.device("cuda")


@pytest.mark.parametrize("name", ["mps", "meta", "xpu"])
def test_invalid_devices_are_refused_at_the_start(name):
    with pytest.raises(LimnerError, match=f"not compute on '{name}'.*; write --device cpu or cuda"):
        processes.device(name)


def test_a_missing_gpu_is_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes.device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(LimnerError, match=r"'cuda:2' is not there; .* cuda:0 to cuda:1"):
        processes.device("cuda:2")


def test_gradients_are_averaged_in_one_message(monkeypatch):
    """Two threads that add up their messages stand for two processes."""
    messages: dict[int, torch.Tensor] = {}
    barrier, local = threading.Barrier(2), threading.local()

    def all_reduce(flat: torch.Tensor) -> None:
        messages[local.rank] = flat.clone()
        barrier.wait()
        flat.copy_(messages[0] + messages[1])
        barrier.wait()

    monkeypatch.setattr(processes, "size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    shapes = [(2, 3, 4, 4), (3,), (2,)]
    parameters = [[nn.Parameter(torch.zeros(s)) for s in shapes] for _ in range(2)]
    for group in parameters:
        group[0].data = group[0].data.contiguous(memory_format=torch.channels_last)
    for rank in (0, 1):
        gradient = torch.arange(96.0).view(2, 3, 4, 4)
        parameters[rank][0].grad = gradient * (1 + 2 * rank)
    parameters[1][1].grad = torch.ones(3)
    losses: dict[int, float] = {}

    def process(rank: int) -> None:
        local.rank = rank
        loss = processes.average_gradients_(parameters[rank], torch.tensor(float(rank)))
        losses[rank] = loss.item()

    threads = [threading.Thread(target=process, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert losses == {0: 0.5, 1: 0.5}
    for group in parameters:
        first, second, third = group
        assert first.grad is not None and second.grad is not None
        assert torch.equal(first.grad, 2 * torch.arange(96.0).view(2, 3, 4, 4))
        assert first.grad.stride() == first.stride()  # otherwise fused optimisers mix up entries
        assert second.grad.tolist() == [0.5] * 3
        assert third.grad is None
