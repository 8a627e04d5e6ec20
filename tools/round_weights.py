"""Round a trained model's weights to few levels, so that its file is smaller.

    python tools/round_weights.py runs/scenes128 runs/scenes128-rounded --bits 3.5

Each row of a matrix or kernel becomes whole multiples of its own step. For normal weights with a
deviation of sigma, such multiples have an entropy of log2(sigma sqrt(2 pi e) / step) bits, which is
about what they take in a file of eight bits (`limner.contract.packing`). A step raises the loss by
about h step^2 / 24 for each weight, where h is the mean square of its gradient. So at a mean
entropy of `bits`, the steps c / sqrt(h) raise the loss least.

Weights are rounded one column after the other. The change that a column's rounding makes to the
layer's output is compensated, as far as possible, by the columns that are not yet rounded. For a
layer y = W x with H = E[x x^T] over training pictures and U^T U = H^-1, U upper triangular,

    e_i = (W_i - round(W_i)) / U_ii,    W_j <- W_j - e_i U_ij for j > i.

Frantar, Ashkboos, Hoefler, Alistarh (2022). GPTQ: accurate post-training quantization for
generative pre-trained transformers. arXiv:2210.17323.

Matrices that do not belong to a layer, such as those of low-rank changes, and those of a critic,
which does not paint, are rounded without compensation; tall ones by columns.

Only the weights that a run learnt are rounded. Weights that its recipe names as frozen, and parts
that no player trains, such as a first stage, stay unchanged.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from command_line import count, mistakes_in_one_line, number_within
from torch import Tensor, nn

from limner.contract.checkpoint import load, model_file, read_header, save_model
from limner.contract.model import Learner
from limner.contract.noise import Noise, Purpose
from limner.data import open_data
from limner.data.sources import held_out_options
from limner.data.stream import Stream
from limner.training.options import TrainOptions
from limner.training.player import players_of

_ENTROPY = math.log2(math.sqrt(2 * math.pi * math.e))  # bits of a normal variable of variance 1
_MOST = 60  # multiples in a row; eight-bit files can store up to 63 multiples of a step
_BITS = (1.0, 7.0)  # least and most bits of a row
_SMALLEST = 256  # weights; smaller tensors are not rounded
_DAMPING = 0.01  # relative to the mean of H's diagonal
_BATCH = 8
_ROWS = 2048  # inputs of a layer that are used from each batch


Layer = nn.Linear | nn.Conv2d
Weights = dict[str, nn.Parameter]


def lines(weight: Tensor, of_layer: bool) -> Tensor:
    """Return a weight as the matrix in which each row has one step."""
    rows = weight.detach().flatten(1)
    tall = weight.ndim == 2 and len(rows) > rows.shape[1]
    return rows.T if tall and not of_layer else rows


def inputs(layer: Layer, x: Tensor) -> Tensor:
    """Return the vectors that the rows of a layer's weight multiply, (n, weights of a row)."""
    if isinstance(layer, nn.Conv2d):
        kernel, stride = layer.kernel_size, layer.stride
        assert not isinstance(layer.padding, str)
        x = F.unfold(x, kernel, padding=layer.padding, stride=stride).transpose(1, 2)
    x = x.flatten(0, -2)
    return x[torch.randperm(len(x))[:_ROWS]].double()


@torch.no_grad()
def round_layer(weight: Tensor, moments: Tensor | None, step: Tensor) -> Tensor:
    """Round a matrix of weights to multiples of each row's step.

    Args:
        weight: matrix, (out, n).
        moments: H, (n, n); None to round without compensation.
        step: step of each row, (out,).
    """
    if moments is None:
        step = step.to(weight)[:, None]
        return (weight.detach() / step).round() * step
    n, rows = len(moments), weight.double().clone()
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


def forget(rows: Tensor, moments: Tensor | None, squares: Tensor) -> None:
    """Set columns that do not affect the loss, such as masked ones, to 0, also in H."""
    unused = squares.sum(0) == 0
    rows[:, unused] = 0
    if moments is not None:
        moments[unused] = moments[:, unused] = 0


def steps(weights: dict[str, Tensor], squares: dict[str, Tensor], bits: float) -> dict[str, Tensor]:
    """Return the step of each row.

    Args:
        weights: matrices to round, by name.
        squares: mean squares of their gradients.
        bits: mean entropy of a weight.
    """
    rows = {name: weight.double() for name, weight in weights.items()}
    cost = {name: squares[name].double().mean(1) for name in weights}
    sigma = torch.cat([row.std(1).clamp(min=1e-12) for row in rows.values()])
    size = torch.cat([torch.full((len(row),), float(row.shape[1])) for row in rows.values()])
    h = torch.cat([*cost.values()]).clamp(min=1e-20)
    log_scale = (sigma * h.sqrt()).log2()
    entropy, low, high = log_scale, -60.0, 60.0
    for _ in range(60):
        middle = (low + high) / 2
        entropy = (_ENTROPY + log_scale - middle).clamp(*_BITS)
        mean = float((entropy * size).sum() / size.sum())
        low, high = (middle, high) if mean > bits else (low, middle)
    largest = torch.cat([row.abs().amax(1) for row in rows.values()])
    step = torch.maximum(sigma * 2 ** (_ENTROPY - entropy), largest / _MOST)
    mantissa, exponent = torch.frexp(step)  # a mantissa with few digits needs little space
    step = torch.ldexp((16 * mantissa).ceil() / 16, exponent)
    return dict(zip(rows, step.split([len(row) for row in rows.values()])))


