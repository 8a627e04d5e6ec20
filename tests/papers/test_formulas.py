"""A model's `repr` reads as its mathematics, in few lines."""

import re

import pytest

from limner import ImageSpec, build
from limner.contract.registry import models
from limner.testing.cases import cases

LABELLED = ImageSpec(1, 8, 8, labels=("a", "b"))
BINARY = ImageSpec(1, 8, 8, levels=2)
STEPS = "Squeeze -> 2 x (ActNorm -> InvertibleConv -> Coupling)"
EXPECTED = {
    "ddpm": """
        x_t = alpha(t) x + sigma(t) eps,  (alpha, sigma) = DiscreteSchedule(t)
        D(x_t, t, c) = skip x_t + out F(inn x_t, t, c),  the mean of x given x_t and c
        F = UNet of 31,486 parameters; F is the noise""",
    "gated-pixelcnn": """
        p(x) = prod_i p(x_i | x_1 .. x_(i-1)),  x_i is a channel of a pixel
        p(x_i | ..) = Bernoulli(theta_i),  theta_i = network(x_1 .. x_(i-1))""",
    "glow": """
        log p(x) >= E log N(z; 0, I) + log C - D log(levels) - log q(u | x)
        z = flow((x + u) / levels),  u by uniform q
        flow = STEPS -> Coupling -> Split(STEPS -> Inverse(Squeeze)) -> Inverse(Squeeze)""",
    "vae": """
        log p(x) >= E_q(z|x) log p(x | z) - KL(q(z | x) || p(z))
        p(x | z) = Bernoulli(decoder(z)),  z ~ N(0, I)""",
    "wgan-gp": """
        critic:     min E s(G(z)) - E s(x)
        generator:  min -E s(G(z))
        + 10 E (|ds/dx| - 1)^2 for the critic""",
}


@pytest.mark.parametrize("name", EXPECTED)
def test_each_family_says_its_mathematics(name: str):
    model = build(name, BINARY, **models()[name].tiny)
    title, *lines = repr(model).splitlines()
    size = sum(p.numel() for p in model.parameters())
    assert title == f"{name}: x of 1 x 8 x 8, {size:,} parameters"
    expected = [line.strip() for line in EXPECTED[name].strip().splitlines()]
    expected = [line.replace("STEPS", STEPS) for line in expected]
    assert [line.strip() for line in lines] == expected


def test_a_condition_stands_in_the_factorisation():
    model = build("pixelcnn", LABELLED, **models()["pixelcnn"].tiny)
    assert "p(x | c) = prod_i p(x_i | x_1 .. x_(i-1), c)" in repr(model)


@pytest.mark.parametrize("prediction", ["epsilon", "x", "v"])
def test_what_a_network_predicts_is_said(prediction):
    tiny = models()["ddpm"].tiny | {"prediction": prediction}
    said = {"epsilon": "F is the noise", "x": "F is the clean picture", "v": "F is v = alpha eps"}
    assert said[prediction] in repr(build("ddpm", BINARY, **tiny))


@pytest.mark.parametrize("name", [n for n in models() if not n.startswith("toy-")])
def test_a_formula_is_of_few_lines_that_fit(name: str):
    model = cases(models()[name])[0].build()
    lines = model.formula()
    assert len(lines) <= 4
    for line in lines:
        assert not re.search(r"None|object at|\n", line), line
    if lines:
        assert len(repr(model).splitlines()) == len(lines) + 1
