"""Promises 1 to 10 of the contract, a function each; a broken one raises an AssertionError."""

import copy
import itertools
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limner.contract.abilities import ExtractsFeatures
from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, ImageSpec, to_uint8
from limner.contract.likelihood import LikelihoodModel
from limner.contract.model import GenerativeModel, Learner, Turn
from limner.contract.noise import Noise
from limner.contract.registry import entry
from limner.contract.turns import checked_turns
from limner.evaluate.judges.judge import Judge
from limner.testing.cases import (
    SEED,
    Case,
    check_oblong,
    conditions_for,
    likelihood,
    paint,
    quick_options,
    toy_data,
)
from limner.training.loop import Loop, TrainOptions

_MAX_GAME_STEPS = 32  # steps until every weight must have had a gradient


def _first_difference(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> str:
    """Return the first name under which two states differ; empty if they are equal."""
    if a.keys() != b.keys():
        return min(a.keys() ^ b.keys())
    return next((k for k in a if a[k].dtype != b[k].dtype or not torch.equal(a[k], b[k])), "")


def _copy_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def _loop(case: Case, micro_batches: int = 1, batch: int = 4) -> Loop:
    options = TrainOptions(
        steps=8, batch=batch, micro_batches=micro_batches, lr=1e-3, ema=0.9, seed=SEED
    )
    return Loop(case.build(), lambda first, n: toy_data(case.spec, first, n), options)


def check_builds(case: Case) -> None:
    """1. It builds from a specification; its configuration is JSON and rebuilds the network."""
    model = case.build()
    description = json.loads(json.dumps(model.description()))
    assert description["config"] == model.config, "the configuration changes when written as JSON"
    spec = ImageSpec.from_json(description["spec"])
    assert spec == model.spec, "the specification changes when written as JSON"
    nested = {k: v.build() for k, v in case.config.items() if isinstance(v, Case)}
    rebuilt = type(model)(spec, **description["config"] | nested)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (model, rebuilt)]
    assert shapes[0] == shapes[1], "the configuration does not rebuild the same network"
    assert rebuilt.config == model.config, "the configuration does not rebuild itself"
    if not nested:
        case.build_with_defaults()
    formula: object = model.formula()
    assert isinstance(formula, list), f"formula returns {type(formula).__name__}, not a list"
    if model.name:
        TrainOptions.of(entry(model.name).train)


def check_paints(case: Case) -> None:
    """2. Samples are finite float32 pictures of the right shape in [-1, 1], and sampling changes
    nothing; also if networks compute in bfloat16, and if pictures are not square.
    """
    model = case.ready()
    before, generator = _copy_state(model.state_dict()), torch.get_rng_state()
    for half in (False, True):
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                x = paint(model, 3, conditions_for(model, 3))
        except RuntimeError as error:
            assert not half, f"cannot paint in bfloat16: {error}"
            raise
        assert x.shape == (3, *model.spec.shape), f"shape {tuple(x.shape)}, not {model.spec.shape}"
        assert x.dtype == torch.float32, f"{x.dtype}, not float32"
        assert bool(x.isfinite().all()), "not finite"
        assert float(x.abs().max()) <= 1, "outside [-1, 1]"
        assert not x.requires_grad, "a picture requires a gradient"
    changed = _first_difference(before, model.state_dict())
    assert not changed, f"sampling changes '{changed}'"
    assert torch.equal(generator, torch.get_rng_state()), (
        "sampling draws from torch's global generator; draw from `noise`"
    )
    check_oblong(case)


def check_last_frame(case: Case) -> None:
    """3. The last frame is the sample, whether or not earlier frames are requested.

    There are as many frames as `frame_count` says.
    """
    model = case.ready()
    c = conditions_for(model, 2)
    options = quick_options(model)
    frames = list(model.watch(2, c, seed=5, **options))
    sample = paint(model, 2, c)
    assert torch.equal(frames[-1], sample), (
        "the last frame is not the sample; are random numbers drawn that are not from `noise`?"
    )
    for frame in frames:
        assert frame.shape == sample.shape, f"a frame has the shape {tuple(frame.shape)}"
        assert float(frame.abs().max()) <= 1, "a frame is outside [-1, 1]"
    count = model.frame_count(**model.sampler_options(options))
    assert count == len(frames), (
        f"frame_count returns {count}, and frames yields {len(frames)}; progress bars need the "
        "same number"
    )


