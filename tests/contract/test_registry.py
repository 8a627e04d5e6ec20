import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from own_package import install_package

import limner.gans
from limner.contract import registry
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, Images, ImageSpec
from limner.contract.model import GenerativeModel, Learner, Turn
from limner.contract.noise import Noise
from limner.contract.registry import FAMILIES, Paper, build, entry, models, register
from limner.evaluate.extractors.choose import openers
from limner.maths.samplers.sampler import SAMPLERS

PAPER = Paper("A title", "Somebody, Other", 2024, "2401.00001")
GREY = ImageSpec(1, 4, 4)


@pytest.fixture(autouse=True)
def _own_entries() -> Iterator[None]:
    """Restore the registry after each test."""
    before = {e.name: e for e in (*models().values(), *registry.foreign().values())}
    yield
    registry._entries.clear()
    registry._entries.update(before)


def test_a_paper_reads_like_a_reference():
    assert str(PAPER) == "Somebody, Other (2024). A title. arXiv:2401.00001"
    older = Paper("A title", "Somebody", 1998, doi="10.1109/5.726791")
    assert str(older) == "Somebody (1998). A title. doi:10.1109/5.726791"
    assert str(Paper("A title", "Somebody", 2026)) == "Somebody (2026). A title."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def f(:", "mine.py, line 1: SyntaxError: invalid syntax; correct or remove that file"),
        ("import torch\n1 / 0", "mine.py, line 2: ZeroDivisionError: division by zero; correct or"),
        ("from torhc import nn", "mine.py, line 1: ModuleNotFoundError: No module named 'torhc'"),
        (
            "import sys\nsys.exit()",
            "mine.py, line 2: SystemExit: no message; correct or remove that",
        ),
    ],
)
def test_a_file_of_a_family_that_cannot_be_imported_is_named(text, message, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(limner.gans, "__path__", [*limner.gans.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "import_modules", registry.import_modules.__wrapped__)
    for call in (models, lambda: registry.entry_of("vae", tmp_path / "recipe.toml")):
        with pytest.raises(LimnerError) as error:
            call()
        assert message in str(error.value)
        assert "model of your own" not in str(error.value)


def test_a_file_in_a_subfolder_of_a_family_is_found_and_a_hidden_copy_is_not(tmp_path, monkeypatch):
    """The subfolder needs no __init__.py."""
    for folder in ("bare", ".copies"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.py").write_text(f"import limner\nlimner.{folder[-4:]} = 1")
    monkeypatch.setattr(limner.gans, "__path__", [*limner.gans.__path__, str(tmp_path)])
    monkeypatch.setattr(limner, "bare", 0, raising=False)
    monkeypatch.setattr(limner, "pies", 0, raising=False)
    registry.import_modules.__wrapped__("gans")
    assert (limner.bare, limner.pies) == (1, 0)  # pyright: ignore[reportAttributeAccessIssue]


PACKAGE = """
import toys
from limner import Paper, register
@register("packed", family="gans", paper=Paper("A title", "Somebody", 2024))
class Packed(toys.Pixels):
    pass
"""


def test_a_model_of_an_installed_package_is_found(tmp_path, monkeypatch):
    install_package("packed_model", PACKAGE, tmp_path, monkeypatch, registry)
    assert models()["packed"].model.__module__ == "packed_model"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "import torch\n1 / 0",
            "FOLDER/broken_model.py, line 2: ZeroDivisionError: division by zero",
        ),
        (
            "import broken_helper",
            "FOLDER/broken_helper.py, line 3: SyntaxError: '(' was never closed",
        ),
        ("import sys\nsys.exit(3)", "FOLDER/broken_model.py, line 2: SystemExit: 3"),
        (
            PACKAGE.replace("packed", "vae"),
            "FOLDER/broken_model.py, line 4: the model name 'vae' is taken by VAE of "
            "limner.autoencoders.vae; choose another",
        ),
    ],
)
def test_an_installed_package_that_cannot_be_imported_is_named_and_left_out(
    text, said, tmp_path, monkeypatch, caplog
):
    (tmp_path / "broken_helper.py").write_text("\n\nx = (\n", encoding="utf-8")
    install_package("broken_model", text, tmp_path, monkeypatch, registry)
    assert models()["vae"].model.__module__ == "limner.autoencoders.vae"
    assert caplog.messages[0] == (
        "left out: "
        + said.replace("FOLDER", str(tmp_path))
        + "; correct the package 'their-package', or type pip uninstall their-package"
    )


