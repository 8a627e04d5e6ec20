"""Functions for several processes; tests/training/test_run.py runs two real ones."""

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import ReduceOp

from limner.contract.errors import LimnerError
from limner.runtime import processes

CPU = torch.device("cpu")


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
    monkeypatch.setenv("RANK", "3")  # the second process of the second machine
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert processes.device("cuda") == processes.device() == torch.device("cuda:1")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(LimnerError, match=r"'cuda:2' is not there; .* cuda:0 to cuda:1"):
        processes.device()
    with pytest.raises(LimnerError, match=r"'cuda:2' is not there; .* cuda:0 to cuda:1"):
        processes.device("cuda:2")


class Two:
    """Two threads that stand for two processes."""

    def __init__(self) -> None:
        self.messages: dict[int, torch.Tensor] = {}
        self.barrier, self.local = threading.Barrier(2, timeout=120), threading.local()

    def exchange(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensors of both processes."""
        self.messages[self.local.rank] = tensor.clone()
        self.barrier.wait()
        both = torch.stack([self.messages[0], self.messages[1]])
        self.barrier.wait()
        return both

    def all_reduce(self, flat: torch.Tensor, op: ReduceOp.RedOpType = ReduceOp.SUM) -> None:
        both = self.exchange(flat)
        assert op in (ReduceOp.SUM, ReduceOp.MAX)
        flat.copy_(both.sum(0) if op == ReduceOp.SUM else both.amax(0))

    def broadcast(self, tensor: torch.Tensor, source: int) -> None:
        assert tensor.is_contiguous(), "as torch requires"
        lengths = self.exchange(torch.tensor(len(tensor)))
        assert lengths[0] == lengths[1]
        tensor.copy_(self.exchange(tensor)[source])

    def all_gather(self, values: list[torch.Tensor], value: torch.Tensor) -> None:
        for target, each in zip(values, self.exchange(value), strict=True):
            target.copy_(each)

    def run(self, process: Callable[[int], Any]) -> list[Any]:
        """Return what a function returns in each process, given its number."""

        def start(rank: int) -> Any:
            self.local.rank = rank
            return process(rank)

        with ThreadPoolExecutor(2) as pool:
            return list(pool.map(start, (0, 1)))


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Two:
    two = Two()
    monkeypatch.setattr(processes, "size", lambda: 2)
    monkeypatch.setattr(processes, "rank", lambda: two.local.rank)
    for name in ("all_reduce", "broadcast", "all_gather"):
        monkeypatch.setattr(f"torch.distributed.{name}", getattr(two, name))
    return two


def test_numbers_are_added_averaged_or_gathered(two: Two):
    def process(rank: int) -> list[Any]:
        value = torch.tensor([1.0, 2.0]) * (1 + 2 * rank)
        gathered = processes.values_of_all(value)
        assert gathered[rank] is not value
        mean = processes.mean_of_known(torch.tensor([torch.nan if rank else 5.0, 1.0 + rank]))
        total, average = processes.sum_(value.clone()), processes.mean_(value)
        return [x.tolist() for x in (*gathered, total, average, mean)]

    expected = [[1, 2], [3, 6], [4, 8], [2, 4], [5, 1.5]]
    assert two.run(process) == [expected, expected]


@pytest.mark.parametrize("flags", [*itertools.product([False, True], repeat=2)])
def test_a_flag_counts_if_it_is_true_on_any_process(two: Two, flags: tuple[bool, bool]):
    assert two.run(lambda rank: processes.anyone(flags[rank], CPU)) == [any(flags)] * 2


@pytest.mark.parametrize("numbers", [(3, 3), (3, 4), (4, 3), (-1, 1)])
def test_a_number_is_compared_with_all_processes(two: Two, numbers: tuple[int, int]):
    expected = [numbers[0] == numbers[1]] * 2
    assert two.run(lambda rank: processes.same(numbers[rank], CPU)) == expected


def test_a_restart_or_another_folder_is_noticed_by_all(
    two: Two, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(processes, "join", lambda device: None)
    monkeypatch.setattr(processes, "has_restarted", lambda: two.local.rank == 1)
    assert two.run(lambda rank: processes.meet(CPU, tmp_path, begun=True)) == [True, True]
    with pytest.raises(LimnerError, match="is not the same folder on all machines"):
        two.run(lambda rank: processes.meet(CPU, tmp_path, begun=rank == 0))


def test_values_and_text_of_the_first_process_are_sent_to_all(two: Two):
    def process(rank: int) -> Any:
        square = torch.arange(4.0).view(2, 2).T + 10 * rank  # not contiguous
        processes.broadcast_([square, whole := torch.tensor([rank])])
        text = processes.broadcast_text(("zwölf Bilder", "no")[rank], CPU)
        return square.tolist(), whole.tolist(), text

    assert two.run(process) == [([[0, 2], [1, 3]], [0], "zwölf Bilder")] * 2


def test_saved_buffers_are_averaged_and_flags_are_joined(two: Two):
    def process(rank: int) -> dict[str, Any]:
        module = nn.Module()
        for name, value, is_saved in (
            ("mean", torch.tensor([[1.0, 2.0], [3.0, 4.0]]) * (1 + 2 * rank), True),
            ("large", torch.tensor(1e8 + rank, dtype=torch.float64), True),
            ("done", torch.tensor([True, False, rank == 0, rank == 1]), True),
            ("count", torch.tensor(5 + rank), True),
            ("pool", torch.tensor([float(rank)]), False),
        ):
            module.register_buffer(name, value, persistent=is_saved)
        processes.average_buffers_(module)
        processes.average_buffers_(nn.Linear(1, 1))
        return {name: buffer.tolist() for name, buffer in module.named_buffers()}

    mean = {"mean": [[2, 4], [6, 8]], "large": 1e8 + 0.5, "done": [True, False, True, True]}
    own = [{"count": 5, "pool": [0]}, {"count": 6, "pool": [1]}]
    assert two.run(process) == [mean | each for each in own]


def test_gradients_are_averaged_in_one_message(two: Two):
    shapes = [(2,), (2, 3, 4, 4), (3,), (2,), (1,)]
    parameters = [[nn.Parameter(torch.zeros(s)) for s in shapes] for _ in range(2)]
    for rank, group in enumerate(parameters):
        group[1].data = group[1].data.contiguous(memory_format=torch.channels_last)
        group[1].grad = torch.arange(96.0).view(2, 3, 4, 4) * (1 + 2 * rank)
        group[4].grad = torch.tensor([7.0])
    parameters[1][2].grad = torch.ones(3)

    def process(rank: int) -> float:
        return processes.average_gradients_(parameters[rank], torch.tensor(float(rank))).item()

    assert two.run(process) == [0.5, 0.5]
    for group in parameters:
        assert group[0].grad is None and group[3].grad is None
        _, first, second, _, last = group
        assert first.grad is not None and second.grad is not None and last.grad is not None
        assert torch.equal(first.grad, 2 * torch.arange(96.0).view(2, 3, 4, 4))
        assert first.grad.stride() == first.stride()  # otherwise fused optimisers mix up entries
        assert second.grad.tolist() == [0.5] * 3
        assert last.grad.tolist() == [7]


def test_restarts_are_counted_by_torchrun(monkeypatch: pytest.MonkeyPatch):
    for function, name in (
        (processes.has_restarted, "TORCHELASTIC_RESTART_COUNT"),
        (processes.may_restart, "TORCHELASTIC_MAX_RESTARTS"),
    ):
        monkeypatch.delenv(name, raising=False)
        assert not function()
        for count in (0, 1):
            monkeypatch.setenv(name, str(count))
            assert function() == bool(count)
