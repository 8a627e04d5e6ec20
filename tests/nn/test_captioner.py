"""The captioner: its probabilities, checked over all captions."""

from itertools import product

import pytest
import torch

from limner.contract.image import ImageSpec
from limner.contract.text import Tokenizer, text_spec
from limner.nn.captioner import Captioner, _Layer, _places

TEXT = text_spec(9)
RED, BLUE = (token[0] for token in Tokenizer(TEXT).encode(["red", "blue"]).tolist())
X = torch.randn(1, 3, 12, 20, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def captioner() -> Captioner:
    torch.manual_seed(0)
    model = Captioner(ImageSpec(3, 12, 20), TEXT, (4, 8), (0, 1), 16, 2)
    for parameter in model.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    model.learn_tokens(torch.tensor([[RED, BLUE, 0]]))
    return model.eval()


def likelihoods(captioner: Captioner, captions: list[tuple[int, ...]]) -> torch.Tensor:
    length = max(1, *map(len, captions))
    text = torch.tensor([[*caption, *[0] * (length - len(caption))] for caption in captions])
    with torch.no_grad():
        return captioner(X.expand(len(text), -1, -1, -1), text).double().exp()


def test_the_probabilities_of_all_captions_sum_to_1(captioner: Captioner):
    """Of captions of two different words, those with at most n words leave less probability with
    each n. The end of a caption is made likely, so that little is left at n = 9."""
    captioner.project.bias.data.zero_()
    left, before = 1.0, 1.0
    for n in range(TEXT.length + 1):
        left -= float(likelihoods(captioner, [*product((RED, BLUE), repeat=n)]).sum())
        assert 0 < left < before
        before = left
    assert left < 0.2


def test_logits_are_scaled_products_with_the_vectors_of_words(captioner: Captioner):
    outputs: list[torch.Tensor] = []
    captioner.out.register_forward_hook(lambda *args: outputs.append(args[2]))
    likelihood = likelihoods(captioner, [(RED, BLUE)])
    known = sorted((RED, BLUE))
    vectors = torch.cat([captioner.end[None], captioner._words(torch.tensor(known))])
    log_p = (outputs[0][0] @ vectors.T / 16**0.5).log_softmax(-1)
    target = torch.tensor([1 + known.index(RED), 1 + known.index(BLUE), 0])
    expected = log_p.gather(1, target[:, None]).sum().exp()
    torch.testing.assert_close(likelihood[0].float(), expected.detach())


def test_tokens_after_the_end_change_nothing(captioner: Captioner):
    short = likelihoods(captioner, [(RED, BLUE)])
    torch.testing.assert_close(likelihoods(captioner, [(RED, BLUE, 0, 0, 0)]), short)


def test_the_order_of_words_matters(captioner: Captioner):
    one, other = likelihoods(captioner, [(RED, BLUE), (BLUE, RED)])
    assert abs(one / other - 1) > 0.01


def test_an_unknown_word_is_not_predicted(captioner: Captioner):
    """It has no cost of its own, but predictions of later words depend on it."""
    (strange,) = Tokenizer(TEXT).encode(["seven"])[0, :1].tolist()
    begun, ended = likelihoods(captioner, [(strange, RED), (strange,)])
    assert 0 < begun < 1 and 0 < ended < 1
    (other,) = Tokenizer(TEXT).encode(["grass"])[0, :1].tolist()
    assert abs(likelihoods(captioner, [(other, RED)]) / begun - 1) > 1e-3


@pytest.mark.parametrize("strange", [1, (RED + BLUE) // 2, TEXT.vocabulary - 1])
def test_an_unknown_word_costs_nothing_wherever_it_is_in_the_vocabulary(captioner, strange):
    assert strange not in (RED, BLUE)
    text, weight = torch.tensor([[RED, strange]]), torch.tensor([[1.0, 0.0]])
    with torch.no_grad():
        assert torch.equal(captioner(X, text), captioner(X, text, weight))
        alone = captioner(X, torch.tensor([[RED, 0]]))
    assert (captioner(X, text) - alone).abs() > 1e-4, "the caption ends before its last word"


def test_words_are_learnt_in_addition(captioner: Captioner):
    before, (strange,) = captioner.known.clone(), Tokenizer(TEXT).encode(["seven"])[0, :1].tolist()
    captioner.learn_tokens(torch.tensor([[strange, 0]]))
    assert {*(captioner.known ^ before).nonzero().flatten().tolist()} == {strange}


def test_the_places_of_a_picture_are_at_an_eighth_of_its_sides_rounded_up(captioner: Captioner):
    assert captioner.network(X).shape == (1, 8, 2, 3)  # from 3 x 5 at a quarter
    assert captioner.places.shape == (2 * 3, 16)
    with torch.no_grad():
        features, places = captioner._picture_features(X), captioner.places.clone()
        captioner.places.zero_()
        torch.testing.assert_close(features - captioner._picture_features(X), places[None])


def test_positions_are_those_of_rows_and_columns():
    rows, columns = _places(3, 5, 16).view(3, 5, 16).split(8, -1)
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert torch.equal(columns, columns[:1].expand_as(columns))
    for ends in (rows[:, 0], columns[0]):
        assert len(ends.unique(dim=0)) == len(ends)


def test_a_layer_is_the_identity_at_first():
    h, memory = torch.randn(2, 4, 16), torch.randn(2, 6, 16)
    assert torch.equal(_Layer(16)(h, memory), h)


def test_each_word_sees_the_words_before_it_and_the_whole_picture(captioner: Captioner):
    h, memory = (torch.randn(1, n, 16, requires_grad=True) for n in (4, 6))
    captioner.layers[0](h, memory)[0, 1].sum().backward()
    assert h.grad is not None and memory.grad is not None
    words, places = (g[0].abs().amax(1) > 0 for g in (h.grad, memory.grad))
    assert words.tolist() == [True, True, False, False] and bool(places.all())


def test_one_layer_knows_the_order_of_earlier_words():
    """Without positions, its output depends on the last word and the set of those before it."""
    torch.manual_seed(0)
    model = Captioner(ImageSpec(3, 12, 20), TEXT, (4, 8), (0, 1), 16, 1).eval()
    for parameter in model.layers.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    text = torch.tensor([[RED, BLUE, RED], [BLUE, RED, RED]])
    outputs: list[torch.Tensor] = []
    model.out.register_forward_hook(lambda *args: outputs.append(args[2]))
    with torch.no_grad():
        model(X.expand(2, -1, -1, -1), text)
        model.positions.zero_()
        model(X.expand(2, -1, -1, -1), text)
    differences = [float((output[0, -1] - output[1, -1]).abs().max()) for output in outputs]
    assert differences[0] > 1e-3 > 1e-5 > differences[1]


def test_a_word_of_weight_0_costs_nothing_and_the_end_counts(captioner: Captioner):
    text = torch.tensor([[RED, BLUE]])
    with torch.no_grad():
        red, blue, both = (
            captioner(X, text, torch.tensor([weight])) for weight in ([1.0, 0], [0.0, 1], [0.0, 0])
        )
        torch.testing.assert_close(red + blue - both, captioner(X, text))
    assert both < 0


def test_heads_divide_any_width_of_word_vectors():
    model = Captioner(ImageSpec(3, 12, 20), TEXT, (4, 8), (0, 1), 49, 1)
    model.learn_tokens(torch.tensor([[RED, BLUE]]))
    assert likelihoods(model, [(RED,)]) < 1


def test_a_captioner_without_known_words_scores_all_captions_equally():
    model = Captioner(ImageSpec(3, 12, 20), TEXT, (4, 8), (0, 1), 16, 2)
    assert likelihoods(model, [(RED,), (BLUE, RED)]).tolist() == [1.0, 1.0]
