"""ControlNet: a control adds the terms of equation 2 to a frozen base, and 0 before training."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from limner.contract.checkpoint import load, save_model
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.contract.rewording import Rewording, align_prompts
from limner.contract.text import text_spec
from limner.diffusion import denoising_model
from limner.diffusion.controlled_network import Control, HintEncoder
from limner.diffusion.controlnet import ControlNet
from limner.diffusion.diffusers.conversion import _weights
from limner.diffusion.flow_matching import FlowMatching
from limner.nn.condition import Signal
from limner.nn.plain_unet import PlainUNet
from limner.training.recipe import Recipe

HINT = ImageSpec(1, 8, 8, domain="edges")
SPECS = {
    "unconditional": ImageSpec(3, 8, 8),
    "labels": ImageSpec(3, 8, 8, labels=("a", "b"), frequencies=(0.5, 0.5)),
    "text": ImageSpec(3, 8, 8, text=text_spec(5)),
}
BASES: dict[str, tuple[str, dict[str, Any]]] = {
    "ddpm": ("ddpm", {"T": 20, "blocks": 2}),
    "plain": ("ddpm", {"T": 20, "network": "plain", "variance": "learned", "blocks": 2}),
    "edm": ("edm", {}),
    "flow-matching": ("flow-matching", {}),
    "classifier-free": ("classifier-free", {"prediction": "v"}),
    "vdm": ("vdm", {"hidden": 8}),
}
every_base = pytest.mark.parametrize("kind", [*BASES, "latent-diffusion"])


def randomised(network: nn.Module) -> nn.Module:
    """Add noise to all weights, so that no output is 0; return the network."""
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn_like(p)
    return network


def base(kind: str, of: str = "labels") -> Any:
    torch.manual_seed(3)
    spec = SPECS[of]
    if kind == "latent-diffusion":
        plain = replace(spec, labels=(), frequencies=(), text=None)
        stage = build("kl-autoencoder", plain, channels=(8, 8), blocks=1)
        model = build(kind, spec, first_stage=stage, options={"channels": (8, 8)})
    else:
        name, options = BASES[kind]
        model = build(name, spec, channels=(8, 16), **options)
    return randomised(model).eval()


def controlled(kind: str, of: str = "labels", shake: bool = True, **options: Any) -> ControlNet:
    hint = options.pop("hint", HINT)
    model = ControlNet(replace(SPECS[of], hint=hint), base(kind, of), **options).eval()
    if shake:
        randomised(model.controls)
    return model


def random_condition(of: str, n: int = 3, hint: ImageSpec | None = HINT) -> Condition:
    noise = Noise.keyed(7, 1, range(n))
    label = noise.integers(2) if of == "labels" else None
    text = 1 + noise.integers(50, 5) if of == "text" else None
    image = noise.uniform(*hint.shape) * 2 - 1 if hint else None
    return Condition(label, text, image)


def prompt(c: Condition) -> Condition:
    return replace(c, image=None)


OPTIONS: dict[str, Any] = {"steps": 3, "scale": 2.0, "seed": 4}


@pytest.mark.parametrize("rank", [0, 2])
@every_base
def test_an_untrained_control_equals_the_base_bit_for_bit(kind, rank):
    model, plain, c = (
        controlled(kind, shake=False, rank=rank),
        base(kind),
        random_condition("labels"),
    )
    assert torch.equal(model.sample(3, c, **OPTIONS), plain.sample(3, prompt(c), **OPTIONS))
    noise = Noise.sampling(0, 3)
    batch = Batch(noise.uniform(3, 8, 8) * 2 - 1, c)
    model.prompt_dropout = 0.0
    losses = [
        next(iter(m.train().turns(Batch(batch.x, condition), 0, Noise.keyed(0, 0, range(3))))).loss
        for m, condition in ((model, c), (plain, prompt(c)))
    ]
    assert torch.equal(*losses)


@every_base
def test_at_strength_0_or_without_a_hint_it_equals_the_base(kind):
    model, plain, c = controlled(kind), base(kind), random_condition("labels")
    expected = plain.sample(3, prompt(c), **OPTIONS)
    assert torch.equal(model.sample(3, c, control_strength=0.0, **OPTIONS), expected)
    assert torch.equal(model.sample(3, prompt(c), **OPTIONS), expected)
    partial = replace(c, present=torch.tensor([True, False, True]))
    pictures = model.sample(3, partial, **OPTIONS)
    assert torch.equal(pictures[1], expected[1])
    assert not torch.equal(pictures[0], expected[0])
    assert torch.equal(model.sample(3, partial, control_strength=0.0, **OPTIONS), expected)


@pytest.mark.parametrize("of", SPECS)
@pytest.mark.parametrize("sampler", ["euler", "heun", "ddim", "dpm++"])
def test_more_strength_changes_pictures_more_with_every_sampler(of, sampler):
    model, c = controlled("flow-matching", of), random_condition(of)
    base = model.sample(3, c, control_strength=0.0, sampler=sampler, **OPTIONS)
    changes = [
        float((model.sample(3, c, control_strength=s, sampler=sampler, **OPTIONS) - base).std())
        for s in (0.25, 0.5, 1.0)
    ]
    assert 0 < changes[0] < changes[1] < changes[2]


@pytest.mark.parametrize("rank", [0, 2])
@every_base
def test_gradients_reach_only_the_control(kind, rank):
    model, before = controlled(kind, rank=rank), base(kind).state_dict()
    model.train()
    batch = Batch(torch.rand(3, 3, 8, 8) * 2 - 1, random_condition("labels"))
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(2):
        for turn in model.turns(batch, step, Noise.keyed(0, step, range(3))):
            optimizer.zero_grad()
            turn.loss.backward()
            optimizer.step()
    names = {name for name, p in model.named_parameters() if p.grad is not None}
    assert names == {f"controls.{name}" for name, _ in model.controls.named_parameters()}
    for name, weight in model.base.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_controls_without_domains_of_their_own_have_none():
    spec = replace(SPECS["labels"], hint=ImageSpec(3, 8, 8, domain="photo"))
    model = ControlNet(spec, base("flow-matching"), planes=(1, 2))
    assert [(hint.channels, hint.domain) for hint in model.hints] == [(1, ""), (2, "")]
    joint = replace(SPECS["labels"], hint=ImageSpec(3, 8, 8, domain="edges+line"))
    assert [hint.domain for hint in ControlNet(joint, base("flow-matching")).hints] == [""]


@pytest.mark.parametrize("pairing", ["independent", "optimal"])
def test_it_couples_the_pictures_of_a_batch_if_its_base_does(pairing):
    spec = SPECS["labels"]
    flow = build("flow-matching", spec, channels=(8,), attention=0, pairing=pairing)
    model = ControlNet(replace(spec, hint=HINT), flow)
    assert model.couples_batch == flow.couples_batch == (pairing == "optimal")


def test_larger_hints_are_reduced_as_in_pillow():
    large, small = (
        controlled("flow-matching", hint=replace(HINT, height=side, width=side)) for side in (24, 8)
    )
    x = torch.rand(1, 1, 24, 24)
    reduced = Image.fromarray(x[0, 0].numpy()).resize((8, 8), Image.Resampling.BILINEAR)
    image = torch.from_numpy(np.array(reduced))[None, None]
    with torch.no_grad():
        encoded = [m.with_hint(Condition(image=h)).image for m, h in ((large, x), (small, image))]
    torch.testing.assert_close(*encoded)


@pytest.mark.parametrize("kind", ["flow-matching", "plain"])
def test_the_output_is_equation_2(kind):
    """Layer by layer: the decoder's input is the base's plus s times the copy's through Z."""
    model, c = controlled(kind), random_condition("labels")
    network, control = model.denoiser.network, model.branches[0]
    x, label = torch.randn(3, 3, 8, 8), torch.tensor([10.0, 300.0, 900.0])
    view, bound = model.controlled_base(c, control_strength=0.7)
    with torch.no_grad():
        output = view.network(x, label, bound)  # pyright: ignore
        signal = network.conditioner(prompt(c), 3)
        plain = network.encode(x, label, signal)
        h = control.hint(c.image)
        features = control.encoder.encode(x, label, signal, h)
        skips = [
            a + 0.7 * zero(b) for a, b, zero in zip(plain.skips, features.skips, control.zeros)
        ]
        middle = plain.middle + 0.7 * control.zeros[-1](features.middle)
        expected = network.decode(plain._replace(skips=skips, middle=middle))
    torch.testing.assert_close(output, expected)
    assert len(control.zeros) == len(plain.skips) + 1