def test_a_missing_module_of_an_installed_package_is_named(tmp_path, monkeypatch, caplog):
    install_package("broken_model", "", tmp_path, monkeypatch, registry)
    (tmp_path / "broken_model.py").unlink()
    assert models()
    assert caplog.messages[0].startswith(
        "left out: broken_model: ModuleNotFoundError: No module named"
    )


HALF = """
import working_model
from limner.evaluate.extractors.choose import extractor
from limner.maths.samplers.euler import Euler
from limner.maths.samplers.sampler import sampler
@sampler("half")
class HalfSampler(Euler):
    pass
@extractor("half")
def open_half(device, weights, dtype):
    pass
1 / 0
"""


def test_a_module_that_cannot_be_imported_leaves_nothing_registered(tmp_path, monkeypatch):
    """A module that it imports, and that can be imported, keeps what it registered."""
    working = PACKAGE.replace("packed", "working")
    (tmp_path / "working_model.py").write_text(working, encoding="utf-8")
    text = PACKAGE.replace("packed", "half") + HALF
    install_package("half_model", text, tmp_path, monkeypatch, registry)
    assert "working" in models() and "half" not in models()
    assert "half" not in SAMPLERS.classes and "half" not in openers()


def test_models_are_sorted_by_family_and_then_by_name():
    order = [(FAMILIES.index(e.family), e.name) for e in models().values()]
    assert order == sorted(order)
    assert all(name == e.name == e.model.name for name, e in models().items())


def test_a_misspelt_model_is_answered_with_the_nearest_name():
    with pytest.raises(LimnerError, match="unknown model 'toy-pixles'; did you mean 'toy-pixels'"):
        entry("toy-pixles")


def test_the_model_of_a_file_is_not_taken_for_a_misspelt_name():
    for file, message in [
        ("run/model.safetensors", "its model 'edmm' is not known here; install the package"),
        ("run", "its model 'edmm' is not known here; install the package"),
        ("recipe.toml", "did you mean 'edm'.* If it is a model of your own, install the package"),
    ]:
        with pytest.raises(LimnerError, match=f"^{file}: .*{message}"):
            registry.entry_of("edmm", Path(file))


def test_an_unknown_family_is_refused():
    with pytest.raises(LimnerError, match="unknown family 'gan'; did you mean 'gans'"):
        register("toy-odd", family="gan", paper=PAPER)


def test_a_taken_name_is_refused_and_the_same_class_may_register_again():
    register_pixels = register("toy-pixels", family="autoregressive", paper=PAPER)
    assert register_pixels(toys.Pixels) is toys.Pixels

    class Other(toys.Pixels):
        """Another class."""

    with pytest.raises(LimnerError, match="'toy-pixels' is taken by Pixels"):
        register_pixels(Other)


def test_the_name_of_a_section_of_options_is_refused():
    with pytest.raises(LimnerError, match="the model name 'evaluate' is that of a section of opt"):
        register("evaluate", family="gans", paper=PAPER)


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
    rebuilt = build("toy-nested", GREY, **outer.config)
    assert rebuilt.description() == outer.description()


def test_a_summary_is_the_first_line_of_the_docstring():
    assert (
        entry("toy-vae").summary
        == "A model with a lower bound: log p(x | z) - KL(q(z | x) || p(z)), with z ~ q."
    )


def user_class(name: str, module: str = "theirs", **methods: Any) -> type[Learner]:
    """Return a class as a user might define it."""
    return type(name, (toys.TwoStep,), {"__module__": module, **methods})


