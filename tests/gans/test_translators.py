"""Translators: the authors' networks and losses, receptive fields, pools, deterministic results."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from limner.contract.abilities import Translates
from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.model import Turn
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.gans.adversarial_model import variety
from limner.gans.cut import CUT, contrast
from limner.gans.cyclegan import CycleGAN
from limner.gans.image_pool import ImagePool
from limner.gans.pix2pix import Pix2Pix, UNet
from limner.gans.translation_networks import (
    PatchCritic,
    ResidualGenerator,
    Upsampling,
    critic_layers,
    doubling,
    patch,
)
from limner.training.estimate import dry_run
from limner.training.loop import Loop
from limner.training.options import TrainOptions
from limner.training.recipe import Recipe
from limner.training.run import train

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parent / "golden" / "translation.json").read_text()
)
"""Outputs of the authors' code, written by golden/translation.py."""
SPEC = ImageSpec(3, 16, 16, hint=ImageSpec(3, 16, 16, domain="photo"), domain="drawing")
TINY: dict[str, dict[str, Any]] = {
    "cyclegan": {"channels": 4, "blocks": 1, "critic_channels": 4, "pool": 3},
    "pix2pix": {"channels": 4, "critic_channels": 4},
    "cut": {"channels": 4, "blocks": 1, "critic_channels": 4, "places": 8, "features": 8},
}


def fill(layers: list[nn.Module], factor: float = 1.0) -> None:
    """Fill the weights of the i-th layer as the golden script draws them."""
    with torch.no_grad():
        for i, layer in enumerate(layers):
            for kind, p in enumerate((layer.weight, layer.bias)):
                if isinstance(p, Tensor):
                    values = Noise.keyed(7, kind, [i]).normal(p.numel()).view(p.shape)
                    p.copy_(factor * 0.03 * values)