def test_the_copy_starts_as_the_encoder_and_has_no_text_encoder():
    model = controlled("flow-matching", "text", shake=False)
    copy_weights = dict(model.branches[0].encoder.named_parameters())
    network_weights = dict(model.denoiser.network.named_parameters())
    assert all(torch.equal(weight, network_weights[name]) for name, weight in copy_weights.items())
    parts = {name.split(".")[0] for name in copy_weights}
    assert parts == {"time", "conv_in", "down", "downsample", "middle"}


def test_the_prompt_is_hidden_half_of_the_time_and_the_hint_never(monkeypatch):
    model, n, conditions = controlled("flow-matching"), 400, []
    monkeypatch.setattr(
        FlowMatching,
        "turns",
        lambda self, batch, step, noise: iter(conditions.append(batch.c) or ()),
    )
    c = random_condition("labels", n)
    list(model.turns(Batch(torch.zeros(n, 3, 8, 8), c), 0, Noise.keyed(0, 0, range(n))))
    share = float((conditions[0].label == -1).double().mean())
    assert abs(share - 0.5) < 0.1
    assert torch.equal(conditions[0].image, model.with_hint(c).image)
    assert bool((conditions[0].image[:, -1] == 1).all())
    present = torch.arange(n) % 3 > 0
    batch = Batch(torch.zeros(n, 3, 8, 8), replace(c, present=present))
    list(model.turns(batch, 0, Noise.keyed(0, 0, range(n))))
    assert torch.equal(conditions[1].image[:, -1].amax((1, 2)) == 1, present)