def test_the_names_of_the_library_are_taken():
    register_ddpm = register("ddpm", family="diffusion", paper=PAPER)
    with pytest.raises(LimnerError, match=r"taken by DDPM of limner\.diffusion\.ddpm; choose"):
        register_ddpm(user_class("DDPM"))


def test_a_cell_of_a_notebook_may_be_run_again():
    register_new = register("toy-new", family="diffusion", paper=PAPER)
    register_new(user_class("New", "__main__"))
    second = register_new(user_class("New", "__main__"))
    assert entry("toy-new").model is second


def test_a_copied_file_with_unchanged_names_is_refused():
    register_ddpm = register("ddpm", family="diffusion", paper=PAPER)
    with pytest.raises(LimnerError, match=r"taken by DDPM of limner\.diffusion\.ddpm; choose"):
        register_ddpm(user_class("DDPM", "limner.diffusion.mine"))
    register_new = register("toy-new", family="diffusion", paper=PAPER)
    register_new(user_class("New", "mine"))
    with pytest.raises(LimnerError, match="taken by New of mine; choose another"):
        register_new(user_class("New", "other"))
    register_new(user_class("New", "__main__"))  # the file was run, and then imported


def test_an_option_may_have_the_name_of_an_argument_of_build():
    class Configured(toys.Pixels):
        """A model with an option called config."""

        def __init__(self, spec: ImageSpec, config: str = "a") -> None:
            super().__init__(spec)

    register("toy-configured", family="gans", paper=PAPER)(Configured)
    assert build("toy-configured", GREY, config="b").config == {"config": "b"}


def test_the_names_of_the_library_are_taken_before_it_is_loaded():
    script = """
from limner.contract.image import ImageSpec
from limner.contract.model import GenerativeModel, LimnerError
from limner.contract.registry import Paper, register
class Own(GenerativeModel):
    def __init__(self, spec: ImageSpec) -> None: super().__init__()
    def turns(self, batch, step, noise): yield
    def frames(self, n, c, *, noise, preview=True): yield
try: register("gan", family="gans", paper=Paper("t", "a", 1, "1"))(Own)
except LimnerError as error: print(error)
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.stdout.startswith("the model name 'gan' is taken by GAN of limner.gans.gan")


def no_noise(self: Any, n: int, c: Condition = Condition()) -> Iterator[Images]:
    yield torch.zeros(n, 1, 4, 4)


def no_default(
    self: Any, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool, power: float
) -> Iterator[Images]:
    yield torch.zeros(n, 1, 4, 4)


def no_spec(self: Any, width: int = 4) -> None:
    Learner.__init__(self)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"frames": no_noise}, r"frames of Odd takes other .*'noise'.*write def frames\(self, n"),
        ({"frames": no_default}, r"'power'\); write def frames.*; further arguments need defaults"),
        ({"log_prob": no_spec}, r"log_prob of Odd takes other .*write def log_prob\(self, x, c"),
        (
            {"__init__": no_spec},
            "constructor of Odd takes no spec; write def __init__",
        ),
        ({"takes": ("label",)}, "unknown condition 'label'; did you mean 'labels'"),
        ({"takes": "labels"}, r"takes of Odd is text; write takes = \('labels',\)"),
    ],
)
def test_a_class_that_cannot_keep_the_contract_is_refused(methods: dict[str, Any], message: str):
    with pytest.raises(LimnerError, match=message):
        register("toy-odd", family="gans", paper=PAPER)(user_class("Odd", **methods))


def test_a_missing_method_is_named():
    class Half(GenerativeModel):
        """A model without frames."""

        def turns(self, batch: Batch, step: int, noise: Noise) -> Iterator[Turn]:
            yield from ()

    with pytest.raises(LimnerError, match="Half has no frames; write def frames"):
        register("toy-odd", family="gans", paper=PAPER)(Half)


@pytest.mark.usefixtures("unchecked_shapes")
def test_a_name_and_a_paper_are_checked():
    paper: Any = "A title (2024)"
    with pytest.raises(LimnerError, match="is not a Paper; write Paper"):
        register("toy-odd", family="gans", paper=paper)
    for name in ("Toy", "toy odd", "toy_odd", ""):
        with pytest.raises(LimnerError, match="lower case, words joined by hyphens"):
            register(name, family="gans", paper=PAPER)


def test_a_sampling_option_with_the_name_of_an_argument_of_sample_is_refused():
    class Seeded(toys.Pixels):
        """A model whose option would never reach it."""

        def frames(self, n, c=Condition(), *, noise, preview=True, seed: int = 3):
            yield torch.zeros(n, *self.spec.shape)

    with pytest.raises(LimnerError, match="frames of Seeded has an option seed, which sample and"):
        register("toy-seeded", family="gans", paper=PAPER)(Seeded)


def test_a_default_of_another_type_is_refused():
    class Typed(toys.TwoStep):
        def __init__(self, spec: ImageSpec, width: int = "200", other: Any = "x") -> None:  # pyright: ignore
            super().__init__(spec)

    expected = (
        "the default '200' of the option width of Typed is not valid: input should be a valid"
    )
    with pytest.raises(LimnerError, match=expected):
        register("toy-typed", family="diffusion", paper=PAPER)(Typed)


def test_the_defaults_of_all_models_have_the_types_of_their_options():
    for each in models().values():
        registry._check_defaults(each.model)


def test_an_option_called_name_is_refused():
    class Called(toys.Pixels):
        """A model whose option could not be set, because model.name is the model's name."""

        def __init__(self, spec: ImageSpec, name: str = "first"):
            super().__init__(spec)

    with pytest.raises(LimnerError, match=r"Called has an option name, but model\.name is"):
        register("toy-called", family="gans", paper=PAPER)(Called)


