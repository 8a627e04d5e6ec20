import pytest
import toys

from limner.contract import registry
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.contract.registry import FAMILIES, Paper, build, entry, models, register

PAPER = Paper("A title", "Somebody, Other", 2024, "2401.00001")
GREY = ImageSpec(1, 4, 4)


@pytest.fixture(autouse=True)
def _own_entries(monkeypatch: pytest.MonkeyPatch):
    """What a test registers is forgotten after it."""
    models()
    monkeypatch.setattr(registry, "_entries", dict(registry._entries))


def test_a_paper_reads_like_a_reference():
    assert str(PAPER) == "Somebody, Other (2024). A title. arXiv:2401.00001"
    older = Paper("A title", "Somebody", 1998, doi="10.1109/5.726791")
    assert str(older) == "Somebody (1998). A title. doi:10.1109/5.726791"


def test_models_come_in_the_order_of_families_and_then_by_name():
    order = [(FAMILIES.index(e.family), e.name) for e in models().values()]
    assert order == sorted(order)
    assert all(name == e.name == e.model.name for name, e in models().items())


def test_a_misspelt_model_is_answered_with_the_nearest():
    with pytest.raises(LimnerError, match="unknown model 'toy-pixles'; did you mean 'toy-pixels'"):
        entry("toy-pixles")


def test_an_unknown_family_is_refused():
    with pytest.raises(LimnerError, match="unknown family 'gan'; did you mean 'gans'"):
        register("toy-odd", family="gan", paper=PAPER)


def test_a_taken_name_is_refused_and_the_same_class_may_return():
    again = register("toy-pixels", family="autoregressive", paper=PAPER)
    assert again(toys.Pixels) is toys.Pixels

    class Other(toys.Pixels):
        """Another."""

    with pytest.raises(LimnerError, match="'toy-pixels' is taken by Pixels"):
        again(Other)


def test_build_makes_a_model_with_its_options():
    model = build("toy-dropout", GREY, width=7)
    assert model.config == {"width": 7}
    assert model.spec == GREY
    with pytest.raises(LimnerError, match=r"'model.widht'; did you mean 'model.width'"):
        build("toy-dropout", GREY, widht=7)


def test_build_makes_nested_models_from_their_descriptions():
    inner = build("toy-classifier", GREY, width=3)
    outer = build("toy-nested", GREY, judge=inner.description())
    assert isinstance(outer, toys.Nested)
    assert outer.judge.config == {"width": 3}
    assert outer.config["judge"] == inner.description()
    again = build("toy-nested", GREY, **outer.config)
    assert again.description() == outer.description()


def test_a_summary_is_the_first_line_of_the_docstring():
    assert (
        entry("toy-vae").summary
        == "A lower bound: log p(x | z) - KL(q(z | x) || p(z)), with z ~ q."
    )