def test_both_predictions_of_guidance_use_the_hint():
    model, c = controlled("flow-matching"), random_condition("labels")
    view, bound = model.controlled_base(c)
    x_t, t = torch.randn(3, 3, 8, 8), torch.tensor(0.6, dtype=torch.float64)
    null = replace(bound, label=torch.full((3,), -1))
    with torch.no_grad():
        guided = view.plan(scale=2.5, clip=False).D(x_t, t, bound).x_hat
        with_prompt, without_prompt = (view(x_t, t, condition).x_hat for condition in (bound, null))
    torch.testing.assert_close(guided, without_prompt + 2.5 * (with_prompt - without_prompt))
    plain = model.base(x_t, t, prompt(null)).x_hat
    assert (without_prompt - plain).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["flow-matching", "plain", "latent-diffusion"])
def test_a_low_rank_control_has_no_copy_and_equals_a_full_control(kind, tmp_path):
    model, c = controlled(kind, rank=2), random_condition("labels")
    control = model.branches[0]
    assert control.encoder is None and control.change is not None
    full = model.join([])
    full_control = full.branches[0]
    assert full_control.change is None and full_control.encoder is not None
    base_weights = dict(model.base_network.named_parameters())
    for name, weight in full_control.encoder.named_parameters():
        matrix_rank = (
            torch.linalg.matrix_rank((weight - base_weights[name]).flatten(1))
            if weight.ndim > 1
            else 0
        )
        assert matrix_rank == (2 if weight.ndim > 1 else 0), name
    pictures = model.sample(3, c, **OPTIONS)
    assert not torch.equal(pictures, model.base.sample(3, prompt(c), **OPTIONS))
    torch.testing.assert_close(full.sample(3, c, **OPTIONS), pictures, rtol=1e-4, atol=1e-5)
    save_model(model, tmp_path)
    loaded = load(tmp_path)
    assert torch.equal(loaded.sample(3, c, **OPTIONS), pictures)  # pyright: ignore


