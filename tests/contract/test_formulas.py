"""A model's `repr` states its mathematics in a few lines."""

import re

import pytest
from registered import registered_cases

from limner import ImageSpec, build
from limner.contract.model import GenerativeModel
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
    "classifier": """
        grad log p(x_t | y) = grad log p(x_t) + s grad log p(y | x_t)
        p(y | x_t) = softmax(F(x_t, t)),  3 classes,  F of 12,203
        p(x_t) of a frozen ddpm: 32,848 parameters""",
    "autoencoder": """
        min E |x - decoder(encoder(x))|^2
        x = decoder(m + A u),  u ~ N(0, I) of 3,  N(m, A A^T) fitted to encoder(x)""",
    "kl-autoencoder": """
        q(z | x) = N(mean(x), variance(x)),  z of 2 x 4 x 4
        coders:  min E |x - decoder(z)| + 1e-06 KL(q(z | x) || N(0, I)) - 0.1 l E s(decoder(z))
        critic:  min (E max(0, 1 - s(x)) + E max(0, 1 + s(decoder(z)))) / 2""",
    "cyclegan": """
        G: A -> B,  F: B -> A
        critics:     min (E (s_B(b) - 1)^2 + E s_B(G(a))^2) / 2,  s_A likewise
        generators:  min E (s_B(G(a)) - 1)^2 + E (s_A(F(b)) - 1)^2
        + 10 (E |F(G(a)) - a| + E |G(F(b)) - b|)""",
    "pix2pix": """
        critic:     min -(E log D(a, b) + E log(1 - D(a, G(a, z)))) / 2
        generator:  min -E log D(a, G(a, z)) + 100 E |b - G(a, z)|""",
    "cut": """
        critic:     min (E (s(b) - 1)^2 + E s(G(a))^2) / 2
        generator:  min E (s(G(a)) - 1)^2 + 0.5 (NCE(a, G(a)) + NCE(b, G(b)))
        NCE: -log softmax of z . z' / 0.07 at the place itself, z of its own patch""",
}
CONDITIONED = ("classifier", "cyclegan", "pix2pix", "cut")


@pytest.mark.parametrize("name", EXPECTED)
def test_each_family_states_its_mathematics(name: str):
    if name in CONDITIONED:
        model = registered_cases(name)[0].build()
    else:
        model = build(name, BINARY, **models()[name].tiny)
    title, *lines = repr(model).splitlines()
    size = sum(p.numel() for p in model.parameters())
    shape = " x ".join(map(str, model.spec.shape))
    assert title == f"{name}: x of {shape}, {size:,} parameters"
    expected = [line.strip() for line in EXPECTED[name].strip().splitlines()]
    expected = [line.replace("STEPS", STEPS) for line in expected]
    assert [line.strip() for line in lines] == expected


def test_a_condition_appears_in_the_factorisation():
    model = build("pixelcnn", LABELLED, **models()["pixelcnn"].tiny)
    assert "p(x | c) = prod_i p(x_i | x_1 .. x_(i-1), c)" in repr(model)


def test_the_formula_has_the_penalties_that_are_computed():
    tiny = models()["stylegan2"].tiny | {"gamma": 1.0}
    r1, path = build("stylegan2", BINARY, **tiny).formula()[2:]
    assert r1 == "+ 0.5 E |ds/dx|^2 for the critic"
    assert path == "+ 2 E (|J_w^T y| - a)^2 for the generator"
    tiny |= {"objective": "relativistic", "augment": 0, "path_every": 0}
    both = build("stylegan2", BINARY, **tiny).formula()[2:]
    assert both == ["+ 0.5 (E |ds/dx|^2 + E |ds/dG|^2) for the critic"]
    assert len(build("stylegan2", BINARY, **tiny | {"r1_every": 0}).formula()) == 2


@pytest.mark.parametrize("name", ["gigagan", "gigagan-upsampler"])
def test_a_penalty_that_is_never_computed_is_not_in_the_formula(name):
    item = models()[name]
    spec = cases(item)[0].spec
    for every, shown in ((16, True), (0, False)):
        formula = build(name, spec, **item.tiny | {"r1_every": every}).formula()
        assert any("ds/dx" in line for line in formula) == shown


@pytest.mark.parametrize("prediction", ["epsilon", "x", "v"])
def test_the_formula_states_what_the_network_predicts(prediction):
    tiny = models()["ddpm"].tiny | {"prediction": prediction}
    phrases = {
        "epsilon": "F is the noise",
        "x": "F is the clean picture",
        "v": "F is v = alpha eps",
    }
    assert phrases[prediction] in repr(build("ddpm", BINARY, **tiny))


@pytest.mark.parametrize("name", [n for n in models() if not n.startswith("toy-")])
def test_a_formula_has_few_lines_that_fit(name: str):
    model = registered_cases(name)[0].build()
    lines = model.formula()
    assert len(lines) <= 4
    for line in lines:
        assert not re.search(r"None|object at|\n", line), line
    if issubclass(models()[name].model, GenerativeModel):
        assert len(repr(model).splitlines()) == len(lines) + 1 > 1
