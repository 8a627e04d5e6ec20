"""The alignment of two prompts, token by token."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from limner.contract.editing import reconstruction_error
from limner.contract.rewording import align_prompts, align_tokens

ROW = st.lists(st.integers(2, 5), max_size=6)


def test_a_word_is_aligned_with_the_one_that_it_replaces():
    alignment = align_tokens([7, 8, 9], [7, 5, 9], 4)
    assert torch.equal(alignment.source, torch.diag(torch.tensor([1.0, 1, 1, 0])))
    assert alignment.removed == (1,) and alignment.new == (1,)


def test_padding_is_not_a_word():
    alignment = align_prompts(torch.tensor([[7, 8, 0, 0], [7, 5, 9, 0]]))
    expected = align_tokens([7, 8], [7, 5, 9], 4)
    assert torch.equal(alignment.source, expected.source)
    assert (alignment.removed, alignment.new) == (expected.removed, expected.new) == ((1,), (1, 2))


def test_words_of_several_tokens_share_evenly():
    alignment = align_tokens([7, 8, 6, 9], [7, 5, 9], 4)
    assert alignment.source[:, 1].tolist() == [0, 0.5, 0.5, 0]
    assert alignment.source[:, 2].tolist() == [0, 0, 0, 1]
    inverse = align_tokens([7, 5, 9], [7, 8, 6, 9], 4)
    assert inverse.source[:, 1].tolist() == inverse.source[:, 2].tolist() == [0, 1, 0, 0]


def test_added_words_have_no_source_and_removed_words_have_no_place():
    longer = align_tokens([7, 9], [7, 3, 4, 9], 4)
    assert longer.source.sum(0).tolist() == [1, 0, 0, 1] and longer.source[1, 3] == 1
    assert longer.removed == () and longer.new == (1, 2)
    shorter = align_tokens([7, 3, 4, 9], [7, 9], 4)
    assert shorter.removed == (1, 2) and shorter.new == () and shorter.source[3, 1] == 1


@given(ROW, ROW)
def test_every_token_has_at_most_one_place(before, after):
    alignment = align_tokens(before, after, 6)
    sums = alignment.source.sum(0)
    assert all(abs(float(s) - round(float(s))) < 1e-6 and s <= 1 + 1e-6 for s in sums)
    equal = [j for j in range(len(after)) if j not in alignment.new]
    assert [before[int(alignment.source[:, j].argmax())] for j in equal] == [
        after[j] for j in equal
    ]
    assert align_tokens(before, before, 6).new == align_tokens(before, before, 6).removed == ()


def test_the_error_of_a_reconstruction_is_a_share_of_the_range_of_pixels():
    black = -torch.ones(1, 3, 2, 2)
    half = black * torch.tensor([-1.0, 1.0])
    assert reconstruction_error(black, black) == 0
    assert reconstruction_error(black, half) == 0.5
    assert reconstruction_error(black, -black) == 1
