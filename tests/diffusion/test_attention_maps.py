"""Attention maps: a network's cross-attention weights at each pixel, without side effects."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from limner.contract.abilities import Attends
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.registry import build
from limner.contract.text import text_condition, text_spec
from limner.diffusion.attention_maps import looking
from limner.diffusion.flow_matching import FlowMatching
from limner.nn.attention import Attention

SPEC = ImageSpec(3, 8, 8, text=text_spec(6))
LARGE = SPEC.with_size(16, 16)


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """Give all weights random values, so that attention depends on all inputs; return the model."""
    generator = torch.Generator().manual_seed(0)
    for p in model.parameters():
        p.data = 0.3 * torch.randn(p.shape, generator=generator)
    return model.eval()


def cross_attention_layers(model: torch.nn.Module) -> list[Attention]:
    layers = [layer for layer in model.modules() if isinstance(layer, Attention)]
    return [layer for layer in layers if layer.null is not None]


@pytest.fixture(scope="module")
def model() -> FlowMatching:
    model = FlowMatching(SPEC, channels=(8, 16), attention=2, patch=1)
    randomise(model)
    return model


@pytest.fixture
def prompted_pictures() -> tuple[torch.Tensor, Condition]:
    """Return three pictures and their prompts."""
    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1
    return x, text_condition(SPEC, ["a red apple", "a cat", "a dog"])


def test_a_model_with_a_learned_schedule_in_float64_has_float32_maps(
    prompted_pictures: tuple[torch.Tensor, Condition],
):
    model = randomise(build("vdm", SPEC, channels=(8, 16), attention=2, patch=1, hidden=8))
    maps = model.attention_maps(*prompted_pictures)  # pyright: ignore
    assert maps.dtype == torch.float32 and maps.shape[0] == 3 and 0 <= maps.min() < maps.max() <= 1


def test_attention_of_a_controls_encoder_is_left_out(
    prompted_pictures: tuple[torch.Tensor, Condition],
):
    """The encoder is a copy of the base's, which is recorded itself."""
    hint = ImageSpec(1, 8, 8, domain="edges")
    base = build("flow-matching", SPEC, channels=(8,), attention=1)
    model = randomise(build("controlnet", replace(SPEC, hint=hint), base=base))
    x, c = prompted_pictures
    controlled, c = model.base_for(replace(c, image=torch.zeros(3, 1, 8, 8)), 3)  # pyright: ignore
    t = torch.full((3,), 0.5, dtype=torch.float64)
    with torch.no_grad(), looking(controlled) as recorder:
        controlled(x, t, c)
    assert len(recorder.weights) == len(cross_attention_layers(base))
    assert len(recorder.weights) < len(cross_attention_layers(model))


def test_maps_are_the_weights_of_torchs_attention():
    layer = randomise(Attention(12, head_dim=4, token_dim=5))
    peer = torch.nn.MultiheadAttention(
        12, 3, kdim=5, vdim=5, add_bias_kv=True, batch_first=True
    ).eval()
    with torch.no_grad():
        keys, values = layer.key_value.weight.chunk(2)
        for target, source in ((peer.q_proj_weight, layer.query.weight), (peer.k_proj_weight, keys),
                          (peer.v_proj_weight, values)):  # fmt: skip
            target.copy_(source)
        peer.in_proj_bias.copy_(torch.cat([layer.query.bias, layer.key_value.bias]))
        peer.bias_k.copy_(layer.null.view(1, 1, -1))
    x, tokens = torch.randn(2, 12, 4, 6), torch.randn(2, 3, 5)
    positions = F.layer_norm(x.flatten(2).mT, (12,), layer.norm.weight, layer.norm.bias)
    with looking(layer) as looks:
        layer(x, tokens)
    _, weights = peer(positions, tokens, tokens)
    # The peer appends its key bias as the last token.
    expected = weights[:, :, :3].mT.unflatten(2, (4, 6))
    torch.testing.assert_close(looks.maps(4, 6), expected, rtol=1e-4, atol=1e-5)
    enlarged = looks.maps(8, 12)
    torch.testing.assert_close(enlarged, F.interpolate(expected, (8, 12), mode="bilinear"))