def convolutions(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


def pictures(n: int, channels: int = 3, side: int = 64) -> Tensor:
    coarse = Noise.keyed(7, 2, range(n)).uniform(channels, side // 8, side // 8) * 2 - 1
    return nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)


def shown(x: Tensor) -> list[float]:
    entries = x.flatten()[torch.linspace(0, x.numel() - 1, 10).long()]
    return [float(x.mean()), float(x.std()), *entries.tolist()]


def batch(n: int = 4) -> Batch:
    x = Noise.keyed(1, 0, range(2 * n)).uniform(3, 16, 16) * 2 - 1
    return Batch(x[:n], Condition(image=x[n:]))


@torch.no_grad()
@pytest.mark.parametrize("smooth", [False, True])
def test_the_residual_generator_equals_the_authors(smooth: bool):
    network = ResidualGenerator(3, 3, 8, 6, smooth=smooth)
    fill(convolutions(network))
    name = "smooth residual" if smooth else "residual"
    assert shown(network(pictures(2))) == pytest.approx(GOLDEN[name], abs=2e-5)


@torch.no_grad()
def test_the_unet_equals_the_authors():
    network = UNet(3, 3, 64, 4, dropout=0.0)
    fill([*network.down, *reversed(network.up)])
    output = network(pictures(2), Noise.sampling(0, 2))
    assert shown(output) == pytest.approx(GOLDEN["unet"], abs=2e-5)


@torch.no_grad()
@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("smooth", [False, True])
def test_the_critic_equals_the_authors(layers: int, smooth: bool):
    critic = PatchCritic(3, 8, layers, smooth)
    fill(convolutions(critic))
    name = f"{'smooth ' if smooth else ''}critic-{layers}"
    assert shown(critic(pictures(2))) == pytest.approx(GOLDEN[name], abs=2e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_a_critics_score_depends_on_its_patch(layers: int):
    side = patch(layers) + 2 ** (layers + 1)
    x = torch.rand(1, 1, side, side, requires_grad=True)
    critic = PatchCritic(1, 2, layers).double()
    critic.convs.requires_grad_(False)
    # Without norms, since a norm sees the whole picture.
    plain = nn.Sequential(critic.conv_in, *critic.convs, critic.conv_out)
    scores = plain(x.double())
    middle = scores.shape[-1] // 2
    scores[0, 0, middle, middle].backward()
    assert x.grad is not None
    rows, columns = x.grad[0, 0].nonzero().T
    assert int(rows.max() - rows.min()) + 1 == int(columns.max() - columns.min()) + 1
    assert int(rows.max() - rows.min()) + 1 == patch(layers)
    assert [patch(n) for n in (1, 2, 3)] == [16, 34, 70]


def test_critics_of_the_papers_size_have_patches_of_70_pixels():
    assert critic_layers(256) == critic_layers(128) == 3
    assert patch(critic_layers(64)) == 34


def game(model: CycleGAN, both: Batch) -> list[Turn]:
    return list(model.turns(both, 0, Noise.keyed(0, 0, range(len(both.x)))))


def test_the_losses_of_cyclegan_equal_the_authors():
    spec = ImageSpec(3, 64, 64, hint=ImageSpec(3, 64, 64))
    model = CycleGAN(spec, channels=8, blocks=1, critic_channels=8, critic_layers=2)
    parts = (model.generators["B"], model.generators["A"], model.critics["B"], model.critics["A"])
    for i, part in enumerate(parts):
        fill(convolutions(part), 1 + i / 10)
    x = pictures(4)
    generators, critics = game(model, Batch(x[2:], Condition(image=x[:2])))
    assert generators.loss.item() == pytest.approx(GOLDEN["generators"], rel=1e-5)
    assert critics.loss.item() == pytest.approx(GOLDEN["critics"], rel=1e-5)


class Same(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def test_the_identity_has_cycle_and_identity_losses_of_0():
    model = CycleGAN(SPEC, **TINY["cyclegan"])
    weight = nn.Parameter(torch.ones(()))
    model.generators = nn.ModuleDict({"A": Same(), "B": Same()})
    model.generators.register_parameter("weight", weight)
    both = batch()
    first = game(model, both)[0]
    assert float(first.logs["cycle"]) == float(first.logs["identity"]) == 0
    with torch.no_grad():
        assert both.c.image is not None
        on_a, on_b = model.critics["A"](both.x), model.critics["B"](both.c.image)
        expected = (on_a - 1).square().mean() + (on_b - 1).square().mean()
    assert first.loss.item() == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("name", "critics"), [("cyclegan", 2), ("cut", 1)])
def test_a_critic_with_scores_of_0_has_a_known_loss(name: str, critics: int):
    """Each critic's loss is half of (0 - 1)^2 + 0^2."""
    model = build(name, SPEC, **TINY[name])
    for part in model.players()["critic"].parameters():
        part.data.zero_()
    turns = list(model.turns(batch(), 0, Noise.keyed(0, 0, range(len(batch().x)))))
    (loss,) = (float(turn.loss.detach()) for turn in turns if turn.of == "critic")
    assert loss == pytest.approx(critics / 2)
    (line,) = (line for line in model.formula() if line.startswith("critic"))
    assert "^2) / 2" in line


def test_pix2pixs_critic_with_scores_of_0_has_a_loss_of_log_2():
    """Its loss is half of -log D(a, b) - log(1 - D(a, G(a))), with D = 1/2."""
    model = build("pix2pix", SPEC, **TINY["pix2pix"])
    for p in model.critic.parameters():
        p.data.zero_()
    turn = next(iter(model.turns(batch(), 0, Noise.keyed(0, 0, range(4)))))
    assert turn.of == "critic" and turn.loss.item() == pytest.approx(math.log(2))


def test_the_generators_loss_of_cut_is_that_of_equation_5():
    """A critic whose scores are 0 costs the generator (0 - 1)^2."""
    model = build("cut", SPEC, **TINY["cut"], likeness=0.3)
    for p in model.critic.parameters():
        p.data.zero_()
    *_, turn = model.turns(batch(), 0, Noise.keyed(0, 0, range(4)))
    assert turn.loss.item() == pytest.approx(1 + 0.3 * float(turn.logs["contrast"]), rel=1e-6)
    assert "+ 0.15 (NCE(a, G(a)) + NCE(b, G(b)))" in model.formula()[1]


def test_the_losses_of_cut_and_their_gradients_equal_the_papers():
    """At all places of a layer, position by position. The keys z+ and z- are constants, as in the
    authors' code. Grey pictures a are repeated to the channels of b."""
    torch.manual_seed(0)
    n, spec = 2, ImageSpec(3, 18, 18, hint=ImageSpec(1, 18, 18))
    options = {**TINY["cut"], "blocks": 6, "places": 400, "temperature": 0.2, "likeness": 0.7}
    model = build("cut", spec, **options).double()
    assert isinstance(model, CUT)
    assert len(set(model.parameters())) == sum(
        len([*player.parameters()]) for player in model.players().values()
    )
    x = Noise.keyed(1, 0, range(2 * n)).uniform(3, 18, 18).double() * 2 - 1
    b, a = x[:n], x[n:, :1]
    critic_turn, turn = model.turns(Batch(b, Condition(image=a)), 0, Noise.keyed(0, 0, range(n)))
    assert (critic_turn.of, turn.of) == ("critic", "generator")
    source = torch.cat([a.repeat(1, 3, 1, 1), b])
    fake = model.painter(source)
    real_scores, scores = model.critic(b), model.critic(fake[:n].detach())
    expected = ((real_scores - 1).square().mean() + scores.square().mean()) / 2
    assert critic_turn.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    weights = list(model.players()["generator"].parameters())
    assert torch.equal(critic_turn.logs["variety"], variety(b, fake[:n].detach()))
    slopes = torch.autograd.grad(critic_turn.loss, weights, retain_graph=True, allow_unused=True)
    assert slopes == (None,) * len(weights)
    maps, fake_maps = ([*model.painter.features(x)] for x in (source, fake))
    total = torch.zeros((), dtype=torch.float64)
    for head, layer in zip(model.heads.layers, (0, 1, 2, 3, 7), strict=True):
        first, _, last = head
        for picture, translation in zip(maps[layer], fake_maps[layer]):
            z, key = (
                nn.functional.normalize(last(first(rows.flatten(1).T).relu()), dim=1)
                for rows in (translation, picture)
            )
            similarity = (z @ key.detach().T / 0.2).exp()
            total = total - (similarity.diag() / similarity.sum(1)).log().mean() / (5 * 2 * n)
    expected = (model.critic(fake[:n]) - 1).square().mean() + 0.7 * total
    assert turn.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    gradients = (torch.autograd.grad(loss, weights) for loss in (turn.loss, expected))
    for slope, known in zip(*gradients):
        torch.testing.assert_close(slope, known, rtol=1e-3, atol=1e-6)


def test_cut_compares_each_picture_with_its_translation_at_the_same_places():
    """The places of a layer are different ones; a loss at some of all places has the same mean."""
    model = build("cut", SPEC, **TINY["cut"])
    assert isinstance(model, CUT)
    noise = Noise.keyed(0, 0, range(500))
    places = model._places(torch.zeros(1000, 3, 4, 5), noise)
    assert places.shape == (1000, 8) and torch.equal(places[:500], places[500:])
    assert all(len(row.unique()) == 8 for row in places[:20])
    share = torch.bincount(places.flatten(), minlength=20) / 1000
    assert share.tolist() == pytest.approx([8 / 20] * 20, abs=4 * (0.24 / 500) ** 0.5)
    assert model._places(torch.zeros(4, 3, 2, 2), Noise.keyed(0, 0, range(2))).shape == (4, 4)


def test_the_options_of_cut_are_those_of_the_paper():
    model = build("cut", SPEC, channels=4, critic_channels=4)
    assert isinstance(model, CUT)
    assert (model.likeness, model.temperature, model.places) == (1.0, 0.07, 256)
    assert model.compared_layers == [0, 1, 2, 3, 7]
    assert {head[-1].out_features for head in model.heads.layers} == {256}
    assert build("cut", SPEC, **TINY["cut"]).compared_layers == [0, 1, 2, 3]
    with torch.autocast("cpu", torch.bfloat16):
        (vectors,) = model.heads([torch.rand(2, 3, 4, 4)], [torch.zeros(2, 5, dtype=torch.long)])
    assert vectors.dtype == torch.float32
    smooth = build("cut", SPEC, **TINY["cut"], smooth=True)
    assert smooth.painter.smooth and smooth.critic.smooth


def test_grey_and_coloured_domains_have_no_identity_loss():
    model = CycleGAN(ImageSpec(3, 16, 16, hint=ImageSpec(1, 16, 16)), **TINY["cyclegan"])
    both = Batch(batch().x, Condition(image=batch().x[:, :1]))
    assert "identity" not in game(model, both)[0].logs


def test_the_contrastive_loss_equals_the_authors():
    query, key = (
        nn.functional.normalize(Noise.keyed(7, step, range(2)).normal(16, 8), dim=-1)
        for step in (3, 4)
    )
    # The authors keep the positive key among the negatives with exp(-10 / 0.07), which is
    # practically 0.
    assert float(contrast(query, key, 0.07)) == pytest.approx(GOLDEN["contrast"], rel=1e-5)


def test_a_pool_returns_new_pictures_until_it_is_full():
    pool = ImagePool(3, (1, 1, 1))
    new = torch.arange(3.0).view(3, 1, 1, 1)
    assert torch.equal(pool.exchange(new, Noise.keyed(0, 0, range(3))), new)
    assert int(pool.count) == 3


def test_half_of_the_pictures_of_a_full_pool_are_old():
    pool, draws = ImagePool(50, (1, 1, 1)), 20_000
    new = torch.arange(float(draws)).view(draws, 1, 1, 1)
    paintings = pool.exchange(new, Noise.keyed(0, 0, range(draws)))[50:, 0, 0, 0]
    old = paintings != torch.arange(50.0, draws)
    assert float(old.float().mean()) == pytest.approx(0.5, abs=4 * 0.5 / draws**0.5)
    repeats = [count for count in Counter(paintings.tolist()).values() if count > 2]
    assert not repeats  # each is returned when it is new, or once when it leaves
    age = (torch.arange(50.0, draws) - paintings)[old]
    # 50 places, and an exchange in every second case.
    assert float(age.mean()) == pytest.approx(100, rel=0.05)


def test_a_pool_of_size_0_returns_new_pictures():
    new = torch.rand(2, 1, 4, 4)
    assert torch.equal(ImagePool(0, (1, 4, 4)).exchange(new, Noise.sampling(0, 2)), new)


def test_a_pool_is_saved_with_the_training_and_not_with_the_model(tmp_path: Path):
    model = CycleGAN(SPEC, **TINY["cyclegan"])
    loop = Loop(model, lambda first, n: batch(n), TrainOptions(steps=4, batch=4))
    loop.advance()
    state = loop.state()
    assert int(state["memory"]["A.count"]) == 3 and state["memory"]["B.paintings"].abs().sum() > 0
    save_model(model, tmp_path)
    assert not any("pool" in name for name in model.state_dict())
    other = Loop(CycleGAN(SPEC, **TINY["cyclegan"]), lambda first, n: batch(n), loop.options)
    other.restore(state)
    assert torch.equal(other.model.memory()["A.paintings"], state["memory"]["A.paintings"])


@pytest.fixture(params=[*TINY, "pix2pix resize"])
def translator(request: pytest.FixtureRequest) -> Translates:
    torch.manual_seed(0)
    name, *way = request.param.split()
    model = build(name, SPEC, **TINY[name], **({"upsampling": way[0]} if way else {}))
    assert isinstance(model, Translates)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4)  # avoids uniformly grey pictures
    return model


def test_translations_do_not_depend_on_batch_mode_or_saving(translator: Translates, tmp_path: Path):
    x = batch(5).x
    for domain in translator.ways:
        translations = translator.eval().translate(x, domain)
        assert translations.shape == x.shape and float((translations - x).abs().mean()) > 0.01
        assert torch.equal(translator.train().translate(x, domain), translations)
        assert translator.training
        for i in (0, 3):
            single = translator.translate(x[i : i + 1], domain, seed=i)
            assert torch.allclose(single[0], translations[i], atol=1e-5)
        save_model(translator, tmp_path / domain)
        loaded = load(tmp_path / domain)
        assert isinstance(loaded, Translates)
        assert torch.equal(loaded.translate(x, domain), translations)


def test_sampling_equals_translating(translator: Translates):
    x = batch(3).x
    sampled = translator.sample(3, Condition(image=x), seed=7)
    assert torch.equal(sampled, translator.translate(x, "B", seed=7))


def test_domains_are_given_as_letters_or_names(translator: Translates):
    x = batch(1).x
    assert torch.equal(translator.translate(x, " Drawing"), translator.translate(x, "b"))
    with pytest.raises(LimnerError, match=r"'photograph' is not a .* A \(photo\) and B \(draw"):
        translator.translate(x, "photograph")
    if translator.ways == ("B",):
        with pytest.raises(LimnerError, match=r"translate only to B \(drawing\); .*direction=Bto"):
            translator.translate(x, "photo")
    else:
        assert torch.equal(translator.translate(x, "photo"), translator.translate(x, "A"))
    with pytest.raises(LimnerError, match="pictures of 3 x 16 x 16, not of 3 x 8 x 8"):
        translator.translate(x[..., :8, :8])


def test_dropout_keeps_the_mean():
    network = UNet(3, 3, 16, 4, dropout=0.2)
    h = network._dropout(torch.ones(4, 8, 32, 32), Noise.sampling(0, 4))
    assert {round(value, 6) for value in h.unique().tolist()} == {0.0, 1.25}
    assert float(h.mean()) == pytest.approx(1, abs=0.02)


def test_dropout_depends_on_the_seed():
    model = Pix2Pix(SPEC, **TINY["pix2pix"])
    x = batch(1).x.repeat(2, 1, 1, 1)
    a, b = model.translate(x, seed=3)
    assert not torch.equal(a, b)
    assert torch.equal(model.translate(x[:1], seed=4)[0], b)
    steady = Pix2Pix(SPEC, **TINY["pix2pix"], dropout=0.0).translate(x)
    assert torch.equal(steady[0], steady[1])


def test_is_random_states_whether_the_seed_has_an_effect(translator: Translates):
    a, b = translator.translate(batch(1).x.repeat(2, 1, 1, 1), seed=3)
    config = {"dropout": 0.5} | TINY[translator.name]
    assert type(translator).is_random(config) == (not torch.equal(a, b))
    assert not Pix2Pix.is_random({"dropout": 0.0})


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (ImageSpec(3, 32, 32), "give two, as in .*paired:emoji:style=3d,emoji:style=flat data.l"),
        (ImageSpec(3, 8, 8, hint=ImageSpec(3, 8, 8)), "at least 16 x 16"),
        (ImageSpec(3, 32, 32, hint=ImageSpec(3, 16, 16)), "give data.size=32"),
    ],
)
@pytest.mark.parametrize("name", TINY)
def test_unsuitable_data_are_refused(name: str, spec: ImageSpec, said: str):
    with pytest.raises(LimnerError, match=said):
        build(name, spec, **TINY[name])