def check_any_batch(case: Case) -> None:
    """4. The same seed gives the same picture, alone or in any batch; the same applies to
    likelihoods and to features of judges.

    Pictures may differ by one level of 256, because sums round differently. Autoregressive models
    must be exact, in float64: one pixel that rounds differently would change all that follow.
    """
    model = case.ready()
    if isinstance(model, ExtractsFeatures):
        _check_features(model)
    if not isinstance(model, GenerativeModel):
        return
    is_exact = entry(model.name).family == "autoregressive" if model.name else False
    if is_exact:
        model = model.double()
    c = conditions_for(model, 8)
    if c.label is not None and model.condition == "optional":
        c = replace(c, label=torch.where(torch.arange(8) == 6, -1, c.label))
    many = to_uint8(paint(model, 8, c)).int()
    for first, n in ((0, 3), (5, 3), (6, 1)):
        rows = slice(first, first + n)
        few = to_uint8(paint(model, n, c.rows(rows), 5 + first)).int()
        difference = int((few - many[rows]).abs().max())
        assert difference <= (0 if is_exact else 1), (
            f"pictures {first} .. {first + n - 1} of 8 differ by {difference} levels "
            "when painted by themselves"
        )
    if isinstance(model, LikelihoodModel):
        x, c = toy_data(model.spec, 0, 8)
        x, streams = x.to(model.dtype), [Noise.sampling(0, n) for n in (8, 3)]
        results = [likelihood(model, x[: len(s)], c.rows(slice(0, len(s))), s) for s in streams]
        nats = [result.nats for result in results]
        rtol = 1e-3 if model.likelihood_is_slow else 1e-4  # adaptive steps amplify rounding errors
        assert torch.allclose(nats[0][:3], nats[1], rtol=rtol, atol=1e-3), (
            "an image's likelihood depends on the batch that it is in"
        )
        assert results[0].kind != "exact" or not streams[0].draws, (
            "a likelihood that draws from `noise` is not exact; return "
            'Likelihood(nats, "lower") or Likelihood(nats, "estimate")'
        )


def _check_features(model: ExtractsFeatures) -> None:
    x, _ = toy_data(model.spec, 0, 8)
    with torch.no_grad():
        many, few = model.features(x), model.features(x[5:])
    assert many.dim() == 2 and len(many) == 8, (
        f"features of 8 pictures have the shape {tuple(many.shape)}, not a row for each"
    )
    assert torch.allclose(many[5:], few, rtol=1e-3, atol=1e-4), (
        "a picture's features depend on the batch that it is in, or are random"
    )
    scores = model.logits(many) if isinstance(model, Judge) else None
    if scores is not None and model.spec.labels:
        assert scores.shape == (8, len(model.spec.labels)), (
            f"logits of 8 pictures have the shape {tuple(scores.shape)}, not a score for each of "
            f"{len(model.spec.labels)} classes"
        )


def check_turns(case: Case) -> None:
    """5. Each loss is a finite scalar and trains its own player, every weight of it, and no other
    player.

    Also, no weight is in two players, the order of turns is the same for any data, the batch is not
    changed, and the model itself may change only the player that just had its turn (as WGAN clips
    its critic).
    """
    model = case.ready().train()
    players = {
        name: [p for p in part.parameters() if p.requires_grad]
        for name, part in model.players().items()
    }
    assert players, "players returns no part of the model; return the trained ones by name"
    for name, weights in players.items():
        assert weights, f"player '{name}' trains no weights; put layers in attributes or ModuleList"
    ids = [id(p) for weights in players.values() for p in weights]
    assert len(ids) == len(set(ids)), "a weight is in two players"
    names = {id(p): name for name, p in model.named_parameters()}
    assert set(ids) <= names.keys(), "a player has weights that the model does not have"
    untrained, size = set(ids), 4 * model.batches_per_round
    for step in range(_MAX_GAME_STEPS):
        own: list[nn.Parameter] = []
        copies = {id(p): p.detach().clone() for p in model.parameters()}
        batch, _, noise = _turn_arguments(case, step, size)
        for turn in checked_turns(model, batch, step, noise):
            _check_weights_unchanged(model, copies, own, names)
            copies |= {id(p): p.detach().clone() for p in own}
            own = players[_player_of(turn, players)]
            _check_loss(turn)
            turn.loss.backward(inputs=own)
            _check_weights_unchanged(model, copies, [], names)
            for p in model.parameters():
                is_trained = any(p is q for q in own)
                assert is_trained or p.grad is None, (
                    f"the turn of '{turn.of}' leaves a gradient in '{names[id(p)]}'"
                )
                if p.grad is not None:
                    assert bool(p.grad.isfinite().all()), f"the gradient of '{names[id(p)]}'"
                    untrained.discard(id(p))
                    p.data -= 1e-3 * p.grad
                    copies[id(p)], p.grad = p.detach().clone(), None
        _check_weights_unchanged(model, copies, own, names)
        _check_batch_unchanged(batch, _turn_arguments(case, step, size)[0])
        if not untrained and step:
            break
    assert not untrained, f"'{min(names[i] for i in untrained)}' is trained by no turn"
    orders = [
        [turn.of for turn in model.turns(*_turn_arguments(case, 0, size, data=data))]
        for data in (0, 10**6)
    ]
    assert orders[0] == orders[1], "the order of turns depends on data"