def test_several_controls_add_up():
    kind = "flow-matching"
    edges, tint = (
        controlled(kind),
        controlled(kind, hint=ImageSpec(3, 4, 4, domain="tint"), shake=False),
    )
    torch.manual_seed(11)
    randomised(tint.controls)
    both = edges.join([tint])
    hints = [(hint.channels, hint.levels, hint.domain) for hint in both.hints]
    assert hints == [(1, 2, "edges"), (3, 256, "tint")]
    assert both.spec.hint is not None and both.spec.hint.shape == (4, 8, 8)
    assert both.spec.hint.levels == 256 and not both.training
    assert both.base is not edges.base
    c = random_condition("labels")
    with pytest.raises(LimnerError, match="control_weights=1: the model has 2 controls; give one"):
        both.sample(3, prompt(c), control_weights=(1.0,))
    assert c.image is not None
    small = torch.rand(3, 3, 4, 4) * 2 - 1
    large = nn.functional.interpolate(small, (8, 8), mode="bilinear", antialias=True)
    joint = replace(c, image=torch.cat([c.image, large], 1))
    for weights, model, condition in (
        ((1.0, 0.0), edges, c),
        ((0.0, 1.0), tint, replace(c, image=small)),
    ):
        output = both.sample(3, joint, control_weights=weights, **OPTIONS)
        assert torch.equal(output, model.sample(3, condition, **OPTIONS))
    alone = tint.join([])
    assert alone.spec.hint is not None and alone.spec.hint.shape == (3, 4, 4)
    condition = replace(c, image=small)
    assert torch.equal(alone.sample(3, condition, **OPTIONS), tint.sample(3, condition, **OPTIONS))
    x, label = torch.randn(3, 3, 8, 8), torch.tensor([10.0, 300.0, 900.0])
    view, bound = both.controlled_base(joint, control_weights=(0.5, 1.5), control_strength=0.6)
    with torch.no_grad():
        output = view.network(x, label, bound)  # pyright: ignore
        network = both.denoiser.network
        signal = network.conditioner(prompt(c), 3)
        features = network.encode(x, label, signal)
        for control, hint, weight in zip(both.branches, (c.image, large), (0.3, 0.9)):
            features = features.plus(
                [weight * r for r in control(network, x, label, signal, control.hint(hint))]
            )
        torch.testing.assert_close(output, network.decode(features))


@pytest.mark.parametrize("kind", ["ddpm", "edm", "flow-matching", "classifier-free"])
def test_outside_the_control_interval_steps_equal_the_base(kind):
    model, c = controlled(kind), random_condition("labels")
    options: dict[str, Any] = {"sampler": "euler", "steps": 6, "seed": 4}
    base, early, late = (
        list(model.watch(3, c, **options, **change))
        for change in (
            {"control_strength": 0.0},
            {"control_interval": (0, 0.5)},
            {"control_interval": (0.5, 1)},
        )
    )
    equal = [[torch.equal(a, b) for a, b in zip(base, other)] for other in (early, late)]
    assert equal[0] == [False] * 7
    assert equal[1] == [True] * 3 + [False] * 4
    assert len(base) == model.frame_count(steps=6)
    full = list(model.watch(3, c, **options, control_interval=(0, 1)))
    assert torch.equal(full[-1], model.sample(3, c, **options))
    assert all(torch.equal(a, b) for a, b in zip(full[:3], early[:3]))


@pytest.mark.parametrize(
    ("short", "step"),
    [
        ((0.5, 0.51), (3 / 6, 4 / 6)),
        ((0.95, 1), (5 / 6, 1)),
        ((0, 0.01), (0, 1 / 6)),
        ((0.6, 1), (4 / 6, 1)),
        ((0, 0.6), (0, 4 / 6)),
    ],
)
def test_a_control_interval_is_rounded_to_at_least_one_step(short, step):
    model, c = controlled("flow-matching"), random_condition("labels")
    options: dict[str, Any] = {"sampler": "euler", "steps": 6, "seed": 4}
    picture, same = (
        model.sample(3, c, control_interval=interval, **options) for interval in (short, step)
    )
    assert torch.equal(picture, same)
    assert not torch.equal(picture, model.sample(3, c, control_strength=0.0, **options))