def test_cut_learns_to_turn_coloured_pictures_grey():
    model = build("cut", ImageSpec(1, 16, 16, hint=ImageSpec(3, 16, 16)), **TINY["cut"])
    both = Batch(batch().x[:, :1], batch().c)
    turns = model.turns(both, 0, Noise.keyed(0, 0, range(4)))
    assert all(bool(turn.loss.isfinite()) for turn in turns)
    assert model.translate(both.c.image).shape == both.x.shape


def test_cut_refuses_domains_whose_channels_cannot_be_compared():
    spec = ImageSpec(3, 16, 16, hint=ImageSpec(2, 16, 16))
    with pytest.raises(LimnerError, match=r"pictures of 2 and of 3 channels; .*data\.channels=3"):
        build("cut", spec, **TINY["cut"])


def test_a_model_of_pairs_refuses_unpaired_data(tmp_path: Path):
    for domain in "ab":
        (tmp_path / domain).mkdir()
        Image.new("RGB", (16, 16)).save(tmp_path / domain / "one.png")
    source = f"unpaired:folder:{tmp_path / 'a'},folder:{tmp_path / 'b'}"
    recipe = Recipe.of("pix2pix", source, ["model.channels=4", "model.critic_channels=4"])
    for command in (lambda: train(recipe, tmp_path / "run"), lambda: dry_run(recipe)):
        with pytest.raises(LimnerError, match=r"learns from pairs, but unpaired:\S+ has none; "):
            command()
    assert not (tmp_path / "run").exists()
    with pytest.raises(LimnerError, match=r"as in paired:\S+,\S+ data.label=none"):
        build("pix2pix", ImageSpec(3, 32, 32), **TINY["pix2pix"])