def second_token_on_the_left(site: str, weights: torch.Tensor) -> torch.Tensor:
    """Return weights with which the left half attends to the second token and the rest to none."""
    side = round(weights.shape[2] ** 0.5)
    left = (torch.arange(side) < side // 2).float().repeat(side)
    edited = torch.zeros_like(weights)
    edited[..., 2], edited[..., 0] = left, 1 - left
    return edited


def nested(model: FlowMatching, name: str):
    """Return a model that contains another one."""
    if name == "cascade":
        outer = build("cascade", LARGE, base=model, options={"channels": (4,)})
    elif name == "distilled":
        outer = build("distilled", SPEC, teacher=model, rank=1)
    else:
        first = build("kl-autoencoder", replace(SPEC, labels=(), frequencies=(), text=None))
        options = {"channels": (8,), "attention": 1}
        outer = build("latent-diffusion", SPEC, first_stage=first, options=options)
    randomise(outer)
    return outer


@pytest.mark.parametrize("name", ["alone", "cascade", "distilled", "latent-diffusion"])
def test_maps_match_the_picture_and_follow_and_keep_a_hook(model, prompted_pictures, name):
    x, c = prompted_pictures
    outer = model if name == "alone" else nested(model, name)
    x = F.interpolate(x, outer.spec.shape[1:])
    layers = cross_attention_layers(outer)
    for layer in layers:
        layer.edit = second_token_on_the_left
    maps = outer.attention_maps(x, c)
    assert isinstance(outer, Attends) and maps.shape == (3, 3, *outer.spec.shape[1:])
    assert all(layer.edit is second_token_on_the_left for layer in layers)
    edge = outer.spec.width // 4
    assert (maps[:, 1, :, :edge] > 0.99).all() and (maps[:, 1, :, -edge:] < 0.01).all()
    assert (maps[:, [0, 2]] == 0).all()
    for layer in layers:
        layer.edit = None


def test_maps_do_not_depend_on_the_batch_and_change_nothing(model, prompted_pictures):
    x, c = prompted_pictures
    before = model.sample(1, c.rows(slice(0, 1)), steps=2)
    maps = model.train().attention_maps(x, c)
    assert model.training and all(layer.edit is None for layer in cross_attention_layers(model))
    assert torch.equal(model.sample(1, c.rows(slice(0, 1)), steps=2), before)
    assert (maps >= 0).all() and (maps.sum(1) < 1).all()
    assert (maps[1:, 2] == 0).all(), "padding has weights: these prompts have two tokens"
    single = model.attention_maps(x[1:2], c.rows(slice(1, 2)))
    torch.testing.assert_close(maps[1:2], single, rtol=1e-4, atol=1e-5)
    other = model.attention_maps(x.flip(0), c)
    assert (other - maps).abs().max() > 1e-3, "maps do not depend on the picture"


def test_maps_are_taken_at_ten_noise_levels_between_the_picture_and_noise(model, prompted_pictures):
    labels: list[float] = []
    hook = model.network.register_forward_pre_hook(lambda _, args: labels.append(float(args[1][0])))
    model.attention_maps(*prompted_pictures)
    hook.remove()
    assert labels == pytest.approx([1000 * i / 11 for i in range(10, 0, -1)])


def test_one_prompt_is_for_all_pictures_and_nothing_is_dropped_in_training(prompted_pictures):
    model = randomise(FlowMatching(SPEC, channels=(8, 16), attention=2, patch=1, dropout=0.5))
    x, c = prompted_pictures[0], prompted_pictures[1].rows(slice(0, 1))
    maps = model.attention_maps(x, c.repeat(3))  # pyright: ignore
    assert torch.equal(model.train().attention_maps(x, c), maps)  # pyright: ignore


def test_missing_prompts_wrong_shapes_and_models_without_words_raise(model, prompted_pictures):
    x, c = prompted_pictures
    with pytest.raises(LimnerError, match="give a prompt"):
        model.attention_maps(x, Condition())
    with pytest.raises(LimnerError, match="3 x 8 x 8 pictures, not 3 x 4 x 4"):
        model.attention_maps(x[..., :4, :4], c)
    blind = FlowMatching(SPEC, channels=(8, 8), attention=0)
    with pytest.raises(LimnerError, match=r"no cross-attention to words"):
        blind.attention_maps(x, c)
    vae = build("vae", SPEC.with_size(8, 8))
    with pytest.raises(LimnerError, match=r"have no attention maps"):
        build("cascade", LARGE, base=vae, options={"channels": (4,)}).attention_maps(x, c)
