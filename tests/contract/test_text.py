"""Text as a condition: hostile prompts, padding that changes nothing, captions as tokens."""

import copy
import warnings
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open

import limner
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec, to_uint8
from limner.contract.text import Tokenizer, text_condition, text_spec
from limner.data import Stream, open_data
from limner.nn.attention import Attention
from limner.nn.condition import Conditioner
from limner.nn.text import TextEncoder
from limner.training.loop import Loop, TrainOptions

TEXT = text_spec(12)
SPEC = ImageSpec(3, 8, 8, text=TEXT)
PROMPTS = ["red heart on blue", "blue heart on red", "a joyful puppy", ""]


def tokens(*prompts, spec=TEXT):
    return Tokenizer(spec).encode(prompts)


def perturb(module):
    """Perturb every weight, because some layers start as the identity."""
    with torch.no_grad():
        for p in module.parameters():
            p += 0.2 * torch.randn_like(p)
    return module


def painter(**options):
    return perturb(limner.build("edm", SPEC, channels=(8, 16), sigma_data=0.5, **options)).eval()


# tokens


def test_a_text_is_lower_case_pieces_and_padding():
    [row] = tokens("A RED Piñata, 3")
    words = Tokenizer(TEXT).words(row)
    assert words == ["a", "red", "pin", "##ata", ",", "3"]
    assert (row != 0).sum() == len(words)
    assert not row[len(words) :].any()


@pytest.mark.parametrize(
    ("prompt", "known"),
    [
        ("", 0),
        (" \n\t ", 0),
        ("犬と猫", 0),
        ("собака", 0),
        ("🐶", 0),
        ("dog🐶👍🏽 ❤️", 1),
        ("x" * 10_000, 0),
        ("a word " * 1500, 12),
        ("red\x00\ud800apple", 2),
        ("‮red​ apple", 2),
    ],
)
def test_hostile_prompts_are_tokens_or_nothing(prompt, known):
    row = tokens(prompt)[0]
    assert ((row >= 0) & (row < TEXT.vocabulary)).all()
    assert not (row == 1).any()
    assert (row != 0).sum() >= known
    assert known or not row.any()


@settings(max_examples=200)
@given(st.text(max_size=300))
def test_any_text_is_a_row_with_its_padding_at_the_end(prompt):
    row = tokens(prompt)[0]
    assert row.shape == (TEXT.length,)
    mask = (row != 0).int()
    assert (mask.diff() <= 0).all()


def test_each_ignored_part_of_a_prompt_is_reported_in_one_line():
    reports = []
    c = text_condition(SPEC, ["a dog 犬 鳥", "word " * 2000, "fine"], report=reports.append)
    assert c.text is not None and c.text.shape == (3, 12)
    assert len(reports) == 2
    assert "'犬', '鳥'" in reports[0]
    assert "cut after 12" in reports[1]
    assert all(len(line) < 200 and "\n" not in line for line in reports)
    with pytest.warns(UserWarning, match="no other words remain"):
        text_condition(SPEC, "犬")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text_condition(SPEC, "")


def test_words_are_listed_as_written_with_their_tokens():
    tokenizer = Tokenizer(text_spec(5))
    prompt = "A RED 犬 Piñata, 3"
    assert tokenizer.places(prompt) == [("A", [0]), ("RED", [1]), ("Piñata", [2, 3]), (",", [4])]
    tokens = tokenizer.read(prompt).tokens
    assert sorted(place for _, places in tokenizer.places(prompt) for place in places) == [
        *range(len(tokens))
    ]
    assert tokenizer.places("犬\ud800") == [("?", [0])] and tokenizer.places("") == []


def test_a_model_without_text_takes_no_prompt():
    with pytest.raises(LimnerError, match="without text"):
        text_condition(ImageSpec(3, 8, 8), "a dog")


@pytest.mark.parametrize("wrong", [{"sha256": "0" * 64}, {"asset": "../words"}, {"vocabulary": 9}])
def test_another_word_table_is_refused_in_one_line(wrong):
    spec = replace(SPEC, text=replace(TEXT, **wrong))
    for use in (lambda: Tokenizer(spec.text), lambda: limner.build("edm", spec)):
        with pytest.raises(LimnerError, match="word table") as error:
            use()
        assert "\n" not in str(error.value)


# the encoder