@torch.no_grad()
@pytest.mark.parametrize(
    ("upsampling", "kernel", "grain"),
    [("transposed", 3, True), ("transposed", 4, True), ("resize", 4, False)],
)
def test_only_doubling_with_resizing_keeps_a_constant_area_constant(
    upsampling: Upsampling, kernel: int, grain: bool
):
    torch.manual_seed(0)
    output = doubling(upsampling, kernel)(2, 3, bias=True)(torch.ones(1, 2, 6, 6))
    assert output.shape == (1, 3, 12, 12)
    inner = output[..., 2:-2, 2:-2]
    assert (float(inner.std((2, 3)).max()) > 1e-2) == grain
    assert grain or float(output.std((2, 3)).max()) < 1e-6  # also at the edges


@pytest.mark.parametrize(
    ("name", "more"),
    [
        *((name, {}) for name in TINY),
        ("pix2pix", {"upsampling": "resize"}),
        ("cyclegan", {"upsampling": "resize"}),
        ("cut", {"smooth": True}),
    ],
)
def test_sizes_that_are_not_powers_of_two_are_translated(name: str, more: dict[str, Any]):
    spec = ImageSpec(1, 18, 30, hint=ImageSpec(1, 18, 30))
    model = build(name, spec, **TINY[name], **more)
    assert isinstance(model, Translates)
    assert model.translate(torch.rand(2, 1, 18, 30)).shape == (2, 1, 18, 30)
