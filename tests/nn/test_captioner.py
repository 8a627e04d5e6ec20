"""The captioner: its probabilities, checked over all captions."""

from itertools import product

import pytest
import torch

from limner.contract.image import ImageSpec
from limner.contract.text import Tokenizer, text_spec
from limner.nn.captioner import Captioner

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
