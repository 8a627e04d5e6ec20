"""Sharded training states: written by two processes, read by one and by three."""

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed.fsdp  # imported once, not in each process
from ports import free_port
from test_loop import SPEC, images
from test_run import Ramps
from torch import nn

from limner.contract.checkpoint import load, load_tensors
from limner.contract.errors import LimnerError
from limner.contract.model import Learner, Turn
from limner.contract.registry import build
from limner.runtime import processes
from limner.runtime.folder_lock import lock_folder
from limner.training.checkpointing import blocks
from limner.training.estimate import dry_run
from limner.training.loop import Loop
from limner.training.options import TrainOptions
from limner.training.recipe import Recipe
from limner.training.run import resume, train
from limner.training.sharding import is_shard
from limner.training.shards import StoredTensor, read_groups, write_shards
from limner.training.state import load_state

pytestmark = pytest.mark.usefixtures("undrawn_curves")


class Mesh(NamedTuple):
    """A device mesh with a size and a rank."""

    rank: int
    processes: int

    def size(self) -> int:
        return self.processes

    def get_local_rank(self) -> int:
        return self.rank


class Share(torch.Tensor):
    """A stand-in for a distributed tensor: one process's rows of the whole."""

    device_mesh: Mesh

    def full_tensor(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def to_local(self) -> torch.Tensor:
        parts = self.full_tensor().chunk(self.device_mesh.processes)
        return parts[self.device_mesh.rank] if self.device_mesh.rank < len(parts) else parts[0][:0]


def shared(tensor: torch.Tensor, mesh: Mesh) -> Share:
    share = tensor.as_subclass(Share)
    share.device_mesh = mesh
    return share


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that writes tensors like several processes."""

    def write(size: int, **tensors: torch.Tensor) -> dict[str, Any]:
        monkeypatch.setattr(processes, "size", lambda: size)
        for rank in range(size):
            monkeypatch.setattr(processes, "rank", lambda rank=rank: rank)
            mesh = Mesh(rank, size)
            shards = {name: shared(x, mesh) if x.ndim else x for name, x in tensors.items()}
            write_shards(shards, tmp_path, "model")
        return read_groups(sorted(tmp_path.glob("*.safetensors")))["model"]

    return write


@pytest.mark.parametrize("size", [2, 3, 5])
def test_any_rows_are_read_from_the_files_of_all_processes(written: Any, size: int):
    long, short = torch.arange(21.0).view(7, 3), torch.arange(4, dtype=torch.int64)
    tensors = written(size, long=long, short=short, step=torch.tensor(9.0))
    assert tensors["step"] == 9 and isinstance(tensors["long"], StoredTensor)
    assert torch.equal(tensors["long"].whole(), long) and torch.equal(
        tensors["short"].whole(), short
    )
    assert tensors["long"].shape == long.shape and tensors["short"].dtype == torch.int64
    for start in range(8):
        for stop in range(start, 8):
            assert torch.equal(tensors["long"].rows(start, stop), long[start:stop])


def test_a_damaged_shard_is_named(written: Any, tmp_path: Path):
    tensors = written(2, x=torch.ones(4, 2))
    file = tmp_path / "model.1-of-2.safetensors"
    file.write_bytes(file.read_bytes()[:20])
    for read in (tensors["x"].whole, lambda: read_groups([file])):
        with pytest.raises(LimnerError, match=r"model\.1-of-2\.safetensors is damaged"):
            read()


def recipe(**options: object) -> Recipe:
    usual = {"steps": 3, "batch": 6, "save_every": 9, "log_every": 9, "samples": 0}
    model = {"name": "flow-matching", "channels": (8, 16), "patch": 1}
    return Recipe(model=model, data={"source": "ramps"}, train=usual | options)


def together(size: int, work: Callable[..., None], *arguments: object) -> None:
    """Run a function of this file in several processes."""
    context = multiprocessing.get_context("fork")  # torch is imported already
    with free_port() as port:
        workers = [
            context.Process(target=_process, args=(rank, size, port, work, *arguments))
            for rank in range(size)
        ]
        for process in workers:
            process.start()
        for process in workers:
            process.join(300)
            assert process.exitcode == 0


def _process(
    rank: int, size: int, port: int, work: Callable[..., None], *arguments: object
) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    work(*arguments)


def trained(run: Path, parallel: str) -> None:
    """Train or resume a run."""
    if (run / "recipe.toml").exists():
        resume(run, ["train.steps=3"], dataset=Ramps(), device="cpu")
    else:
        stop = lambda loop, _: loop.step == 1  # noqa: E731
        sharded = recipe(parallel=parallel, checkpointing=True)
        train(sharded, run, dataset=Ramps(), device="cpu", on_step=stop)


def one_at_a_time() -> None:
    """Check which weights are gathered while each block computes, forward and backward."""
    processes.join(torch.device("cpu"))
    torch.manual_seed(0)
    model = build("flow-matching", SPEC, channels=(8, 16), patch=1)
    all_blocks, inner = [*blocks(model)], set[str]()
    options = TrainOptions(batch=4, parallel="fsdp-blocks", checkpointing=True)
    loop = Loop(model, images, options)
    names = {id(block): name for name, block in model.named_modules()}
    gathered = list[set[str]]()

    def look(block: nn.Module, *_: object) -> None:
        unsharded = (names[id(b)] for b in all_blocks if not any(map(is_shard, b.parameters())))
        gathered.append({*unsharded} - {names[id(block)]})

    for block in all_blocks:
        inner |= {f"{names[id(block)]}.{name}" for name, _ in block.named_parameters()}
        for child in block.children():
            child.register_forward_hook(lambda *_, block=block: look(block))
    loop.advance()
    forward = len([*(c for b in all_blocks for c in b.children())])
    assert len(gathered) > forward, "each block must be recomputed for its gradient"
    assert not any(gathered[:forward]), "forward, only one block may be gathered"
    assert max(map(len, gathered)) <= 1, "backward, the next block must be gathered in advance"
    assert all(is_shard(p) for p in model.parameters()), "afterwards, all weights must be shards"
    total = sum(p.numel() for p in model.parameters())
    local = sum(p.to_local().numel() for p in model.parameters())
    assert local < 0.6 * total and len(inner) > 20


def cost() -> None:
    """A dry run counts a process's own share of what it keeps between turns."""
    options = {"dataset": Ramps(), "device": "cpu"}
    full, local = (dry_run(recipe(parallel=kind), **options) for kind in ("ddp", "fsdp"))
    assert (local.weights, local.gradients) == (full.weights, full.gradients)
    assert local.moments < 0.6 * full.moments and local.average < 0.6 * full.average


def refused() -> None:
    """Check that models that cannot be gathered by blocks are refused in one line."""
    processes.join(torch.device("cpu"))
    options = TrainOptions(batch=4, parallel="fsdp-blocks")
    for name, message in (("wgan-gp", "several players"), ("lenet", "no blocks of layers")):
        labelled = replace(SPEC, height=28, width=28, labels=("a", "b"))
        with pytest.raises(LimnerError, match=message):
            Loop(build(name, labelled), images, options)
    loop = Loop(build("shortcut", SPEC, channels=(8, 16), patch=1), images, options)
    with pytest.raises(LimnerError, match=r"shortcut uses weights of its blocks .* outside"):
        loop.advance()
    for change, message in (
        (_clamp, "changes its weights itself"),
        (_penalise, "uses weights of its blocks"),
        (_skip, "uses other blocks on one process than on another"),
    ):
        model = build("flow-matching", SPEC, channels=(8, 16), patch=1)
        loop = Loop(model, images, options)
        change(model, next(blocks(model)))
        with pytest.raises(LimnerError, match=message):
            loop.advance()


def _clamp(model: Learner, block: nn.Module) -> None:
    """Make a block change its weights."""

    @torch.no_grad()
    def change(layer: nn.Module, _: object) -> None:
        for p in layer.parameters():
            p.clamp_(-0.01, 0.01)

    next(block.children()).register_forward_pre_hook(change)


def _penalise(model: Learner, block: nn.Module) -> None:
    """Make the loss use a block's weights outside of the block."""
    turns = model.turns

    def more(*args: Any) -> Iterator[Turn]:
        for turn in turns(*args):
            yield turn._replace(loss=turn.loss + sum(p.square().sum() for p in block.parameters()))

    model.turns = more


def _skip(model: Learner, block: nn.Module) -> None:
    """Make one process skip a block."""
    if processes.first():
        return
    names = {id(m): name for name, m in model.named_modules()}
    parent, _, place = names[id(block)].rpartition(".")
    setattr(model.get_submodule(parent), place, _First())


class _First(nn.Module):
    def forward(self, x: torch.Tensor, *_: object, **__: object) -> torch.Tensor:
        return x


@pytest.mark.parametrize("parallel", ["fsdp", "fsdp-blocks"])
def test_a_run_of_two_processes_is_resumed_with_one_and_three(tmp_path: Path, parallel: str):
    """Each takes a step; the result equals a run with one process."""
    run, single = tmp_path / "run", tmp_path / "alone"
    together(2, trained, run, parallel)
    state = run / "state" / "step-00000001"
    manifest = json.loads((state / "manifest.json").read_text())
    names = {name for name in manifest["files"] if name.startswith(("model", "optimizer"))}
    assert names == {
        f"{group}.{rank}-of-2.safetensors" for group in ("model", "optimizer") for rank in (0, 1)
    }
    first, second = (load_tensors(state / f"model.{rank}-of-2.safetensors") for rank in (0, 1))
    assert first["network.conv_in.weight"].shape == second["network.conv_in.weight"].shape
    assert {"average.safetensors", "counters.safetensors"} <= manifest["files"].keys()
    weights = load(run).state_dict()  # the model file has all weights
    assert weights["network.conv_in.weight"].shape[0] == 2 * len(first["network.conv_in.weight"])
    resume(run, ["train.steps=2"], dataset=Ramps())
    assert (run / "state" / "step-00000002" / "model.safetensors").is_file()
    together(3, trained, run, parallel)
    train(recipe(), single, dataset=Ramps())
    for name, weight in load(single).state_dict().items():
        actual = load(run).state_dict()[name]
        torch.testing.assert_close(actual.double(), weight.double(), atol=1e-5, rtol=0)
    stored, expected = load_state(run / "state", print), load_state(single / "state", print)
    assert stored is not None and expected is not None and stored.keys() == expected.keys()
    for group, tensors in expected.items():
        for name, tensor in tensors.items():
            value = stored[group][name]
            value = value.whole() if isinstance(value, StoredTensor) else value
            torch.testing.assert_close(value.double(), tensor.double(), atol=1e-4, rtol=0)


def refused_in(run: Path) -> None:
    """Resume a run in which another command works; it must be refused."""
    with pytest.raises(LimnerError, match=r"another command is training|says why"):
        resume(run, dataset=Ramps(), device="cpu")


def test_a_run_in_use_by_another_command_is_refused_by_all_processes(tmp_path: Path):
    train(recipe(steps=1), tmp_path, dataset=Ramps())
    partial = tmp_path / "state" / ".partial-step-00000002"
    partial.mkdir()
    with lock_folder(tmp_path, "in use"):
        together(2, refused_in, tmp_path)
        assert partial.exists()


def test_with_blocks_no_process_has_all_weights():
    together(2, one_at_a_time)


def test_a_dry_run_counts_the_memory_of_one_process():
    together(2, cost)


def test_models_that_cannot_be_gathered_by_blocks_are_refused():
    together(2, refused)