def test_each_pictures_own_time_decides_whether_its_hint_acts():
    model, c = controlled("flow-matching"), random_condition("labels")
    view, bound = model.controlled_base(c, control_interval=(0, 0.5), steps=4)
    x, label = torch.randn(3, 3, 8, 8), torch.tensor([900.0, 100.0, 900.0])
    with torch.no_grad():
        mixed = view.network(x, label, bound)
        with_hint = model.controlled_base(c)[0].network(x, label, bound)
        without = model.base_network(x, label, prompt(c))
    torch.testing.assert_close(mixed[[0, 2]], with_hint[[0, 2]])
    torch.testing.assert_close(mixed[1], without[1])
    assert (with_hint - without).abs().amax((1, 2, 3)).min() > 1e-3


def test_a_plan_and_one_frame_are_those_of_sampling():
    model, c = controlled("flow-matching"), random_condition("labels")
    options = {"steps": 3, "scale": 2.0, "control_strength": 0.5}
    noise = Noise.sampling(4, 3)
    with torch.no_grad():
        plan, bound = model.base_plan(c, 3, **options)
        picture = plan.end(model.first(noise), bound, noise)
        assert torch.equal(bound.image, model.base_condition(c, 3).image)
    torch.testing.assert_close(picture, model.sample(3, c, seed=4, **options))
    (only,) = model.watch(3, c, seed=4, preview=False, **options)
    torch.testing.assert_close(only, picture)
    x = torch.rand(3, 3, 8, 8) * 2 - 1
    (only,) = model.edit(x, c, strength=0.5, seed=4, preview=False, **options)
    assert torch.equal(only, list(model.edit(x, c, strength=0.5, seed=4, **options))[-1])


def test_edits_and_codes_use_the_hint(monkeypatch):
    monkeypatch.setattr(denoising_model, "_CODE_STEPS", 3)
    model, c = controlled("edm"), random_condition("labels")
    x = torch.rand(3, 3, 8, 8) * 2 - 1
    mask = torch.zeros(3, 1, 8, 8)
    mask[..., :4] = 1
    edited, plain = (
        list(model.edit(x, c, mask=mask, steps=4, control_strength=s))[-1] for s in (1.0, 0.0)
    )
    assert torch.equal(edited[..., 4:], x[..., 4:])
    assert not torch.equal(edited, plain)
    with torch.no_grad():
        codes, bare = model.encode(x, c), model.encode(x, prompt(c))
        assert not torch.equal(codes, bare)
        assert torch.equal(bare, model.base.encode(x, prompt(c)))
        view, bound = model.controlled_base(c)
        assert torch.equal(model.decode(codes, c), view.decode(codes, bound))
        assert not torch.equal(model.decode(codes, c), model.base.decode(codes, prompt(c)))
    with pytest.raises(LimnerError, match="their single numbers have no meaning"):
        model.traverse(codes)


@pytest.mark.parametrize("kind", ["flow-matching", "latent-diffusion"])
def test_rewording_keeps_the_hint(kind):
    """Equal words give the same picture twice; without sharing, each is its own sample."""
    model = controlled(kind, "text")
    c = random_condition("text", 2)
    before, after = c.rows(slice(0, 1)), replace(c.rows(slice(1, 2)), image=c.image[:1])
    alignment = align_prompts(torch.cat([before.text, after.text]))
    free = Rewording(alignment, torch.ones(5), cross_steps=0, self_steps=0, local=0)
    walk_options = {"steps": 3, "scale": 2.0}
    *_, pair = model.reword(before, after, free, seed=4, **walk_options)
    samples = [model.sample(1, condition, seed=4, **walk_options) for condition in (before, after)]
    torch.testing.assert_close(pair, torch.cat(samples), atol=1e-4, rtol=1e-4)
    bare = model.base.sample(1, prompt(before), seed=4, **walk_options)
    assert not torch.allclose(pair[:1], bare, atol=1e-3), "the hint has no effect"
    *_, off = model.reword(before, after, free, seed=4, control_strength=0.0, **walk_options)
    torch.testing.assert_close(off[:1], bare, atol=1e-4, rtol=1e-4)
    same = Rewording(align_prompts(before.text.repeat(2, 1)), torch.ones(5))
    *_, repeats = model.reword(before, before, same, seed=4, **walk_options)
    assert torch.equal(*repeats)
    x = torch.rand(1, 3, 8, 8) - 0.5
    *_, result = model.reword(before, before, same, image=x, seed=4, **walk_options)
    reconstruction = model.reconstruct_for_edit(x, seed=4)
    assert torch.equal(reconstruction, model.base.reconstruct_for_edit(x, seed=4))
    torch.testing.assert_close(result, reconstruction.repeat(2, 1, 1, 1), atol=1e-5, rtol=1e-5)
    blind = controlled("vdm")
    with pytest.raises(LimnerError, match="there is no word to change"):
        next(blind.reword(random_condition("labels", 1), random_condition("labels", 1), same))


