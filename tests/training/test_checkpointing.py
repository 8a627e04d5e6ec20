"""Activation checkpointing: blocks are computed twice, with equal weights and less memory."""

import copy
from dataclasses import replace

import pytest
import torch
from registered import registered_cases
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.contract.text import text_spec
from limner.testing.cases import Case, toy_data
from limner.training.checkpointing import Checkpointing, blocks
from limner.training.loop import Loop
from limner.training.options import TrainOptions

SPEC = ImageSpec(3, 32, 32, labels=("one", "two"), text=text_spec(5))


def trained(case: Case, steps: int = 1, **options: bool) -> dict[str, Tensor]:
    """Return weights and buffers of a model, and their averages, after training steps."""
    train_options = TrainOptions(batch=4, optimizer="adam", **options)
    loop = Loop(case.build(), lambda first, n: toy_data(case.spec, first, n), train_options)
    loop.prepare()
    for _ in range(steps):
        loop.advance()
    state = loop.state()
    return state["model"] | {f"average.{name}": x for name, x in state["average"].items()}


@pytest.mark.parametrize(
    "name",
    [
        "flow-matching",  # a U-Net
        "kl-autoencoder",
        "nvae",  # batch norm's statistics
        "biggan",  # spectral norm's vectors
        "stylegan2",  # noise drawn within blocks, gradients of gradients
        "distilled",  # weights replaced during the forward pass
        "glow",
        "pixelcnnpp",  # dropout
        "dual-encoder",  # transformers
    ],
)
def test_weights_are_bit_for_bit_the_same(name: str):
    case = registered_cases(name)[-1]
    plain, checkpointed = trained(case), trained(case, checkpointing=True)
    assert plain.keys() == checkpointed.keys()
    for key, weight in plain.items():
        assert torch.equal(weight, checkpointed[key]), key


def peak(model: nn.Module, rows: int) -> int:
    """Return the peak of additional bytes during a turn and its gradients."""
    batch, noise = toy_data(SPEC, 0, rows), Noise.keyed(1, 2, range(rows))
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for turn in model.turns(batch, 0, noise):  # pyright: ignore
            turn.loss.backward()
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    events = profiler.profiler.kineto_results.events()
    changes = [event.nbytes() for event in events if event.name() == "[memory]"]
    return int(torch.tensor(changes).cumsum(0).max())


def test_a_u_net_needs_half_the_memory():
    model = build("flow-matching", SPEC, channels=(16, 16, 16), blocks=3, patch=1)
    checkpointed = copy.deepcopy(model)
    Checkpointing(checkpointed)
    assert peak(checkpointed, 8) < 0.5 * peak(model, 8)


def test_dropout_masks_are_the_same_in_the_second_computation():
    case = registered_cases("flow-matching")[0]
    case = replace(case, config={**case.config, "dropout": 0.5})
    plain, checkpointed = trained(case), trained(case, checkpointing=True)
    assert all(torch.equal(weight, checkpointed[key]) for key, weight in plain.items())


class NoisyBlock(nn.Module):
    """A block that draws from the noise that it is given by name, and counts its forward passes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.count: Tensor
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor, *, noise: Noise) -> Tensor:
        self.count += 1
        return self.linear(x * noise.normal(3))


def test_noise_and_buffers_are_as_before_after_the_gradients():
    """Two passes draw different numbers; the gradients compute both of them again."""
    plain = NoisyBlock()
    model = build("flow-matching", SPEC, channels=(8, 16))
    model.extra = nn.ModuleList([checkpointed := copy.deepcopy(plain)])
    Checkpointing(model)
    for block in (plain, checkpointed):
        noise, x = Noise.sampling(0, 2), torch.ones(2, 3)
        for _ in range(2):
            x = block(x, noise=noise)
        x.sum().backward()
        assert noise.draws == 2 and block.count == 2
    for p, other in zip(plain.parameters(), checkpointed.parameters()):
        assert p.grad is not None and other.grad is not None and torch.equal(p.grad, other.grad)


def test_blocks_are_list_members_with_layers_and_not_nested():
    def unit() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 2), nn.ReLU())

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.ModuleList([unit(), unit()])

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stages = nn.ModuleList([nn.ModuleList([Block(), Block()]), unit(), nn.ReLU()])
            self.alone = unit()

    network = Network()
    first, unlisted, _ = network.stages
    assert isinstance(first, nn.ModuleList)
    assert [*blocks(network)] == [*first, unlisted]


def test_a_copy_of_a_block_uses_its_own_weights():
    model = build("flow-matching", SPEC, channels=(8, 16))
    Checkpointing(model)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    x, noise = toy_data(SPEC, 0, 2), Noise.keyed(1, 2, range(2))
    [turn] = other.turns(x, 0, noise)
    turn.loss.backward()
    assert all(p.grad is None for p in model.parameters())


def test_unsuitable_models_are_refused_in_one_line():
    gan = registered_cases("gan")[0]
    with pytest.raises(LimnerError, match=r"^model 'gan' has no blocks .*micro_batches=2[^\n]*$"):
        trained(gan, checkpointing=True)
    with pytest.raises(LimnerError, match=r"checkpointing=true or train.compile=true, not both"):
        TrainOptions(checkpointing=True, compile=True)
    model = build("flow-matching", SPEC, channels=(8, 16))
    unused = Checkpointing(model)
    with pytest.raises(LimnerError, match="has no blocks"):
        unused.check()
