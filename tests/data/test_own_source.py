"""A kind of source of your own: it is found by its name, wherever sources are typed."""

import subprocess
import sys
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch
from own_package import install_package
from PIL import Image

from limner import LimnerError
from limner.commands.listing import describe_section
from limner.data import Dataset, check, open_data, source, source_kinds, sources
from limner.data.pictures import Entry, Listing, Report, Source, decode_pictures
from limner.evaluate.subject import open_subject

PACKAGE = '''
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from typing import Literal

import numpy as np
from PIL import Image

from limner.data import source
from limner.data.pictures import Entry, Listing, Source


def drawn(width):
    file = BytesIO()
    stripes = np.arange(16) // width % 2 * 255
    Image.fromarray(np.tile(stripes, (16, 1)).astype(np.uint8)).save(file, "PNG")
    file.seek(0)
    return file


@source("stripes")
@source("stripes++")
@dataclass(frozen=True, kw_only=True)
class Stripes(Source):
    """Stripes of several widths.

    Args:
        most: the largest width in pixels.
    """

    split: Literal["train", "test", "all"] = "train"
    most: int = 4

    def listing(self, report):
        widths = range(1, self.most + 1)
        return Listing([Entry(str(w), partial(drawn, w), str(w % 2)) for w in widths], ("0", "1"))
'''