def test_padding_changes_nothing():
    encoder = perturb(TextEncoder(TEXT, 16, 24))
    text = tokens(*PROMPTS)
    long, short = encoder(text), encoder(text[:, :6])
    torch.testing.assert_close(long.tokens[:, :6], short.tokens)
    torch.testing.assert_close(long.vector, short.vector)
    assert not long.tokens[:, 6:].any()
    single = [encoder(row[None]) for row in text]
    torch.testing.assert_close(long.tokens, torch.cat([a.tokens for a in single]))
    torch.testing.assert_close(long.vector, torch.cat([a.vector for a in single]))


def test_values_in_padded_places_change_nothing():
    encoder = perturb(TextEncoder(TEXT, 16, 24))
    text = tokens(*PROMPTS)
    clean = encoder(text)
    padded = (text == 0)[..., None]
    encoder.project.register_forward_hook(lambda _, __, x: torch.where(padded, 100 * x + 7, x))
    changed = encoder(text)
    assert torch.equal(clean.tokens, changed.tokens)
    assert torch.equal(clean.vector, changed.vector)


def test_padded_places_get_no_gradient():
    encoder = perturb(TextEncoder(TEXT, 16, 24))
    text = tokens(*PROMPTS)
    output = encoder(text)
    y = perturb(Attention(8, token_dim=16))(torch.randn(4, 8, 2, 2), output.tokens, output.mask)
    (y.square().sum() + output.vector.square().sum()).backward()
    assert encoder.positions.grad is not None
    length = int((text != 0).sum(1).max())
    assert encoder.positions.grad[:length].abs().amax(1).min() > 0
    assert not encoder.positions.grad[length:].any()

    inputs = torch.randn(4, 12, 16, requires_grad=True)
    mask = text != 0
    perturb(Attention(8, token_dim=16))(torch.randn(4, 8, 2, 2), inputs, mask).sum().backward()
    assert inputs.grad is not None
    assert not inputs.grad[~mask].any()
    assert inputs.grad[mask].abs().amax(1).min() > 0


def test_every_weight_has_a_gradient_and_the_table_has_none():
    encoder = perturb(TextEncoder(TEXT, 16, 24))
    assert not any("table" in name or "scale" in name for name in encoder.state_dict())
    table = encoder.table.clone()
    output = encoder(tokens("a b c d e f g h i j k l", ""))
    (output.tokens.square().sum() + output.vector.square().sum()).backward()
    for name, p in encoder.named_parameters():
        assert p.grad is not None and p.grad.any(), name
        assert p.grad.isfinite().all(), name
    assert torch.equal(encoder.table, table)


def test_order_matters():
    encoder = perturb(TextEncoder(TEXT, 16, 24))
    a, b = tokens("red heart on blue", "blue heart on red")
    assert sorted(a.tolist()) == sorted(b.tolist())
    output = encoder(torch.stack([a, b]))
    gap = (output.tokens[0, 1] - output.tokens[1, 1]).abs().max()  # the heart, in the same place
    assert gap > 1e-2
    assert (output.vector[0] - output.vector[1]).abs().max() > 1e-3


@pytest.mark.parametrize("half", [False, True])
def test_a_row_without_text_has_a_learned_vector_and_no_tokens(half):
    encoder = perturb(TextEncoder(TEXT, 16, 24))
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        output = encoder(torch.zeros(2, 12, dtype=torch.int64))
    assert torch.equal(output.vector, encoder.null.expand(2, -1))
    assert not output.tokens.any()
    assert not output.mask.any()


def test_vectors_of_label_and_text_add_up():
    spec = replace(SPEC, labels=("one", "two"))
    conditioner = perturb(Conditioner(spec, 16))
    assert conditioner.text is not None and conditioner.label is not None
    text, label = tokens("a dog", ""), torch.tensor([1, -1])
    signal = conditioner(Condition(label, text), 2)
    expected = conditioner.label(label + 1) + conditioner.text(text).vector
    torch.testing.assert_close(signal.vector, expected)
    empty = conditioner(Condition(), 2)
    torch.testing.assert_close(empty.vector, conditioner(Condition(label, text).null(), 2).vector)


# models


@pytest.mark.parametrize("name", ["ddpm", "edm", "flow-matching"])
def test_a_prompt_changes_the_picture_and_guidance_changes_it_more(name):
    model = perturb(limner.build(name, SPEC, channels=(8, 16))).eval()
    c = text_condition(SPEC, PROMPTS)
    conditional, unconditional = model.sample(4, c, steps=3), model.sample(4, steps=3)
    change = (conditional - unconditional).abs().amax((1, 2, 3))
    assert (change[:3] > 1e-3).all()
    assert change[3] < 1e-5
    guided = model.sample(4, c, steps=3, scale=4.0)
    assert (
        (guided - unconditional).abs().mean((1, 2, 3))
        > (conditional - unconditional).abs().mean((1, 2, 3))
    )[:3].all()
    unguided = model.sample(4, c, steps=3, scale=0.0)
    torch.testing.assert_close(unguided, unconditional, atol=1e-5, rtol=0)


