"""The captioner: its probabilities by brute force over all captions."""

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
    own = Captioner(ImageSpec(3, 12, 20), TEXT, (4, 8), (0, 1), 16, 2)
    for parameter in own.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    own.learn_tokens(torch.tensor([[RED, BLUE, 0]]))
    return own.eval()


def likelihoods(captioner: Captioner, captions: list[tuple[int, ...]]) -> torch.Tensor:
    length = max(1, *map(len, captions))
    text = torch.tensor([[*caption, *[0] * (length - len(caption))] for caption in captions])
    with torch.no_grad():
        return captioner(X.expand(len(text), -1, -1, -1), text).double().exp()


def test_the_probabilities_of_all_captions_sum_to_1(captioner: Captioner):
    """Captions of at most n words of two leave what longer ones have, less with each n; by n = 9
    next to nothing, the end being made likely."""
    captioner.project.bias.data.zero_()
    left, before = 1.0, 1.0
    for n in range(TEXT.length + 1):
        left -= float(likelihoods(captioner, [*product((RED, BLUE), repeat=n)]).sum())
        assert 0 < left < before
        before = left
    assert left < 0.2


def test_what_follows_the_end_is_nothing(captioner: Captioner):
    short = likelihoods(captioner, [(RED, BLUE)])
    torch.testing.assert_close(likelihoods(captioner, [(RED, BLUE, 0, 0, 0)]), short)


def test_the_order_of_words_counts(captioner: Captioner):
    one, other = likelihoods(captioner, [(RED, BLUE), (BLUE, RED)])
    assert abs(one / other - 1) > 0.01


def test_a_word_that_no_caption_had_is_not_predicted(captioner: Captioner):
    """It costs nothing by itself, and what follows it is told from it."""
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


def test_heads_divide_whatever_length_words_have():
    own = Captioner(ImageSpec(3, 12, 20), TEXT, (4, 8), (0, 1), 49, 1)
    own.learn_tokens(torch.tensor([[RED, BLUE]]))
    assert likelihoods(own, [(RED,)]) < 1


def test_a_captioner_that_knows_no_word_finds_all_captions_alike():
    own = Captioner(ImageSpec(3, 12, 20), TEXT, (4, 8), (0, 1), 16, 2)
    assert likelihoods(own, [(RED,), (BLUE, RED)]).tolist() == [1.0, 1.0]
