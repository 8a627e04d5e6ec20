"""Recipes: reading, overrides on the command line, writing, reading again."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.contract.errors import LimnerError
from limner.contract.registry import models
from limner.training.options import TrainOptions
from limner.training.recipe import Recipe

TEXT = """\
# A toy: limner train toy.toml
#
# One minute on two cores; expect 1.23 bits/dim.

[model]
name = "pixelcnn"
channels = 64

[data]
source = "emoji"

[train]
steps = 20_000
players.critic = {lr = 4e-4}

[sampler]
temperature = 0.9
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(TEXT)
    return path


def test_reading_and_overriding(file):
    recipe = Recipe.read(
        file, ["train.steps=3", "model.widths=64,128", "train.players.critic.betas=0,0.9"]
    )
    assert recipe.about.splitlines()[0] == "A toy: limner train toy.toml"
    assert recipe.model == {"name": "pixelcnn", "channels": 64, "widths": [64, 128]}
    assert recipe.train == {"steps": 3, "players": {"critic": {"lr": 4e-4, "betas": [0, 0.9]}}}
    assert recipe.sampler == {"temperature": 0.9}
    assert recipe.options().player("critic").betas == (0.0, 0.9)
    assert Recipe.read(file).train["steps"] == 20_000  # the values of the file are unchanged


def test_a_recipe_without_a_file():
    recipe = Recipe.of("ddpm", "folder:pics", ["data.size=32", "sampler.steps=20"])
    assert recipe.sections() == {
        "model": {"name": "ddpm"},
        "data": {"source": "folder:pics", "size": 32},
        "train": {},
        "sampler": {"steps": 20},
        "evaluate": {},
    }


def test_the_effective_recipe_holds_every_option(file, tmp_path):
    effective = Recipe.read(file).effective()
    assert effective.train["clip"] == 1  # the default of pixelcnn
    assert effective.train["betas"] == [0.9, 0.999]
    effective.write(tmp_path / "out.toml")
    reloaded = Recipe.read(tmp_path / "out.toml")
    assert reloaded == effective == reloaded.effective()
    assert (tmp_path / "out.toml").read_text().startswith("# A toy: limner train toy.toml\n#\n#")


WRONG = {
    "[modl]\nname = 'x'": "unknown section 'modl'; did you mean 'model'",
    "name = 'x'": "'name' in .* is not in a section",
    "[model]\nname = 'x'": r"does not say data\.source",
    "[data]\nsource = 'x'": r"does not say model\.name",
    "[model]\nname = ['a']\n[data]\nsource = 'x'": r"model\.name=\['a'\] is not a name",
    "[model]\nname = 3\n[data]\nsource = 'x'": r"does not say model\.name",
    "[model]\nname = \nx = 1": r"not valid TOML: .*line 2",
    "[model]\nname = 'a'\nname = 'b'": "not valid TOML",
}


@pytest.mark.parametrize("text, said", WRONG.items())
def test_mistakes_are_refused_with_a_reason(tmp_path, text, said):
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(LimnerError, match=said):
        Recipe.read(tmp_path / "r.toml")


def test_a_recipe_needs_a_name_and_a_source():
    with pytest.raises(LimnerError, match=r"no model\.name; write model={'name': 'edm'}"):
        Recipe({"channels": 8}, {"source": "emoji"})
    with pytest.raises(LimnerError, match=r"no data\.source; write data={'source': 'emoji'}"):
        Recipe({"name": "edm"}, {})


def test_one_text_is_not_a_list_of_assignments():
    with pytest.raises(LimnerError, match=r"'train.steps=3' is one text; give a list, as \["):
        Recipe.of("edm", "emoji", "train.steps=3")


def test_a_byte_order_mark_is_ignored(file, tmp_path):
    (tmp_path / "mark.toml").write_text(file.read_text(), encoding="utf-8-sig")
    assert Recipe.read(tmp_path / "mark.toml") == Recipe.read(file)


