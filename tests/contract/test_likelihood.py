"""Properties of the likelihoods of all models."""

import functools
import math
import re
from inspect import signature
from typing import Any, cast

import pytest
import torch
import toys
from registered import registered_cases

from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.likelihood import Likelihood, LikelihoodModel
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.registry import models
from limner.contract.turns import checked_turns
from limner.testing.cases import toy_data

GREY = ImageSpec(1, 2, 2)
ONE = torch.ones((), requires_grad=True)
QUICK: dict[str, Any] = {"tolerance": 0.3, "divergence": "hutchinson", "terms": 2, "k": 2}


def test_bits_per_dim_are_nats_in_other_units():
    model = toys.Pixels(GREY)
    x, noise = torch.zeros(3, *GREY.shape), Noise.sampling(0, 3)
    bits = model.bits_per_dim(x, noise=noise)
    assert bits.kind == "exact"
    assert torch.allclose(bits.nats, torch.full((3,), 8.0))
    turn = next(model.turns(Batch(x, Condition()), 0, noise))
    assert float(turn.loss.detach()) == pytest.approx(8)
    assert not turn.logs["bits_per_dim"].requires_grad


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "log_prob of Odd returns NoneType; return Likelihood(nats, kind)"),
        (torch.zeros(3), "log_prob of Odd returns Tensor; return Likelihood(nats, kind)"),
        (Likelihood(torch.zeros(()), "exact"), "Odd returns nats of one number for 3 pictures"),
        (Likelihood(torch.zeros(3, 1), "exact"), "Odd returns nats of 3 x 1 for 3 pictures; "),
        (Likelihood(torch.zeros(3), cast("Any", "bound")), "unknown kind 'bound'; known: estimate"),
    ],
)
def test_a_likelihood_of_a_wrong_form_is_refused(found: Any, message: str):
    class Odd(toys.Pixels):
        """A model whose likelihood has the wrong form."""

        def log_prob(self, x: Images, c: Condition = Condition(), *, noise: Noise) -> Any:
            return found

    with pytest.raises(LimnerError, match=re.escape(message)):
        Odd(GREY).log_prob(torch.zeros(3, *GREY.shape), noise=Noise.sampling(0, 3))


@functools.cache
def likelihoods() -> list[LikelihoodModel]:
    """Return every registered model with a likelihood, small, for the first data it takes."""
    names = [name for name, entry in models().items() if issubclass(entry.model, LikelihoodModel)]
    return [registered_cases(name)[0].ready() for name in names]


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_turn_that_is_returned_is_refused_in_one_line():
    class Returning(toys.Pixels):
        def turns(self, batch: Batch, step: int, noise: Noise) -> Any:
            return Turn(batch.x.mean())

    model, noise = Returning(GREY), Noise.sampling(0, 3)
    with pytest.raises(LimnerError, match="turns of Returning returns Turn; write yield Turn"):
        next(checked_turns(model, Batch(torch.zeros(3, *GREY.shape), Condition()), 0, noise))


@pytest.mark.parametrize(
    ("turn", "message"),
    [
        (Turn(ONE, logs=cast(Any, 3)), "yields int as logs; give a dictionary of scalar tensors"),
        (Turn(ONE * 1j), "yields a complex loss; give a real number"),
        (Turn(ONE, logs={"step": ONE}), "logs 'step', as the training loop does; rename it"),
        (Turn(ONE, logs={"loss": ONE}), "logs 'loss', as the training loop does; rename it"),
        (Turn(ONE, "critic", {"critic.lr": ONE}), "logs 'critic.lr', as the training loop"),
    ],
)
@pytest.mark.usefixtures("unchecked_shapes")
def test_a_turn_that_would_break_the_log_or_the_loop_is_refused(turn: Turn, message: str):
    class Turning(toys.Pixels):
        def turns(self, batch: Batch, step: int, noise: Noise) -> Any:
            yield turn

    model, noise = Turning(GREY), Noise.sampling(0, 3)
    with pytest.raises(LimnerError, match=f"turns of Turning {message}"):
        next(checked_turns(model, Batch(torch.zeros(3, *GREY.shape), Condition()), 0, noise))


def test_a_likelihood_of_pictures_of_another_shape_is_refused_in_one_line():
    for model in likelihoods():
        (C, H, W), n = model.spec.shape, 2
        for shape in ((C, 2 * H, 2 * W), (C, H // 2, W // 2), (C, H, 2 * W), (C + 1, H, W)):
            x, noise = torch.zeros(n, *shape), Noise.sampling(0, n)
            size = " x ".join(map(str, shape))
            message = f"likelihoods of {C} x {H} x {W} pictures, not of {size}"
            for call in (model.log_prob, model.bits_per_dim):
                with pytest.raises(LimnerError, match=message):
                    call(x, noise=noise)
        with pytest.raises(LimnerError, match="3 conditions for 2 pictures"):
            c = Condition(torch.zeros(3, dtype=torch.int64))
            model.log_prob(torch.zeros(n, *model.spec.shape), c, noise=Noise.sampling(0, n))


def test_a_likelihood_is_computed_in_evaluation_mode_and_the_mode_is_restored():
    for model in likelihoods():
        (x, c), known = toy_data(model.spec, 0, 2), signature(model.log_prob).parameters
        options = {name: value for name, value in QUICK.items() if name in known}
        log_prob = functools.partial(model.log_prob, x, c, **options)
        quiet = log_prob(noise=Noise.sampling(0, 2)).nats
        state = {name: value.clone() for name, value in model.state_dict().items()}
        model.train()
        try:
            nats = log_prob(noise=Noise.sampling(0, 2)).nats
            assert model.training, f"{model.name} is left in evaluation mode"
        finally:
            model.eval()
        assert torch.equal(nats, quiet), model.name
        assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


class Noisy(toys.Pixels):
    """A model with one nat more in training mode, as a stand-in for dropout."""

    def log_prob(self, x, c=Condition(), *, noise: Noise) -> Likelihood:
        nats, kind, _ = super().log_prob(x, c, noise=noise)
        return Likelihood(nats + (1.0 if self.training else 0.0), kind)


class Noisier(Noisy):
    """A model that adds another nat to the result of its base class."""

    def log_prob(self, x, c=Condition(), *, noise: Noise) -> Likelihood:
        nats, kind, _ = super().log_prob(x, c, noise=noise)
        return Likelihood(nats + (1.0 if self.training else 0.0), kind)


def test_a_loss_in_training_mode_is_computed_in_training_mode():
    model, batch = Noisier(GREY), Batch(torch.zeros(3, *GREY.shape), Condition())
    bit = GREY.dimensions * math.log(2)
    for mode, offset in ((True, 2.0), (False, 0.0)):
        model.train(mode)
        turns = model.turns(batch, 0, Noise.sampling(0, 3))
        assert float(next(turns).loss.detach()) == pytest.approx(8 - offset / bit, abs=1e-6)
        bits = model.bits_per_dim(batch.x, noise=Noise.sampling(0, 3)).nats
        assert torch.allclose(bits, torch.tensor(8.0)), "between turns, it uses evaluation mode"
        assert model.training is mode
        assert next(turns, None) is None