def test_a_condition_is_optional_or_required():
    class Needing(toys.Pixels):
        """A model with a spelling mistake."""

        condition: Any = "requried"

    with pytest.raises(LimnerError, match=r"'requried'; did you mean 'required'\? \(condition of"):
        register("toy-needing", family="gans", paper=PAPER)(Needing)


LATER = """
from __future__ import annotations
from typing import TYPE_CHECKING, Literal, Unpack
import toys
from limner import Paper, register
from limner.nn.unet import PatchOptions
if TYPE_CHECKING:
    from limner import ImageSpec
    from pathlib import Path
paper = Paper("A title", "Somebody", 2024, "2401.00001")
@register("toy-later", family="gans", paper=paper)
class Later(toys.Pixels):
    def __init__(self, spec: ImageSpec, base: toys.TwoStep, kind: Literal["a", "b"] = "a",
                 **unet: Unpack[PatchOptions]) -> None:
        super().__init__(spec)
class Typed(toys.Pixels):
    def __init__(self, spec: ImageSpec, path: Path) -> None:
        super().__init__(spec)
"""


def test_annotations_may_be_strings_in_a_file_with_postponed_evaluation(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "later_file.py").write_text(LATER, encoding="utf-8")
    import later_file  # pyright: ignore[reportMissingImports]

    assert entry("toy-later").nested_options == ["base"]
    base = toys.TwoStep(GREY)
    config = later_file.Later(GREY, base, patch=1).config
    assert config == {
        "channels": [64, 128], "blocks": 1, "attention": 1, "dropout": 0.0, "patch": 1,
        "kind": "a", "base": base.description(),
    }  # fmt: skip
    with pytest.raises(LimnerError, match=r"option model\.kind='c'"):
        later_file.Later(GREY, base, kind="c")
    with pytest.raises(LimnerError, match=r"an option of Typed\.__init__ has a type that is not"):
        later_file.Typed(GREY, "a")


def test_an_error_in_a_layer_is_not_called_one_of_the_model():
    class Layer(torch.nn.Module):
        def __init__(self) -> None:
            self.inner = torch.nn.Linear(1, 1)

    class Own(toys.Pixels):
        def __init__(self, spec: ImageSpec) -> None:
            super().__init__(spec)
            self.layer = Layer()

    with pytest.raises(AttributeError, match="before Module"):
        Own(GREY)
