"""Attention: masking, hooks, and its initial output."""

import pytest
import torch
import torch.nn.functional as F

from limner.nn.attention import Attention


def randomise_output(layer: Attention) -> Attention:
    """Randomise the layer's output projection, which starts at 0; return the layer."""
    torch.nn.init.normal_(layer.out.weight, std=0.3)
    torch.nn.init.normal_(layer.out.bias, std=0.3)
    return layer


@pytest.mark.parametrize("token_dim", [None, 5])
def test_a_new_layer_is_the_identity(token_dim):
    layer = Attention(8, head_dim=4, token_dim=token_dim)
    x = torch.randn(2, 8, 3, 4)
    tokens = None if token_dim is None else torch.randn(2, 6, 5)
    assert torch.equal(layer(x, tokens), x)


def test_it_equals_torchs_multi_head_attention():
    channels, heads = 12, 3
    layer = randomise_output(Attention(channels, head_dim=4))
    peer = torch.nn.MultiheadAttention(channels, heads, batch_first=True)
    with torch.no_grad():
        peer.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key_value.weight]))
        peer.in_proj_bias.copy_(torch.cat([layer.query.bias, layer.key_value.bias]))
        peer.out_proj.weight.copy_(layer.out.weight)
        peer.out_proj.bias.copy_(layer.out.bias)
    x = torch.randn(2, channels, 3, 4)
    positions = F.layer_norm(x.flatten(2).mT, (channels,))
    gathered, _ = peer(positions, positions, positions, need_weights=False)
    expected = x + gathered.mT.view_as(x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 6, 24, 50, 64, 100, 130])
def test_any_number_of_channels_is_divided_into_heads(channels):
    layer = Attention(channels)
    assert channels % layer.heads == 0
    assert channels // layer.heads >= min(32, channels)
    assert layer(torch.randn(1, channels, 2, 2)).shape == (1, channels, 2, 2)


@pytest.fixture
def crossed():
    """Return pictures and tokens: 4 for the first picture, 1 for the second, 0 for the third."""
    layer = randomise_output(Attention(8, head_dim=4, token_dim=5, site="middle.cross"))
    torch.nn.init.normal_(layer.null)
    x, tokens = torch.randn(3, 8, 2, 3), torch.randn(3, 6, 5)
    mask = torch.arange(6) < torch.tensor([4, 1, 0])[:, None]
    return layer, x, tokens, mask


@pytest.fixture(params=["fused", "edited"])
def path(request, crossed):
    """Run a test with both computations: torch's fused one, and the one in parts with a hook."""
    if request.param == "edited":
        crossed[0].edit = lambda site, weights: weights
    return request.param


def test_padded_tokens_get_no_gradient_and_change_nothing(crossed, path):
    layer, x, tokens, mask = crossed
    tokens.requires_grad_()
    y = layer(x, tokens, mask)
    (gradient,) = torch.autograd.grad(y.square().sum(), tokens)
    assert (gradient[~mask] == 0).all()
    assert (gradient[mask] != 0).any(-1).all()
    other = torch.where(mask[..., None], tokens, 100 * torch.randn_like(tokens))
    assert torch.equal(layer(x, other, mask), y)
    shorter = layer(x, tokens[:, :4], mask[:, :4])
    torch.testing.assert_close(shorter, y, rtol=1e-5, atol=1e-6)


def test_a_row_without_tokens_attends_to_nothing(crossed, path):
    layer, x, tokens, mask = crossed
    y = layer(x, tokens, mask)
    assert y.isfinite().all()
    expected = x[2] + layer.out.bias[:, None, None]
    torch.testing.assert_close(y[2], expected, rtol=1e-6, atol=1e-6)


def test_a_token_of_weight_2_counts_like_two_tokens(crossed, path):
    layer, x, tokens, mask = crossed
    weight = mask.float()
    torch.testing.assert_close(layer(x, tokens, weight.log()), layer(x, tokens, mask))
    weight[0, 1] = 2
    twice, both = torch.cat([tokens, tokens[:, 1:2]], 1), torch.cat([mask, mask[:, :1]], 1)
    y = layer(x[:1], tokens[:1], weight[:1].log())
    torch.testing.assert_close(y, layer(x[:1], twice[:1], both[:1]))


def test_a_hook_sees_weights_that_sum_to_1_at_its_site(crossed):
    layer, x, tokens, mask = crossed
    calls = []

    def edit(site, weights):
        calls.append((site, weights))
        return weights

    plain = layer(x, tokens, mask)
    layer.edit = edit
    torch.testing.assert_close(layer(x, tokens, mask), plain, rtol=1e-5, atol=1e-6)
    ((site, weights),) = calls
    assert site == "middle.cross"
    assert weights.shape == (3, 2, 6, 7)  # b, heads, positions, null key and tokens
    torch.testing.assert_close(weights.sum(-1), torch.ones(3, 2, 6), rtol=1e-6, atol=1e-6)
    assert (weights[..., 1:].masked_select(~mask[:, None, None, :]) == 0).all()


def test_a_hook_changes_the_output(crossed):
    layer, x, tokens, mask = crossed
    plain = layer(x, tokens, mask)

    def only_nothing(site, weights):
        return F.one_hot(torch.zeros_like(weights[..., 0], dtype=torch.long), 7).to(weights)

    layer.edit = only_nothing
    edited = layer(x, tokens, mask)
    torch.testing.assert_close(edited, x + layer.out.bias[:, None, None], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(edited[:2], plain[:2], atol=1e-3)


def test_both_computations_agree_in_bfloat16():
    """bfloat16 on a CPU is computed in parts; float32 with torch's fused function."""
    layer = randomise_output(Attention(64, head_dim=32)).requires_grad_(False)
    x = torch.randn(2, 64, 4, 4)
    full = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        half = layer(x)
    assert float((half.float() - full).norm() / (full - x).norm()) < 0.02
