"""Brackets in prompts: how they are parsed, and where the weights of words take effect."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import limner
from limner.contract.emphasis import read_emphasis
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec
from limner.contract.text import character_spec, text_condition, text_spec
from limner.nn.attention import Attention
from limner.nn.text import TextEncoder

SPEC = ImageSpec(3, 8, 8, text=text_spec(8))


def weights(prompt: str) -> dict[str, float]:
    """Return the weight of each word between spaces."""
    emphasis = read_emphasis(prompt)
    result, start = {}, 0
    for word in emphasis.text.split(" "):
        values = {*emphasis.weights[start : start + len(word)]}
        assert len(values) <= 1, "a word has one weight"
        result[word], start = values.pop() if values else 1.0, start + len(word) + 1
    return result


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red apple", {"a": 1, "red": 1, "apple": 1}),
        ("a (red:1.4) apple", {"a": 1, "red": 1.4, "apple": 1}),
        ("a (red) apple", {"a": 1, "red": 1.1, "apple": 1}),
        ("a ((red)) [apple]", {"a": 1, "red": 1.21, "apple": 1 / 1.1}),
        ("a (very (red:2):.5) apple", {"a": 1, "very": 0.5, "red": 1, "apple": 1}),
        ("(no:0) dogs: 3", {"no": 0, "dogs:": 1, "3": 1}),
        ("([one] two:2)", {"one": 2 / 1.1, "two": 2}),
        (r"a \(red\) [\[x\]]", {"a": 1, "(red)": 1, "[x]": 1 / 1.1}),
        ("smile :) (not closed [here", {"smile": 1, ":)": 1, "(not": 1, "closed": 1, "[here": 1}),
        ("(a:b) (c:)", {"a:b": 1.1, "c:": 1.1}),
        ("() [] ", {"": 1}),
    ],
)
def test_brackets_set_the_weights_of_words(prompt, expected):
    assert weights(prompt) == pytest.approx(expected)


@pytest.mark.parametrize(
    "prompt",
    ["(" * 40_000, "(" * 20_000 + "a" + ")" * 20_000, "[" * 9_000 + "(" * 9_000 + "]:1)" * 9_000],
)
def test_a_long_prompt_is_read_in_linear_time(prompt):
    """A prompt may come from the network: no recursion, and no full scan for each character."""
    emphasis = read_emphasis(prompt)
    assert len(emphasis.text) == len(emphasis.weights) and max(emphasis.weights) <= 10


def test_an_unclosed_bracket_does_not_affect_the_brackets_around_it():
    assert weights("(a [b:2) c]") == pytest.approx({"a": 2, "[b": 2, "c]": 1})
    assert read_emphasis("((((a:9):9):9):9)").weights == [10]


@given(st.text(alphabet="ab ([:1.5])\\", max_size=30))
def test_any_text_is_parsed(prompt):
    try:
        emphasis = read_emphasis(prompt)
    except LimnerError as error:
        assert "give a number from 0" in str(error)
    else:
        assert len(emphasis.text) == len(emphasis.weights) and len(emphasis.text) <= len(prompt)


@pytest.mark.parametrize("number", ["-1", "11", "1" + 400 * "0"])
def test_an_invalid_weight_is_refused(number):
    with pytest.raises(LimnerError, match=r"^the weight of 'red' is .*; give a number from 0"):
        read_emphasis(f"a (red:{number}) apple")


def test_prompts_have_weights_only_if_some_word_has_one():
    assert text_condition(SPEC, ["a dog", r"a \(dog\)"]).weight is None
    c = text_condition(SPEC, ["a (dog:2)", "two red cats"])
    assert c.weight is not None and c.weight.tolist() == [[1, 2, 1], [1, 1, 1]]
    assert torch.equal(c.text, text_condition(SPEC, ["a dog", "two red cats"]).text)
    assert c.pad(5).weight.tolist() == [[1, 2, 1, 1, 1], [1, 1, 1, 1, 1]]
    assert c.null().guidance_pair()[1].weight is not None  # both halves of a guided batch


def test_a_model_with_its_own_tokenizer_reads_brackets_as_ordinary_text():
    messages = []
    c = text_condition(ImageSpec(3, 8, 8, text=character_spec()), "a (dog:2)", messages.append)
    assert c.weight is None and c.text.shape == (1, 9)
    assert messages == ["this model has its own tokenizer, which reads brackets as ordinary text"]


@pytest.mark.parametrize("edited", [False, True])
def test_a_weight_of_2_counts_as_two_tokens_and_0_as_none(edited):
    """softmax(q k + log w) v: a token of weight 2 counts as two equal ones, of 0 as none."""
    layer = Attention(16, 8, token_dim=4)
    torch.nn.init.normal_(layer.out.weight)
    if edited:
        layer.edit = lambda site, attention: attention
    x, tokens = torch.randn(2, 16, 3, 3), torch.randn(2, 3, 4)
    log = torch.tensor([[1.0, 2.0, 0.0]]).log().expand(2, 3)
    twice = tokens[:, [0, 1, 1]]
    mask = torch.ones(2, 3, dtype=torch.bool)
    torch.testing.assert_close(layer(x, tokens, log), layer(x, twice, mask))
    torch.testing.assert_close(layer(x, tokens, log), layer(x, twice))
    none = torch.full((2, 3), float("-inf"))
    torch.testing.assert_close(layer(x, tokens, none), x + layer.out.bias[:, None, None])


def test_the_vector_of_a_text_is_the_weighted_mean_of_its_tokens():
    encoder = TextEncoder(SPEC.text, 16, 8)
    text = text_condition(SPEC, "red dog").text
    tokens, _, _ = encoder(text)
    _, _, vector = encoder(text, torch.tensor([[3.0, 1.0]]))
    torch.testing.assert_close(vector, encoder.pool((3 * tokens[:, 0] + tokens[:, 1]) / 4))


def test_the_weight_of_padding_does_not_enter_the_vector_of_a_text():
    encoder = TextEncoder(SPEC.text, 16, 8)
    text = text_condition(SPEC, ["red dog", "two red cats"]).text
    torch.testing.assert_close(encoder(text, torch.ones(2, 3)).vector, encoder(text).vector)


def test_a_text_whose_words_all_have_weight_0_has_the_vector_of_a_mean_of_0():
    encoder = TextEncoder(SPEC.text, 16, 8)
    c = text_condition(SPEC, "(red dog:0)")
    assert torch.equal(encoder(c.text, c.weight).vector[0], encoder.pool.bias)


@pytest.mark.parametrize("name", ["flow-matching", "gan"])
def test_weights_change_pictures_unless_they_are_1(name):
    model = limner.build(name, SPEC, **limner.contract.registry.entry(name).tiny)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2)
    plain = text_condition(SPEC, ["a red dog"])
    even = Condition(text=plain.text, weight=torch.ones(1, 3))
    heavy, zero = text_condition(SPEC, "a (red:5) dog"), text_condition(SPEC, "a (red:0) dog")
    one, same, more, less = (model.sample(1, c, seed=3) for c in (plain, even, heavy, zero))
    torch.testing.assert_close(one, same, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(one, more, atol=1e-3) and not torch.allclose(one, less, atol=1e-3)


def test_weights_of_another_text_are_refused(unchecked_shapes):
    model = limner.build("flow-matching", SPEC, channels=(8, 16))
    with pytest.raises(LimnerError, match="weight must have a number for each token"):
        model.sample(1, Condition(text=torch.ones(1, 3, dtype=torch.long), weight=torch.ones(1, 2)))