def _turn_arguments(case: Case, step: int, n: int, data: int = 0) -> tuple[Batch, int, Noise]:
    first = data + step * n
    return toy_data(case.spec, first, n), step, Noise.keyed(SEED, step, range(first, first + n))


def _check_batch_unchanged(batch: Batch, before: Batch) -> None:
    pairs = {"x": (batch.x, before.x)}
    for part in ("label", "text", "image"):
        if getattr(before.c, part) is not None:
            pairs[f"c.{part}"] = getattr(batch.c, part), getattr(before.c, part)
    for name, (now, was) in pairs.items():
        assert torch.equal(now, was), (
            f"turns changes batch.{name} in place, which spoils the held-out loss; change a copy"
        )


def _player_of(turn: Turn, players: Iterable[str]) -> str:
    names = list(players)
    if turn.of is None and len(names) == 1:
        return names[0]
    assert turn.of in names, (
        f"a turn of '{turn.of}', and the players are {', '.join(names)}; name one, as in "
        "Turn(loss, of=NAME), or return this part from `players`"
    )
    return str(turn.of)


def _check_loss(turn: Turn) -> None:
    assert turn.loss.shape == (), f"a loss of the shape {tuple(turn.loss.shape)}, not a scalar"
    assert bool(turn.loss.isfinite()), f"a loss of {turn.loss.item()}"
    for name, value in turn.logs.items():
        assert not value.requires_grad, f"the log '{name}' keeps its graph; detach it"


def _check_weights_unchanged(
    model: Learner,
    copies: Mapping[int, Tensor],
    own: list[nn.Parameter],
    names: Mapping[int, str],
) -> None:
    allowed = {id(p) for p in own}
    for p in model.parameters():
        if id(p) not in allowed:
            assert torch.equal(p, copies[id(p)]), (
                f"'{names[id(p)]}' was changed outside its player's turn"
            )


def check_saves(case: Case) -> None:
    """6. A saved model loads as the same model: weights, configuration, specification, pictures."""
    model = case.ready()
    with tempfile.TemporaryDirectory() as folder:
        save_model(model, Path(folder) / "model.safetensors")
        loaded: Any = load(folder)
    changed = _first_difference(model.state_dict(), loaded.state_dict())
    assert not changed, f"'{changed}' differs from what was saved"
    assert loaded.description() == model.description(), "the description changes when saved"
    if isinstance(model, GenerativeModel):
        c = conditions_for(model, 3)
        assert torch.equal(paint(model, 3, c), paint(loaded, 3, c)), (
            "a loaded model paints other pictures; is all its state in parameters and buffers?"
        )


def check_condition(case: Case) -> None:
    """7. Another class, caption or conditioning image changes the picture; if conditions are
    optional, a model also paints without one.

    Then a null condition (label -1, text of padding, an image marked absent) must paint the same as
    no condition. If a conditioning image is required and missing, a LimnerError must be raised.
    """
    model = case.ready()
    conditions = conditions_for(model, 6)
    for part in ("label", "text", "image"):
        value = getattr(conditions, part)
        if value is None:
            continue
        others = [conditions.rows(slice(i, i + 1)) for i in range(6)]
        if part == "label":
            others = [replace(others[0], label=torch.tensor([k])) for k in range(3)]
        pictures = [paint(model, 4, c) for c in others]
        for a, b in itertools.combinations(range(len(pictures)), 2):
            if not torch.equal(getattr(others[a], part), getattr(others[b], part)):
                change = float((pictures[a] - pictures[b]).abs().max())
                assert change > 1e-5, (
                    f"another {part} leaves the picture unchanged; use it, or leave it out of "
                    "`takes` and of the model's spec"
                )
    if not len(conditions):
        return
    if model.condition == "optional":
        unconditional, null = paint(model, 6), paint(model, 6, conditions.null())
        difference = int((to_uint8(unconditional).int() - to_uint8(null).int()).abs().max())
        assert difference <= 1, "a null condition paints something else than no condition"
    elif model.spec.hint is None:
        paint(model, 2)  # labels are drawn
    else:
        try:
            paint(model, 2)
        except LimnerError:
            return
        raise AssertionError("a required conditioning image can be left out without an error")


