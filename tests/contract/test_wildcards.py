"""Words chosen by a seed: all equally often, and always the same for the same seed."""

from collections import Counter

import pytest

from limner.contract.errors import LimnerError
from limner.contract.wildcards import (
    LISTS,
    choose_words,
    has_choices,
    own_lists,
    own_lists_folder,
    word_lists,
)


def test_every_alternative_is_chosen_equally_often_and_independently():
    pairs = Counter(choose_words("{a|b} {c|d|e}", seed) for seed in range(6000))
    assert len(pairs) == 6
    chi_squared = sum((count - 1000) ** 2 / 1000 for count in pairs.values())
    assert chi_squared < 20.5  # 5 degrees of freedom, p = 0.001


def test_a_seed_determines_a_prompt():
    prompts = [choose_words("a {red|blue} __animal__", seed) for seed in range(5)]
    assert prompts == [choose_words("a {red|blue} __animal__", seed) for seed in range(5)]
    assert all(prompt.split()[2] in LISTS["animal"] for prompt in prompts)
    assert prompts[0] == "a red cat", "pictures of earlier versions must stay reproducible"


@pytest.mark.parametrize(
    "prompt", ["", "a {red} box", "}{", "{", "a | b", "snake_case __", "__A__"]
)
def test_other_characters_are_unchanged(prompt):
    assert choose_words(prompt, 3) == prompt and not has_choices(prompt)


def test_braces_within_braces_and_empty_alternatives():
    prompts = {choose_words("{ {sky|dark} blue |red}{| big}", seed) for seed in range(200)}
    assert prompts == {
        text + big for text in ("sky blue", "dark blue", "red") for big in ("", "big")
    }


def test_a_list_that_does_not_exist_is_refused():
    with pytest.raises(LimnerError, match="did you mean '__colour__'"):
        choose_words("a __color__ box", 0)


def test_own_lists_are_lines_of_text_files_and_take_precedence(tmp_path, monkeypatch):
    folder = tmp_path / "wildcards"
    folder.mkdir()
    (folder / "mood.txt").write_bytes(
        "\ufeff# how it is\r\ncalm sea\r\n\r\n  {wild|dark} sea ".encode()
    )
    (folder / "animal.txt").write_text("a __mood__\n")
    (folder / "Not A Name.txt").write_text("x")
    (folder / "empty.txt").write_text("# nothing\n")
    assert own_lists(folder) == {"mood": ("calm sea", "{wild|dark} sea"), "animal": ("a __mood__",)}
    assert own_lists(tmp_path / "nowhere") == {}
    monkeypatch.chdir(tmp_path)
    lists = word_lists()
    assert lists["animal"] == ("a __mood__",) and lists["colour"] == LISTS["colour"]
    prompts = {choose_words("__animal__", seed, lists) for seed in range(50)}
    assert prompts == {"a calm sea", "a wild sea", "a dark sea"}
    assert has_choices("__mood__", lists)
    with pytest.raises(LimnerError, match="did you mean '__mood__'"):
        choose_words("__moods__", 0, lists)
    monkeypatch.setenv("LIMNER_WILDCARDS", str(folder))
    assert own_lists_folder(tmp_path / "elsewhere") == folder
    (folder / "bad.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LimnerError, match="one choice in each line"):
        word_lists()


def test_all_choices_of_a_line_are_made(tmp_path):
    (tmp_path / "a.txt").write_text("{x|y}" * 9)
    assert len(choose_words("__a__", 0, own_lists(tmp_path))) == 9


def test_all_lists_that_a_choice_names_are_replaced():
    lists = {"a": ["__b__ " * 60], "b": ["x"]}
    assert choose_words("__a__", 0, lists).split() == ["x"] * 60


def test_a_list_that_names_itself_terminates(tmp_path):
    (tmp_path / "a.txt").write_text("__a__ __a__")
    assert len(choose_words("__a__", 0, own_lists(tmp_path))) < 1000
