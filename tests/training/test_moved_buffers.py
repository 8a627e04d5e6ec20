"""With two processes, buffers written in training are equal and those of the whole batch."""

import functools
import multiprocessing
import os
from pathlib import Path

import pytest
import torch
from ports import free_port
from registered import registered_cases
from torch import Tensor

from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.model import Learner
from limner.contract.registry import entry, models
from limner.gans.augmentation import Augmentation
from limner.runtime import processes
from limner.runtime.seeding import seed_torch
from limner.testing.cases import Case, toy_data
from limner.training.loop import Loop
from limner.training.options import TrainOptions


def _images(first: int, n: int) -> Batch:
    x = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    return Batch(x[torch.arange(first, first + n) % 64], Condition())


def _sure(augmentation: Augmentation, real: Tensor, step: int) -> None:
    """Update p as with a critic that is always certain, so that p rises at every update."""
    _update(augmentation, real.abs() + 1, step)


_update = Augmentation.update


def _stylegan2() -> dict[str, Tensor]:
    """Return the buffers after 16 steps with a critic that is always certain."""
    config = {
        "latent": 4,
        "style": 8,
        "depth": 2,
        "channels": 4,
        "r1_every": 0,
        "path_every": 4,
        "augment": 0.6,
    }
    with seed_torch((0, "weights")):
        model = entry("stylegan2").model(ImageSpec(3, 8, 8), augment_images=1000, **config)
    options = TrainOptions(steps=16, batch=16, optimizer="adam", lr=1e-5, betas=(0.0, 0.99))
    loop = Loop(model, _images, options)
    for _ in range(16):
        loop.advance()
    return dict(model.named_buffers())


def _written() -> dict[str, Tensor]:
    """Return the buffers of a module to which each process writes its rank."""
    module = torch.nn.Module()
    module.register_buffer("statistic", torch.tensor([8.0, 8.0]))
    module.register_buffer("count", torch.tensor(8))
    module.register_buffer("seen", torch.tensor([processes.rank() == 0, False]))
    module.register_buffer("pool", torch.zeros(2), persistent=False)
    for name in ("statistic", "count", "pool"):
        module.get_buffer(name).fill_(processes.rank())
    processes.average_buffers_(module)
    return dict(module.named_buffers())


def _trained(case: Case) -> dict[str, Tensor]:
    """Return the floating-point buffers of a small model and its average after two steps."""
    loop = Loop(
        case.build(), lambda first, n: toy_data(case.spec, first, n), TrainOptions(batch=4, lr=1e-3)
    )
    loop.prepare()
    for _ in range(2):
        loop.advance()
    live, average = loop.model.state_dict(), loop.average.state_dict()
    names = _saved_buffers(loop.model)
    return {name: live[name] for name in names} | {f"average {n}": average[n] for n in names}


def _saved_buffers(model: Learner) -> list[str]:
    saved = model.state_dict().keys()
    return [name for name, _ in model.named_buffers() if name in saved]


def _pools() -> dict[str, Tensor]:
    """Return the memory of a training of six steps, and of one resumed after three."""
    case = registered_cases("cyclegan")[0]

    def loop() -> Loop:
        options = TrainOptions(batch=4, lr=1e-3)
        return Loop(case.build(), lambda first, n: toy_data(case.spec, first, n), options)

    straight, resumed = loop(), loop()
    for _ in range(3):
        straight.advance()
    state = straight.state()
    processes.broadcast_([*state["memory"].values()])  # since the first process writes the state
    resumed.restore(state)
    for each in (straight, resumed):
        for _ in range(3):
            each.advance()
    memories = {"straight": straight.model.memory(), "resumed": resumed.model.memory()}
    return {f"{name} {key}": x for name, memory in memories.items() for key, x in memory.items()}


@functools.cache
def _cases_with_buffers() -> list[Case]:
    cases = [registered_cases(name)[0] for name in models()]
    cases += [case for case in registered_cases("flow-matching") if case.spec.text]
    return [case for case in cases if _saved_buffers(case.build())]


def _all_models() -> dict[str, Tensor]:
    buffers = {}
    for case in _cases_with_buffers():
        for key, value in _trained(case).items():
            buffers[f"{case} {key}"] = value
    return buffers


def _process(rank: int, port: int, name: str, folder: Path) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    processes.join(torch.device("cpu"))
    torch.save({k: v.clone() for k, v in globals()[name]().items()}, folder / f"{rank}.pt")


def on_two(name: str, folder: Path) -> list[dict[str, Tensor]]:
    """Return the results of a function of this file in each of two processes."""
    context = multiprocessing.get_context("fork")  # torch is imported already
    with free_port() as port:
        workers = [context.Process(target=_process, args=(i, port, name, folder)) for i in range(2)]
        for process in workers:
            process.start()
        for process in workers:
            process.join(300)
            assert process.exitcode == 0
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def test_only_saved_floating_point_and_boolean_buffers_are_synchronised(tmp_path: Path):
    for rank, buffers in enumerate(on_two("_written", tmp_path)):
        assert buffers["statistic"].tolist() == [0.5, 0.5]
        assert buffers["count"] == rank
        assert buffers["seen"].tolist() == [True, False]
        assert buffers["pool"].tolist() == [rank, rank]


def test_augmentation_rises_as_with_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(Augmentation, "update", _sure)
    single, pair = _stylegan2(), on_two("_stylegan2", tmp_path)
    assert float(single["augmentation.p"]) == pytest.approx(16 * 16 / 1000)
    for buffers in pair:
        assert float(buffers["augmentation.p"]) == pytest.approx(float(single["augmentation.p"]))
        assert buffers["path_length"] == pair[0]["path_length"]
    assert float(pair[0]["path_length"]) == pytest.approx(float(single["path_length"]), rel=0.2)


def test_every_buffer_of_every_model_is_equal(tmp_path: Path):
    assert _cases_with_buffers()  # computed before the processes fork
    one, other = on_two("_all_models", tmp_path)
    names = [name for name in one if name.endswith("running_mean")]
    assert {name.split("-")[0] for name in names} >= {"gan", "biggan", "nvae"}
    for name in one:
        assert torch.equal(one[name], other[name]), name


def test_each_process_resumes_with_its_own_pool(tmp_path: Path):
    one, other = on_two("_pools", tmp_path)
    assert not torch.equal(one["straight A.paintings"], other["straight A.paintings"])
    for memory in (one, other):
        for name in ("A.paintings", "B.paintings", "A.count", "B.count"):
            assert torch.equal(memory[f"straight {name}"], memory[f"resumed {name}"]), name