def check_resumes(case: Case) -> None:
    """8. Training that was stopped and continued equals training without a stop, bit for bit."""
    original = _loop(case)
    original.prepare()
    for _ in range(2):
        original.advance()
    state = original.state()
    resumed = _loop(case)
    resumed.restore(state)
    _check_same_pictures(
        original.model,
        resumed.model,
        "after a restart the pictures differ; do `frames` use a value from `turns` that is not a "
        "parameter or buffer?",
    )
    for _ in range(3):
        logs, other = repr(original.advance()), repr(resumed.advance())  # as text, NaN equals NaN
        assert logs == other, (
            f"after a restart the losses differ: {logs} and {other}; does `turns` keep a value "
            "that is not a parameter or buffer, or draw from its own generator?"
        )
    for group, tensors in original.state().items():
        changed = _first_difference(tensors, resumed.state()[group])
        assert not changed, f"after a restart '{changed}' of the {group} differs"
    averages = original.calibrated_model(), resumed.calibrated_model()
    _check_same_pictures(*averages, "after a restart the pictures differ")


def _check_same_pictures(a: Learner, b: Learner, message: str) -> None:
    if isinstance(a, GenerativeModel) and isinstance(b, GenerativeModel):
        c = conditions_for(a, 2)
        assert torch.equal(paint(a, 2, c), paint(b, 2, c)), message


def check_accumulates(case: Case) -> None:
    """9. Two half batches train like one whole batch, unless the model sets `couples_batch`.

    The check uses plain gradient descent, because Adam turns rounding errors of tiny gradients into
    whole steps, and no dropout, because its random numbers depend on the batch.
    """
    if case.build().couples_batch:
        return
    states = []
    for parts in (1, 2):
        loop = _loop(case, parts)
        for module in loop.model.modules():
            if isinstance(module, nn.modules.dropout._DropoutNd):
                module.p = 0.0
        for player in loop.players.values():
            player.optimizer = torch.optim.SGD(player.parameters, lr=1e-3)
        loop.prepare()
        loop.advance()
        loop.advance()
        assert not loop.unlucky, "training is not finite"
        states.append(_copy_state(loop.model.state_dict()))
    for name, w in states[0].items():
        error = float((w.double() - states[1][name].double()).abs().max()) if w.numel() else 0
        assert error <= 1e-5 * max(1.0, float(w.double().abs().max())), (
            f"two half batches change '{name}' differently from one whole batch (by {error:.1e}); "
            "is the loss a sum over the batch instead of its mean, are random numbers drawn that "
            "are not from `noise`, or does one image's loss depend on others (couples_batch)?"
        )


def check_moves(case: Case) -> None:
    """10. A copy, another device and either mode keep the contract; frozen parts do not change."""
    model = case.ready()
    twin = copy.deepcopy(model)
    before = _copy_state(model.state_dict())
    _check_same_pictures(model, twin, "a copy paints other pictures")
    with torch.no_grad():
        for p in twin.parameters():
            p.zero_()
    changed = _first_difference(before, model.state_dict())
    assert not changed, f"a copy shares '{changed}' with its original"
    if isinstance(model, GenerativeModel):
        c = conditions_for(model, 2)
        picture = paint(model, 2, c)
        model.train()
        assert torch.equal(picture, paint(model, 2, c)), "the mode changes the picture"
        assert model.training, "sampling changes the model's mode"
        if torch.cuda.is_available():
            gpu_picture = paint(model.cuda(), 2, c)
            assert gpu_picture.is_cuda, "the picture is not on the model's device"
            assert float((gpu_picture.cpu() - picture).abs().mean()) < 0.05, (
                "another picture on a GPU"
            )
    _check_frozen_parts(case)


def _check_frozen_parts(case: Case) -> None:
    loop = _loop(case)
    loop.prepare()
    trained = {id(p) for part in loop.model.players().values() for p in part.parameters()}
    frozen = {
        name: part
        for name, part in loop.model.named_modules()
        if isinstance(part, Learner) and not any(id(p) in trained for p in part.parameters())
    }
    before = {name: _copy_state(part.state_dict()) for name, part in frozen.items()}
    loop.advance()
    for name, part in frozen.items():
        changed = _first_difference(before[name], part.state_dict())
        assert not changed, f"training changes '{changed}' of the frozen '{name}'"
        assert not part.training, f"the frozen '{name}' is in training mode"