def test_it_equals_the_controlnet_of_diffusers():
    """The same weights give the same residuals. The U-Net has no attention; diffusers' mid-block
    has attention, which a zero projection makes the identity."""
    from diffusers.models.controlnets.controlnet import ControlNetModel

    torch.manual_seed(0)
    spec, widths = ImageSpec(3, 16, 16), (8, 16)
    network = PlainUNet(spec, widths, blocks=2, attention=0, dropout=0.0)
    control = Control(randomised(network), 2, halvings=0)  # pyright: ignore
    randomised(control)
    theirs = ControlNetModel(
        in_channels=3,
        conditioning_channels=2,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        block_out_channels=widths,
        layers_per_block=2,
        norm_num_groups=network.groups,
        cross_attention_dim=4,
        attention_head_dim=2,
        resnet_time_scale_shift="scale_shift",
        conditioning_embedding_out_channels=(16,),
    )
    encoder = copy.deepcopy(network)
    encoder_weights = control.encoder.state_dict()
    encoder.load_state_dict(encoder.state_dict() | encoder_weights)
    weights = {
        k: w for k, w in _weights(encoder) if k.split(".")[0] in dict(theirs.named_children())
    }
    for i, zero in enumerate(control.zeros[:-1]):
        weights |= {f"controlnet_down_blocks.{i}.{k}": w for k, w in zero.state_dict().items()}
    weights |= {f"controlnet_mid_block.{k}": w for k, w in control.zeros[-1].state_dict().items()}
    weights |= {f"controlnet_cond_embedding.{k}": w for k, w in control.hint.state_dict().items()}
    mismatch = theirs.load_state_dict(weights, strict=False)
    assert not mismatch.unexpected_keys
    assert {name.split(".")[1] for name in mismatch.missing_keys} == {"attentions"}
    nn.init.zeros_(theirs.mid_block.attentions[0].proj_out.weight)
    nn.init.zeros_(theirs.mid_block.attentions[0].proj_out.bias)
    x, hint, t = torch.randn(2, 3, 16, 16), torch.randn(2, 2, 16, 16), torch.tensor([3.0, 700.0])
    with torch.no_grad():
        down, middle = theirs(x, t, torch.zeros(2, 1, 4), hint, return_dict=False)
        ours = control(network, x, t, Signal(), control.hint(hint))
    for a, b in zip(ours, [*down, middle], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        assert a.std() > 0.01


def test_the_hint_encoder_equals_that_of_diffusers():
    from diffusers.models.controlnets.controlnet import ControlNetConditioningEmbedding

    ours = randomised(HintEncoder(3, 24, 3))
    theirs = ControlNetConditioningEmbedding(24, 3)
    theirs.load_state_dict({k.replace("layers", "blocks"): w for k, w in ours.state_dict().items()})
    hint = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(ours(hint), theirs(hint))


def test_a_control_is_saved_with_a_base_from_the_recipe(tmp_path):
    base_model = base("flow-matching")
    save_model(base_model, tmp_path / "base")
    recipe = Recipe({"name": "controlnet"}, {"source": "mnist"}).with_values(
        [f"train.init.base={tmp_path / 'base'}"]
    )
    model = recipe.build(replace(SPECS["labels"], hint=HINT))
    assert isinstance(model, ControlNet)
    randomised(model.controls)
    save_model(model, tmp_path / "control")
    loaded, c = load(tmp_path / "control"), random_condition("labels")
    assert isinstance(loaded, ControlNet)
    assert torch.equal(loaded.sample(3, c, **OPTIONS), model.eval().sample(3, c, **OPTIONS))
    assert torch.equal(
        loaded.base.sample(3, prompt(c), **OPTIONS), base_model.sample(3, prompt(c), **OPTIONS)
    )
    both = loaded.join([loaded])
    save_model(both, tmp_path / "both")
    assert load(tmp_path / "both").config["planes"] == [1, 1]


@pytest.mark.parametrize("metric", ["edges F1", "boxes IoU"])
def test_a_remark_reports_the_sudden_rise_of_adherence(metric):
    model, name = controlled("flow-matching"), f"evaluate.{metric}"
    values = [0.40, None, 0.45, 0.50, None, 0.72, None, 0.75]
    rows = [{"loss": 1.0} | ({} if value is None else {name: value}) for value in values]
    remarks = [model.remarks(rows[:i]) for i in range(len(rows) + 1)]
    assert [len(lines) for lines in remarks] == [0] * 6 + [1] + [0] * 2
    assert remarks[6][0].startswith(f"hints are followed now: {metric} rose from 0.50 to 0.72")
    assert not model.remarks([{name: 0.9}])


def test_a_base_may_be_the_name_of_a_bundled_model():
    recipe = Recipe({"name": "controlnet"}, {"source": "emoji"}).with_values(
        ["train.init.base=emoji"]
    )
    with pytest.raises(LimnerError, match="cascade models have no U-Net to control"):
        recipe.build(replace(SPECS["text"], hint=HINT))


def test_a_control_works_with_another_base_of_the_same_shape():
    model, other = controlled("flow-matching"), randomised(base("flow-matching"))
    joined = model.join([], other)
    c = random_condition("labels")
    assert torch.equal(
        joined.sample(3, c, control_strength=0.0, **OPTIONS), other.sample(3, prompt(c), **OPTIONS)
    )
    wide = build("flow-matching", SPECS["labels"], channels=(16, 32))
    with pytest.raises(LimnerError, match="trained with a network of other channels"):
        model.join([], wide)  # pyright: ignore
    large = build("flow-matching", SPECS["labels"].with_size(16, 16), channels=(8, 16))
    with pytest.raises(LimnerError, match="works at 8 x 8, and the base paints 16 x 16 pictures"):
        model.join([], large)  # pyright: ignore
    other_size = ControlNet(replace(large.spec, hint=HINT), large)
    with pytest.raises(LimnerError, match="works at 16 x 16, and the base paints 8 x 8 pictures"):
        model.join([other_size])


def test_a_latent_control_works_only_in_the_same_latent_space():
    model, other = controlled("latent-diffusion"), base("latent-diffusion")
    randomised(other.denoiser)
    c = random_condition("labels")
    pictures = model.join([], other).sample(3, c, control_strength=0.0, **OPTIONS)
    assert torch.equal(pictures, other.sample(3, prompt(c), **OPTIONS))
    randomised(other.first_stage)
    with pytest.raises(
        LimnerError, match="in the latent space of another autoencoder; take a base"
    ):
        model.join([], other)
    with pytest.raises(
        LimnerError, match="in the latent space of an autoencoder, and the base paints on"
    ):
        model.join([], base("flow-matching"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ControlNet(SPECS["labels"], base("edm")), "give data.hint=edges"),
        (
            lambda: ControlNet(
                replace(SPECS["labels"].with_size(16, 16), hint=HINT), base("latent-diffusion")
            ),
            "in the latent space of an autoencoder, and a control works at that size only; give",
        ),
        (lambda: ControlNet(replace(SPECS["text"], hint=HINT), base("edm")), "with other labels"),
        (
            lambda: ControlNet(replace(SPECS["text"], hint=HINT), base("edm", "unconditional")),
            "with other text",
        ),
        (
            lambda: ControlNet(replace(SPECS["labels"], levels=2, hint=HINT), base("edm")),
            "with other levels",
        ),
        (
            lambda: ControlNet(replace(SPECS["labels"], hint=HINT), build("gan", SPECS["labels"])),
            "gan models have no U-Net to control; train ddpm",
        ),
        (
            lambda: ControlNet(
                replace(SPECS["labels"], hint=HINT), controlled("flow-matching").base, planes=(2,)
            ),
            "model.planes=2 are 2 channels; give numbers whose sum is 1",
        ),
        (
            lambda: ControlNet(
                replace(SPECS["labels"], hint=HINT),
                controlled("flow-matching").base,
                formats=((2, 8, 8), (2, 4, 4)),
            ),
            "model.formats has 2 entries, and model.planes 1; give levels, height and width",
        ),
    ],
)
def test_an_unsuitable_base_is_refused_in_one_line(make, message):
    with pytest.raises(LimnerError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (torch.zeros(1, 1, 4, 4), {}, "trained with hints of 1 x 8 x 8, not of 1 x 4 x 4"),
        (torch.zeros(1, 3, 8, 8), {}, "3 channels, and this model was trained with 1"),
        (None, {"control_interval": (0.5, 0.5)}, "give two shares of the steps, as in 0,0.5"),
        (None, {"control_interval": (-0.5, 0.5)}, "give two shares of the steps, as in 0,0.5"),
        (None, {"control_interval": (0.5, 1.5)}, "give two shares of the steps, as in 0,0.5"),
        (
            None,
            {"control_weights": (1.0, 1.0)},
            "control_weights=1,1: the model has 1 control; give one",
        ),
        (None, {"control_strength": -1.0}, "control_strength"),
        (None, {"control_strength": 2.5}, "control_strength"),
        (None, {"control_weights": (2.5,)}, "control_weights"),
    ],
)
def test_an_unsuitable_hint_or_option_is_refused_in_one_line(image, options, message):
    model = controlled("flow-matching", "unconditional")
    with pytest.raises(LimnerError, match=message) as error:
        model.sample(1, Condition(image=image), steps=2, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("kind", ["flow-matching", "latent-diffusion"])
def test_attention_maps_are_of_the_base_and_not_of_its_copy(kind, rank):
    """An untrained control does not change them."""
    model, c = controlled(kind, "text", shake=False, rank=rank), random_condition("text")
    x = torch.rand(3, 3, 8, 8) * 2 - 1
    assert torch.equal(model.attention_maps(x, c), model.base.attention_maps(x, prompt(c)))


@pytest.mark.parametrize(("patch", "side"), [(3, 12), (6, 12), (64, 64)])
def test_a_base_whose_patch_size_is_not_a_small_power_of_2_is_refused(patch, side):
    spec = ImageSpec(1, side, side)
    network = build("flow-matching", spec, channels=(8,), attention=0, patch=patch)
    with pytest.raises(LimnerError, match=rf"patches of {patch} x {patch} .*model\.patch=2"):
        ControlNet(replace(spec, hint=spec), network)


def test_patches_of_32_pixels_are_the_largest():
    spec = ImageSpec(1, 32, 32)
    network = build("flow-matching", spec, channels=(8,), attention=0, patch=32)
    control = ControlNet(replace(spec, hint=spec), network).branches[0]
    assert control.hint(torch.zeros(1, 1, 32, 32)).shape == (1, 8, 1, 1)
    widths = [layer.out_channels for layer in control.hint.layers if layer.stride == (2, 2)]
    assert widths == [32, 96, 256, 256, 256]


def test_over_a_reflow_model_a_control_samples_but_is_not_trained():
    flow, spec = base("flow-matching"), replace(SPECS["labels"], hint=HINT)
    straight = build("reflow", flow.spec, teacher=flow)
    over_flow, over_straight = ControlNet(spec, flow), ControlNet(spec, straight)
    assert over_flow.join([], straight).base.name == "reflow"
    over_flow.prepare(iter(()))
    with pytest.raises(LimnerError, match="not from pictures; give the flow-matching model"):
        over_straight.prepare(iter(()))


def test_a_latent_control_with_other_latent_statistics_is_refused():
    model, other = controlled("latent-diffusion"), base("latent-diffusion")
    other.latent_mean.add_(0.1)
    other.latent_deviation.mul_(1.1)
    model.join([], other)  # like the statistics of another batch of the same data
    other.latent_mean.add_(0.9)
    with pytest.raises(LimnerError, match="own first stage, on the same data"):
        model.join([], other)
    other.latent_mean.zero_()
    other.latent_deviation.mul_(2)
    with pytest.raises(LimnerError, match="own first stage, on the same data"):
        model.join([], other)