def learnt_weights(model: Learner, frozen: list[str]) -> Weights:
    """Return the weights to round, by name."""
    options = TrainOptions(frozen=tuple(frozen))
    trained = {id(p) for player in players_of(model, options).values() for p in player.parameters}
    return {
        name: weight
        for name, weight in model.named_parameters()
        if id(weight) in trained and weight.ndim >= 2 and weight.numel() >= _SMALLEST
    }


def layers_of(model: Learner, weights: Weights) -> dict[str, Layer]:
    """Return the layers to which these weights belong, by the weights' names."""
    layers = {f"{name}.weight": layer for name, layer in model.named_modules()}
    return {
        name: layer
        for name in weights
        if isinstance(layer := layers.get(name), Layer)
        and getattr(layer, "groups", 1) == 1
        and not name.startswith("critic.")
    }


def losses(model: Learner, run: Path, n: int, held_out: bool = False) -> Iterator[Tensor]:
    """Yield the loss of each batch, n pictures in all: held-out ones or those of the recipe."""
    options = read_header(model_file(run)).recipe["data"]
    data = open_data(**options | (held_out_options(options["source"]) if held_out else {}))
    stream = Stream(data, seed=0)
    for first in range(0, n, _BATCH):
        noise = Noise.keyed(0, Purpose.VALIDATION, range(first, first + _BATCH))
        yield from (turn.loss for turn in model.turns(stream.batch(first, _BATCH), 0, noise))


def mean_loss(model: Learner, run: Path, n: int) -> float:
    """Return the mean loss of n held-out pictures."""
    losses_of_batches = [float(loss.detach()) for loss in losses(model, run, n, held_out=True)]
    return sum(losses_of_batches) / len(losses_of_batches)


def measure_statistics(
    model: Learner, weights: Weights, run: Path, n: int
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return the mean square of each weight's gradient, and H of the weights of layers."""
    moments: dict[str, Tensor] = {}
    squares = {name: torch.zeros_like(weight) for name, weight in weights.items()}

    def register(name: str, layer: Layer) -> None:
        def accumulate(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            with torch.no_grad():
                x = inputs(layer, args[0])
                moments[name] = moments.get(name, 0) + x.T @ x / len(x)

        handles.append(layer.register_forward_pre_hook(accumulate))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, layer in layers_of(model, weights).items():
        register(name, layer)
    for loss in losses(model, run, n):
        model.zero_grad()
        loss.backward()
        for name, weight in weights.items():
            if weight.grad is not None:
                squares[name] += weight.grad.square()
    for handle in handles:
        handle.remove()
    return squares, moments


def round_model(model: Learner, run: Path, bits: float, critic: float, n: int) -> None:
    """Round a model's weights in place.

    Args:
        model: model of the run.
        run: folder of the run.
        bits: mean entropy of a weight.
        critic: mean entropy of a critic's weight.
        n: number of training pictures for estimating gradients and H.
    """
    weights = learnt_weights(model, read_header(model_file(run)).recipe["train"].get("frozen", []))
    if not weights:
        raise SystemExit(f"{run} has no learnt matrices of its own; pass a run that trained some")
    squares, moments = measure_statistics(model, weights, run, n)
    rows = {name: lines(weight, name in moments) for name, weight in weights.items()}
    cost = {name: lines(squares[name], name in moments) for name in weights}
    if unused := [name for name in weights if not squares[name].any()]:
        raise SystemExit(f"the loss does not depend on {unused[0]}, so its step is unknown")
    step = dict[str, Tensor]()
    for paints, mean in ((True, bits), (False, critic)):
        group = {n: matrix for n, matrix in rows.items() if paints != n.startswith("critic.")}
        step |= steps(group, cost, mean) if group else {}
    for name, matrix in rows.items():
        moment = moments.get(name)
        forget(matrix, moment, cost[name])
        rounded, weight = round_layer(matrix, moment, step[name]), weights[name]
        result = rounded if len(matrix) == len(weight) else rounded.T
        weight.data.copy_(result.reshape(weight.shape))


def main() -> None:
    """Round a run, and print the loss before and after."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, help="run to round")
    parser.add_argument("out", type=Path, help="folder to write")
    parser.add_argument(
        "--bits", type=number_within(*_BITS), default=3.5, help="mean bits of a weight"
    )
    parser.add_argument(
        "--critic", type=number_within(*_BITS), help="the same for a critic; default: --bits"
    )
    parser.add_argument(
        "-n", type=count, default=256, help="pictures for estimating gradients and H"
    )
    args = parser.parse_args()
    with mistakes_in_one_line():
        torch.manual_seed(0)
        header, model = read_header(model_file(args.run)), load(args.run)
        before = mean_loss(model, args.run, args.n)
        round_model(model, args.run, args.bits, args.critic or args.bits, args.n)
        save_model(model, args.out, images_seen=header.images_seen, recipe=header.recipe)
        after = mean_loss(load(args.out), args.run, args.n)  # reloaded, as models cache results
        print(f"loss of {args.n} held-out pictures: {before:.4f} before, {after:.4f} after")


if __name__ == "__main__":
    main()
