"""Round a trained model's weights to few levels, so that its file takes less room once compressed.

    python tools/round_weights.py runs/scenes128 runs/scenes128-rounded --bits 3.5

Each row of a matrix or kernel becomes whole multiples of a step of its own, in proportion to the
row's standard deviation: of normal weights such multiples have an entropy of `bits`, which is about
what a compressed file takes. Weights are rounded one column after the other, and what a column's
rounding changed of the layer's output is mended, as far as can be, by the columns that are still to
be rounded: of a layer y = W x with H = E[x x^T] over training pictures and U^T U = H^-1, U upper
triangular,

    e_i = (W_i - round(W_i)) / U_ii,    W_j <- W_j - e_i U_ij for j > i.

Frantar, Ashkboos, Hoefler, Alistarh (2022). GPTQ: accurate post-training quantization for
generative pre-trained transformers. arXiv:2210.17323.

Only the weights that a run learnt are rounded: those that its recipe names as frozen, and parts
that no player trains, such as a first stage, stay as they are.
"""

import argparse
import fnmatch
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limner.contract.checkpoint import load, model_file, read_header, save_model
from limner.contract.model import Learner
from limner.contract.noise import Noise, Purpose
from limner.data import open_data
from limner.data.stream import Stream

_ENTROPY = math.log2(math.sqrt(2 * math.pi * math.e))  # bits of a normal variable of variance 1
_SMALLEST = 1024  # weights of a tensor that is worth rounding, as in `limner.contract.packing`
_DAMPING = 0.01  # of the mean of H's diagonal
_BATCH = 32
_ROWS = 4096  # inputs of a layer that are seen of a batch


def inputs(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """What the rows of a layer's weight are multiplied with, (n, weights of a row)."""
    if isinstance(layer, nn.Conv2d):
        kernel, stride = layer.kernel_size, layer.stride
        assert not isinstance(layer.padding, str)
        x = F.unfold(x, kernel, padding=layer.padding, stride=stride).transpose(1, 2)
    x = x.flatten(0, -2)
    return x[torch.randperm(len(x))[:_ROWS]].double()


@torch.no_grad()
def round_layer(weight: Tensor, moments: Tensor, bits: float) -> Tensor:
    """A matrix of weights in multiples of each row's step.

    Args:
        weight: (out, n).
        moments: H, (n, n).
        bits: the entropy of the multiples.
    """
    n = len(moments)
    rows, step = weight.double().clone(), weight.double().std(1) * 2 ** (_ENTROPY - bits)
    step = step.clamp(min=1e-12)
    order = moments.diag().argsort(descending=True)
    rows, moments = rows[:, order], moments[order][:, order]
    moments = moments + _DAMPING * moments.diag().mean().clamp(min=1e-12) * torch.eye(n)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments))
    u = torch.linalg.cholesky(inverse, upper=True)
    for i in range(n):
        rounded = (rows[:, i] / step).round() * step
        error = (rows[:, i] - rounded) / u[i, i]
        rows[:, i + 1 :] -= error[:, None] * u[i, i + 1 :]
        rows[:, i] = rounded
    return rows[:, order.argsort()].to(weight.dtype)


def learnt(model: Learner, frozen: list[str]) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers whose weights are rounded, by name."""
    trained = {id(p) for player in model.players().values() for p in player.parameters()}
    kept = {
        id(p)
        for player in model.players().values()
        for name, p in player.named_parameters()
        if any(fnmatch.fnmatch(name, f"*{each}*") for each in frozen)
    }
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
        and getattr(layer, "groups", 1) == 1
        and id(layer.weight) in trained - kept
        and layer.weight.numel() >= _SMALLEST
    }


@torch.no_grad()
def losses(model: Learner, run: Path, n: int, split: str) -> float:
    """The mean loss of pictures of a split."""
    data = open_data(**read_header(model_file(run)).recipe["data"] | {"split": split})
    stream, total = Stream(data, seed=0), 0.0
    for at in range(0, n, _BATCH):
        noise = Noise.keyed(0, Purpose.VALIDATION, range(at, at + _BATCH))
        total += sum(float(t.loss) for t in model.turns(stream.batch(at, _BATCH), 0, noise))
    return total / (n / _BATCH)


def round_model(model: Learner, run: Path, bits: float, n: int) -> None:
    """Round a model's weights in place.

    Args:
        model: that of the run.
        run: its folder.
        bits: see `round_layer`.
        n: training pictures by which the layers are weighed.
    """
    recipe = read_header(model_file(run)).recipe
    layers = learnt(model, recipe["train"].get("frozen", []))
    moments: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Linear | nn.Conv2d) -> None:
        def see(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = inputs(layer, given[0])
            moments[name] = moments.get(name, 0) + x.T @ x / len(x)

        handles.append(layer.register_forward_pre_hook(see))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, layer in layers.items():
        watch(name, layer)
    losses(model, run, n, "train")
    for handle in handles:
        handle.remove()
    for name, layer in layers.items():
        if name in moments:
            rounded = round_layer(layer.weight.flatten(1), moments[name], bits)
            layer.weight.data.copy_(rounded.view_as(layer.weight))
        print(f"{name}  {tuple(layer.weight.shape)}", flush=True)


def main() -> None:
    """Round a run, and tell what that costs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--bits", type=float, default=3.5)
    parser.add_argument("-n", type=int, default=256, help="pictures by which layers are weighed")
    asked = parser.parse_args()
    torch.manual_seed(0)
    header, model = read_header(model_file(asked.run)), load(asked.run)
    before = losses(model, asked.run, asked.n, "test")
    round_model(model, asked.run, asked.bits, asked.n)
    after = losses(model, asked.run, asked.n, "test")
    print(f"loss of {asked.n} held-out pictures: {before:.4f} before, {after:.4f} after")
    save_model(model, asked.out, images_seen=header.images_seen, recipe=header.recipe)


if __name__ == "__main__":
    main()