@pytest.fixture(autouse=True)
def restored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test registers."""
    monkeypatch.setattr(sources, "_kinds", dict(sources._kinds))
    monkeypatch.setattr(sources, "_addresses", dict(sources._addresses))


def test_a_source_of_an_installed_package_is_found(tmp_path: Path, monkeypatch):
    install_package("their_stripes", PACKAGE, tmp_path, monkeypatch, sources)
    data = open_data("stripes:most=3", size=8)
    assert (len(data), data.spec.shape, data.spec.labels) == (3, (1, 8, 8), ("0", "1"))
    assert len(open_data("mixed:stripes:most=1,stripes:most=2", size=8)) == 3
    assert len(open_data("paired:stripes,stripes:most=2", size=16)) == 2
    assert len(open_data("mixed:stripes++:most=1,stripes++", size=8)) == 5
    options = describe_section("stripes")["options"]["properties"]
    assert options["most"]["description"] == "the largest width in pixels."
    with pytest.raises(LimnerError, match=r"unknown data option 'data.least'.*limner options stri"):
        open_data("stripes", least=2)
    with pytest.raises(LimnerError, match="'stripes:x' has a wrong form; type stripes"):
        open_data("stripes:x")


def test_a_source_may_have_an_address():
    @source("squares", address="SIDE")
    @dataclass(frozen=True, kw_only=True)
    class Squares(Source):
        """Squares."""

        split: Literal["train", "all"] = "train"

        def listing(self, report: Report) -> Listing:
            file = BytesIO()
            side = int(self.address)
            Image.fromarray(np.zeros((side, side), dtype=np.uint8)).save(file, "PNG")
            return Listing([Entry("one", lambda: BytesIO(file.getvalue()))])

    assert open_data("squares:12").spec.shape == (1, 12, 12)
    assert open_subject("squares:12", {}, torch.device("cpu")).pictures is not None
    with pytest.raises(LimnerError, match="'squares' has a wrong form; type squares:SIDE"):
        open_data("squares")
    assert source("squares", address="SIDE")(Squares) is source_kinds()["squares"]


def test_pictures_with_a_weight_of_0_are_never_drawn():
    @source("weighted")
    @dataclass(frozen=True, kw_only=True)
    class Weighted(Source):
        split: Literal["train", "all"] = "train"

        def listing(self, report: Report) -> Listing:
            file = BytesIO()
            Image.fromarray(np.zeros((8, 8), dtype=np.uint8)).save(file, "PNG")
            weights = {"never": 0.0, "often": 2.0, "seldom": 1.0}
            opener = lambda: BytesIO(file.getvalue())  # noqa: E731
            return Listing([Entry(name, opener, weight=w) for name, w in weights.items()])

    data = open_data("weighted")
    counts = torch.bincount(data.order(0)(torch.arange(3000)), minlength=3).tolist()
    assert counts[0] == 0 and 1.8 < counts[1] / counts[2] < 2.2


def test_files_that_a_source_knows_to_be_broken_count_as_broken():
    def opener(width: int) -> BytesIO:
        file = BytesIO()
        Image.fromarray(np.zeros((8, width), dtype=np.uint8)).save(file, "PNG")
        return BytesIO(file.getvalue())

    @source("holed")
    @dataclass(frozen=True, kw_only=True)
    class Holed(Source):
        split: Literal["train", "all"] = "train"

        def listing(self, report: Report) -> Listing:
            entries = [Entry(str(width), partial(opener, width)) for width in (8, 16)]
            return Listing(entries, broken=[("three", "it is lost"), ("four", "it is lost")])

    skipped = (("three", "it is lost"), ("four", "it is lost"))
    for options in ({"size": 8}, {"size": 8, "buckets": "8x16"}):
        with pytest.raises(LimnerError, match=r"2 of 4 pictures of holed are broken: 'three' \(it"):
            open_data("holed", **options)
        assert open_data("holed", **options, broken=0.5).skipped == skipped
        for share in (0.01, 0.5):
            assert check("holed", **options, broken=share).refused_by_training == (share < 0.5)


def test_an_unsuitable_source_is_refused():
    class Unlisted(Source):
        split: Literal["train", "all"] = "train"

    @dataclass(frozen=True, kw_only=True)
    class Unsplit(Source):
        pass

    @dataclass(frozen=True, kw_only=True)
    class Empty(Source):
        split: Literal["train", "all"] = "train"

    for name, kind, message in (
        ("emoji", Unsplit, "the data source name 'emoji' is taken; choose another"),
        ("paired", Unsplit, "the data source name 'paired' is taken"),
        ("mixed", Unsplit, "the data source name 'mixed' is taken"),
        ("train", Unsplit, "the data source name 'train' is that of a section of options; choose"),
        ("data", Unsplit, "the data source name 'data' is that of a section of options; choose"),
        ("mine", Unlisted, "Unlisted is not a data class; write @dataclass"),
        ("mine", Unsplit, "Unsplit does not name its splits; write split: Literal"),
        ("mine", Empty, r"Empty has no method listing; write def listing\(self, report\)"),
        ("My own", Unsplit, "write the data source's name in lower case"),
    ):
        with pytest.raises(LimnerError, match=message):
            source(name)(kind)
    assert "mine" not in source_kinds()


def test_a_class_that_is_no_source_is_refused():
    program = "from limner.data import source\nclass Mine: pass\nsource('mine')(Mine)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "LimnerError: Mine is not a source; write @source above a class" in result.stderr


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ([Entry("one", BytesIO)], r"returns list; return Listing\(entries\)"),
        (None, r"returns NoneType; return Listing\(entries\)"),
        (Listing(cast(Any, iter(()))), "has tuple_iterator as entries; give a list"),
        (Listing([Entry("one", BytesIO, "a")], ("b",)), "'one' with the class 'a'; give one of"),
        (Listing([Entry("one", BytesIO)], ("b",)), "'one' with the class None; give one of"),
        (Listing([Entry("one", BytesIO, cast(Any, 0))], cast(Any, (0,))), "with the class 0; give"),
        (
            Listing([Entry("one", BytesIO, "a")]),
            "'one' with the class 'a', but no labels; give all",
        ),
        (Listing([Entry("one", BytesIO, captions=cast(Any, "dog"))]), "one text as captions; give"),
        (Listing([Entry("one", BytesIO, captions=cast(Any, (3,)))]), "the caption 3; give a text"),
        (Listing([Entry("one", BytesIO, captions=cast(Any, None))]), "with NoneType as captions"),
        (Listing([Entry("one", BytesIO, tags=cast(Any, 3))]), "with int as tags; give a tuple"),
        (Listing([Entry("one", BytesIO, tags=cast(Any, (3,)))]), "the tag 3; give a text"),
        (Listing([Entry(cast(Any, 1), BytesIO)]), "an entry with the name 1; give a text"),
        (Listing([Entry("one", cast(Any, "a.png"))]), "'one' with str as open; give a function"),
        (Listing([Entry("one", BytesIO, group=cast(Any, [1]))]), r"the group \[1\]; give a text"),
        (Listing([], cast(Any, None)), "NoneType as labels; give a tuple of texts"),
        (Listing([], broken=cast(Any, ["one"])), r"'one' in broken; give pairs, \(name, reason\)"),
        (Listing([Entry("one", BytesIO, weight=-1.0)]), r"the weight -1\.0; give a number from 0"),
        (Listing([Entry("one", BytesIO, weight=cast(Any, "2"))]), "the weight '2'; give a number"),
        (
            Listing([cast(Any, ("one", BytesIO))]),
            r"tuple among its entries; give Entry\(name, open",
        ),
        (
            Listing([Entry("one", BytesIO, captions=("dog",)), Entry("two", BytesIO)]),
            "'two' without captions, and 'one' with captions; give captions to all entries, or",
        ),
        (
            Listing([Entry("one", BytesIO), Entry("two", BytesIO, weight=2.0)]),
            "'one' without a weight, and 'two' with a weight; give a weight to all entries, or",
        ),
    ],
)
def test_a_faulty_listing_is_refused(listed: Any, message: str):
    @source("faulty")
    @dataclass(frozen=True, kw_only=True)
    class Faulty(Source):
        split: Literal["train", "all"] = "train"

        def listing(self, report: Report) -> Listing:
            return listed

    for read in (open_data, check):
        with pytest.raises(LimnerError, match=f"listing of .*{message}"):
            read("faulty")
    with pytest.raises(LimnerError, match=message):
        open_data("faulty", size=8, buckets="8x16")


def test_an_opener_that_returns_no_file_is_named():
    @source("unopened")
    @dataclass(frozen=True, kw_only=True)
    class Unopened(Source):
        split: Literal["train", "all"] = "train"

        def listing(self, report: Report) -> Listing:
            return Listing([Entry(name, cast(Any, lambda: None)) for name in ("one", "two")])

    with pytest.raises(LimnerError, match=r"its function open returns NoneType, not a file"):
        open_data("unopened")


def test_a_source_with_its_own_open_is_checked_as_it_is_trained():
    @source("own-open")
    @dataclass(frozen=True, kw_only=True)
    class OwnOpen(Source):
        split: Literal["train", "all"] = "train"
        licence: str = ""

        def listing(self, report: Report) -> Listing:
            files = {side: BytesIO() for side in (8, 12)}
            for side, file in files.items():
                Image.fromarray(np.zeros((side, side), dtype=np.uint8)).save(file, "PNG")
            return Listing(
                [Entry(str(s), partial(BytesIO, f.getvalue())) for s, f in files.items()]
            )

        def open(self, typed: str) -> Dataset:
            if not self.licence:
                raise LimnerError("give data.licence")
            return decode_pictures(replace(self, size=8), typed)

    assert check("own-open", licence="x").to_json()["problems"] == []
    assert check("own-open").to_json()["problems"] == ["give data.licence"]
