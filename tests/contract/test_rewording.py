"""The alignment of two prompts, token by token."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from limner.contract.rewording import aligned, aligned_prompts

ROW = st.lists(st.integers(2, 5), max_size=6)


def test_a_word_is_aligned_with_the_one_that_it_replaces():
    found = aligned([7, 8, 9], [7, 5, 9], 4)
    assert torch.equal(found.source, torch.diag(torch.tensor([1.0, 1, 1, 0])))
    assert found.left == (1,) and found.new == (1,)


def test_padding_is_not_a_word():
    found = aligned_prompts(torch.tensor([[7, 8, 0, 0], [7, 5, 9, 0]]))
    by_hand = aligned([7, 8], [7, 5, 9], 4)
    assert torch.equal(found.source, by_hand.source)
    assert (found.left, found.new) == (by_hand.left, by_hand.new) == ((1,), (1, 2))


def test_words_of_several_tokens_share_evenly():
    found = aligned([7, 8, 6, 9], [7, 5, 9], 4)
    assert found.source[:, 1].tolist() == [0, 0.5, 0.5, 0]
    assert found.source[:, 2].tolist() == [0, 0, 0, 1]
    back = aligned([7, 5, 9], [7, 8, 6, 9], 4)
    assert back.source[:, 1].tolist() == back.source[:, 2].tolist() == [0, 1, 0, 0]


def test_added_words_have_no_source_and_removed_words_have_no_place():
    more = aligned([7, 9], [7, 3, 4, 9], 4)
    assert more.source.sum(0).tolist() == [1, 0, 0, 1] and more.source[1, 3] == 1
    assert more.left == () and more.new == (1, 2)
    less = aligned([7, 3, 4, 9], [7, 9], 4)
    assert less.left == (1, 2) and less.new == () and less.source[3, 1] == 1


@given(ROW, ROW)
def test_every_token_has_at_most_one_place(before, after):
    found = aligned(before, after, 6)
    share = found.source.sum(0)
    assert all(abs(float(s) - round(float(s))) < 1e-6 and s <= 1 + 1e-6 for s in share)
    equal = [j for j in range(len(after)) if j not in found.new]
    assert [before[int(found.source[:, j].argmax())] for j in equal] == [after[j] for j in equal]
    assert aligned(before, before, 6).new == aligned(before, before, 6).left == ()