def test_other_mistakes_are_refused(file, tmp_path):
    with pytest.raises(LimnerError, match="there is no recipe"):
        Recipe.read(tmp_path / "none.toml")
    with pytest.raises(LimnerError, match="cannot read the recipe"):
        Recipe.read(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(LimnerError, match="cannot read the recipe"):
        Recipe.read(tmp_path / "latin.toml")
    with pytest.raises(LimnerError, match=r"train\.steps has no parts"):
        Recipe.read(file, ["train.steps.more=1"])
    with pytest.raises(LimnerError, match=r"did you mean 'train\.steps'"):
        Recipe.read(file, ["train.step=1"]).options()
    for wrong in ("model.name=3", "model.name=edm,ddpm", "data.source=3"):
        with pytest.raises(LimnerError, match="is not a name; write one"):
            Recipe.read(file, [wrong])


def test_players_are_a_table_of_tables_or_none(file):
    for wrong in ("train.players=3", "train.players.critic=3"):
        with pytest.raises(LimnerError, match=f"{wrong}: input should be a valid dictionary"):
            Recipe.read(file, [wrong]).options()
    assert Recipe.read(file, ["train.players=none"]).options().players is None


def test_none_clears_what_a_recipe_sets(file, tmp_path):
    """The recipe of a run keeps "none", because it replaces a value of the file before."""
    recipe = Recipe.read(file, ["sampler.temperature=none"])
    recipe.write(tmp_path / "run.toml")
    assert Recipe.read(tmp_path / "run.toml").sampler == {"temperature": "none"}


PLAIN = st.one_of(
    st.booleans(),
    st.integers(-(2**62), 2**62),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"])),
)
KEYS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3)
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_plain_values_are_preserved_in_toml(values):
    recipe = Recipe({"name": "x"}, {"source": "y"}, values)
    assert tomllib.loads(recipe.to_toml()) == recipe.sections()


def test_only_plain_values_are_written():
    with pytest.raises(LimnerError, match="plain values"):
        Recipe({"name": "x"}, {"source": "y", "what": object()}).to_toml()


OURS = [of for of in models().values() if of.model.__module__.startswith("limner.")]


@pytest.mark.parametrize("of", OURS, ids=lambda of: of.name)
def test_every_model_has_default_training_options(of):
    assert {"lr"} <= of.train.keys()
    options = Recipe.of(of.name, "emoji").options()
    assert options.lr == of.train["lr"]
    assert TrainOptions.of(of.train) == options


def test_a_recipe_overrides_default_training_options():
    gan = Recipe.of("gan", "emoji").options()
    assert (gan.optimizer, gan.lr, gan.betas, gan.batch) == ("adam", 2e-4, (0.5, 0.999), 64)
    biggan = Recipe.of("biggan", "emoji").options()
    assert (biggan.lr, biggan.player("critic").lr) == (2e-4, 4e-4)
    changed = Recipe.of("biggan", "emoji", ["train.lr=1e-3"]).options()  # applies to every player
    assert (changed.lr, changed.players, changed.betas) == (1e-3, None, (0.0, 0.999))
    stylegan2 = Recipe.of("stylegan2", "emoji", ["train.players.critic.lr=1e-3"]).options()
    assert stylegan2.player("critic").lr == 1e-3
    assert (
        stylegan2.player("critic").betas
        == Recipe.of("stylegan2", "emoji").options().player("critic").betas
    )


def test_a_complete_recipe_does_not_depend_on_defaults():
    """A run of an earlier version is therefore resumed with its own options."""
    options = vars(TrainOptions())
    earlier = Recipe({"name": "stylegan2"}, {"source": "emoji"}, options)
    assert earlier.options() == TrainOptions()
    recipe = Recipe.of("stylegan2", "emoji")
    effective = recipe.effective()
    for player in ("critic", "generator"):
        assert effective.options().player(player) == recipe.options().player(player)
    assert effective.effective() == effective


def test_two_domains_can_be_an_option_although_commas_make_lists():
    source = "paired:emoji:style=3d,emoji:style=flat"
    recipe = Recipe({"name": "pix2pix"}, {"source": "emoji"}).with_values([f"data.source={source}"])
    assert recipe.data["source"] == source