def test_a_picture_is_the_same_alone_in_a_batch_and_with_less_padding():
    model, c = painter(), text_condition(SPEC, PROMPTS)
    images = to_uint8(model.sample(4, c, steps=3)).int()
    assert c.text is not None
    for i in range(4):
        short = Condition(text=c.text[i : i + 1, :6])
        for row in (c.rows(slice(i, i + 1)), short):
            difference = to_uint8(model.sample(1, row, seed=i, steps=3)).int() - images[i : i + 1]
            assert difference.abs().max() <= 1


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_condition_dropout_hides_text(dropout):
    model = painter(condition_dropout=dropout)
    x = torch.rand(2, 3, 8, 8) * 2 - 1
    losses = [
        Loop(copy.deepcopy(model), lambda *_, c=c: Batch(x, c), TrainOptions(batch=2)).advance()[
            "loss"
        ]
        for c in (text_condition(SPEC, PROMPTS[1:3]), text_condition(SPEC, ["", ""]))
    ]
    assert (losses[0] == losses[1]) == (dropout == 1)


def test_tokens_of_another_model_are_refused():
    model = painter()
    for text in (
        torch.full((1, 12), TEXT.vocabulary),
        torch.ones(1, 13).long(),
        -torch.ones(1, 12).long(),
    ):
        with pytest.raises(LimnerError, match="tokens belong to another model"):
            model.sample(1, Condition(text=text), steps=1)


def test_a_checkpoint_contains_no_table_and_paints_the_same(tmp_path):
    model, c = painter(), text_condition(SPEC, PROMPTS)
    limner.save_model(model, tmp_path)
    file = tmp_path / "model.safetensors"
    assert file.stat().st_size < 500_000
    with safe_open(file, "pt") as tensors:
        assert not any(name.endswith(("table", "scale")) for name in tensors.keys())  # noqa: SIM118
    loaded_model = limner.load(tmp_path)
    assert loaded_model.spec.text == TEXT
    assert torch.equal(loaded_model.sample(4, c, steps=3), model.sample(4, c, steps=3))


# data


def test_captions_become_tokens_and_none_of_them_is_held_out():
    options = {"size": 8, "text": True, "label": "none", "people": 1}
    data = open_data("emoji", **options)
    assert data.spec.text == text_spec()
    assert data.spec.labels == ()
    stream, tokenizer = Stream(data, seed=3), Tokenizer(data.spec.text)
    numbers = torch.arange(6000)
    batch = stream.at(numbers)
    texts = stream.captions(numbers)
    assert texts is not None
    assert torch.equal(batch.c.text, tokenizer.encode(texts))
    assert torch.equal(batch.c.text[40:50], stream.batch(40, 10).c.text)
    rows = {tuple(row) for row in batch.c.text.tolist()}
    assert tuple([0] * data.spec.text.length) not in rows
    for split in ("held-out-concept", "held-out-pair"):
        held_out = open_data("emoji", **options, style="all", split=split)
        names = tokenizer.encode([entry.captions[0] for entry in held_out.entries])
        assert not rows & {tuple(row) for row in names.tolist()}
    preview = Stream(data).preview(4).c.text
    assert preview is not None and preview.any(1).all()


@pytest.fixture
def captioned(tmp_path):
    for name, texts in (("a", "a red apple\nan apple"), ("b", "a blue heart")):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(texts)
    return tmp_path


def test_a_folder_has_text_if_it_has_captions_and_text_is_requested(captioned):
    plain = open_data(f"folder:{captioned}")
    assert plain.spec.text is None
    assert Stream(plain).batch(0, 2).c.text is None
    data = open_data(f"folder:{captioned}", text=True, tokens=5)
    assert data.spec.text == text_spec(5)
    assert data.digest != plain.digest
    text = Stream(data).batch(0, 40).c.text
    assert text is not None
    captions = {" ".join(Tokenizer(data.spec.text).words(row)) for row in text}
    assert captions == {"a red apple", "an apple", "a blue heart"}


def test_text_without_captions_is_an_error(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(LimnerError, match="has no captions"):
        open_data(f"folder:{tmp_path}", text=True)
