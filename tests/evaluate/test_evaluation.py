"""`evaluate` end to end: correct numbers with one process or many, with or without kills."""

import json
import math
import multiprocessing
import os
import signal
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from ports import free_port
from scenes import SPEC, Eye, Painter, Shades
from torch import Tensor

from limner.autoencoders.nvae import NVAE
from limner.autoencoders.vae import VAE
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, ImageSpec, to_uint8
from limner.contract.likelihood import Likelihood, LikelihoodModel
from limner.contract.noise import Noise
from limner.contract.text import Tokenizer
from limner.data import Dataset
from limner.diffusion.ddpm import DDPM
from limner.diffusion.vdm import VDM
from limner.evaluate import passes, subject
from limner.evaluate.evaluation import evaluate
from limner.evaluate.extractors.extractor import Features, check_attributes
from limner.evaluate.metrics import fld as fld_module
from limner.evaluate.metrics import mind as mind_module
from limner.evaluate.metrics.fid import distance_of_features
from limner.evaluate.metrics.fld import fld
from limner.evaluate.metrics.kid import kid
from limner.evaluate.metrics.mind import floor, mind
from limner.evaluate.metrics.statistics import random_order
from limner.evaluate.passes import Observations, Observer, Share
from limner.evaluate.picture_sets import RealPictures
from limner.evaluate.report import Number, Report, append_report, read_reports
from limner.evaluate.subject import Candidate, open_reference
from limner.runtime.cache import cache_folder, keep_tensors, load_kept

N = 200


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def judged(subject: object, n: int | None = N, **options: object) -> Report:
    arguments = {"against": Shades(240, seed=1, training=False), "training": Shades(240)} | options
    return evaluate(subject, n=n, extractor=Eye(), device="cpu", quiet=True, **arguments)


def value(report: Report, name: str, row: str = "subject") -> float:
    number = report.number(name, row)
    assert number is not None, f"no {name} ({row}) among {report.numbers}"
    return number.value


def test_numbers_equal_those_of_the_metric_functions():
    model, real = Painter(SPEC, deafness=0.3), Shades(240, seed=1, training=False)
    report = judged(model, against=real, training=None)
    order = random_order(240, 0)
    assert SPEC.text is not None
    text = Tokenizer(SPEC.text).encode(real.captions(order[:N], Noise.sampling(0, 1)))
    x = to_uint8(model.sample(N, Condition(text=text), seed=0))
    f_model, f_real = (Eye()(pixels).features.float() for pixels in (x, real.pixels(order)))
    assert value(report, "FD") == pytest.approx(distance_of_features(f_model, f_real), rel=1e-10)
    distance = kid(f_model, f_real)
    kd = report.number("KD")
    assert kd is not None and (kd.low, kd.high) == pytest.approx(distance[1:], rel=1e-10)
    assert kd.value == pytest.approx(distance.value, rel=1e-10)
    assert (kd.n, kd.m, kd.extractor) == (N, 240, "eye")


def test_mind_and_fld_equal_those_of_the_metric_functions():
    model, real = Painter(SPEC, deafness=0.3), Shades(240, seed=1, training=False)
    training = Shades(720, seed=2)
    report = judged(model, metrics=["mind", "fld"], against=real, training=training)
    assert SPEC.text is not None
    order, train_order = random_order(240, 0), random_order(720, 0)
    text = Tokenizer(SPEC.text).encode(real.captions(order[:N], Noise.sampling(0, 1)))
    x = to_uint8(model.sample(N, Condition(text=text), seed=0))
    f_model, f_real, f_train = (
        Eye()(pixels).features.float()
        for pixels in (x, real.pixels(order), training.pixels(train_order))
    )
    distance, divergence = mind(f_model, f_real[:N]), fld(f_train, f_real, f_model)
    assert divergence.real is not None
    expected = {
        ("MD", "subject"): distance,
        ("MD", "real (shades)"): mind(f_train[:N], f_real[:N]),
        ("MD", "floor"): (floor(f_real, N),),
        ("FLD", "subject"): divergence.fld,
        ("FLD gap", "subject"): divergence.gap,
        ("FLD", "real (shades)"): divergence.real,
    }
    assert {(number.name, number.row) for number in report.numbers} == expected.keys()
    for number in report.numbers:
        values = [x for x in (number.value, number.low, number.high) if x is not None]
        assert values == pytest.approx(list(expected[number.name, number.row]), rel=1e-6)
        assert (number.n, number.m) == (N, N if number.name == "MD" else 240)


def test_mind_and_fld_state_the_required_number_of_pictures():
    report = judged(Painter(SPEC))
    assert "made for 1,000 pictures or more, not 200; use" in report.left_out["mind"]
    assert "1,000 pictures of each kind or more, not 200 judged" in report.left_out["fld"]
    with pytest.raises(
        LimnerError, match=r"'fld' .* it needs training pictures, and shades has no"
    ):
        judged(Painter(SPEC), metrics=["fld"], training=None)
    with pytest.raises(
        LimnerError, match=r"'fld' .* at least 10 training pictures, and there are 9"
    ):
        judged(Painter(SPEC), metrics=["fld"], training=Shades(9))
    with pytest.raises(LimnerError, match=r"'mind' .* at least 20 pictures, and shades has 19"):
        judged(Shades(19), n=None, metrics=["mind"])


def test_pictures_without_a_class_do_not_count_for_accuracy():
    data = Shades(240, seed=1, training=False)
    data.labels = torch.where(torch.arange(240) % 3 == 0, -1, data.labels)
    accuracy = judged(data, n=None, metrics=["accuracy"], against=data).number("accuracy")
    assert accuracy is not None and (accuracy.value, accuracy.n) == (1, 160)
    data.labels = torch.full((240,), -1)
    reason = "no picture of shades has a class"
    with pytest.raises(LimnerError, match=reason):
        judged(data, n=None, metrics=["accuracy"], against=data)
    assert reason in judged(data, n=None, against=data).left_out["accuracy"]


def test_a_model_that_ignores_half_of_its_prompts_is_half_right():
    """One in twelve of the ignored prompts is correct by chance."""
    report = judged(Painter(SPEC, deafness=0.5), n=1000, metrics=["accuracy", "retrieval", "is"])
    accuracy = report.number("accuracy")
    assert accuracy is not None and accuracy.low is not None and accuracy.high is not None
    assert accuracy.low < 0.5 + 0.5 / 12 < accuracy.high
    assert value(report, "accuracy", "real (shades)") == 1
    assert value(report, "R@1", "real (shades)") == 1, "real pictures are the upper bound"
    assert value(report, "R@1", "nearest in training") == 1, (
        "copies of training pictures must score 1"
    )
    assert value(report, "R@1") < 1
    perfect = judged(Painter(SPEC), metrics=["retrieval"])
    assert value(perfect, "R@1") == 1
    assert value(perfect, "R@1", "shuffled captions") == 0, "no picture may get its own caption"
    assert value(perfect, "median rank", "shuffled captions") > 1
    assert "among 12 captions" in perfect.text()


def test_a_folder_of_copies_is_detected_and_new_pictures_are_not():
    training = Shades(240)
    copies = judged(_some(training, 100), n=None, training=training)
    likely = judged(_some(training, 100), n=None, training=training, metrics=["fld"])
    assert value(likely, "FLD") > 1000 and value(likely, "FLD gap") < -1000
    assert value(copies, "copied") == 1 and value(copies, "authentic") == 0
    assert value(copies, "copied", "real (shades)") < 0.05, "false positives"
    sheet = copies.pictures["suspects"]
    assert torch.equal(sheet[0::2], sheet[1::2]), "each copy must be next to its original"
    assert copies.subject.kind == "pictures" and copies.painting_seconds == 0
    new = judged(Shades(100, seed=5), n=None, training=training)
    assert value(new, "copied") < 0.05


def test_the_interval_of_a_distance_does_not_reach_below_0():
    report = judged(Shades(240, seed=1, training=False), n=None, metrics=["fid"])
    distance, limit = report.number("FD"), report.number("FD-infinity")
    assert distance is not None and limit is not None and distance.high is not None
    assert distance.value == pytest.approx(0, abs=1e-6), "the pictures are the reference"
    assert distance.low == 0 < distance.high
    assert limit.value < 0, "the limit may be negative"


def _some(data: Shades, n: int) -> Shades:
    subset = Shades(n)
    subset._pixels = data._pixels[:n]
    return subset


def test_an_interrupted_evaluation_does_not_paint_pictures_again(monkeypatch):
    expected = judged(Painter(SPEC, deafness=0.3))
    model, paint = Painter(SPEC, deafness=0.3), Painter.sample

    def interrupted(self: Painter, n: int, *a: object, **k: object) -> Tensor:
        if len(self.painted) == 2:
            raise KeyboardInterrupt
        return paint(self, n, *a, **k)

    monkeypatch.setattr(Painter, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        judged(model)
    monkeypatch.setattr(Painter, "sample", paint)
    report = judged(model)
    assert model.painted == [64, 64, 64, 8], "blocks of 64 must be painted once"
    assert report.numbers == expected.numbers
    assert not list((cache_folder() / "work").iterdir()), "intermediate files must be deleted"


class Notes(Observer):
    """An observer that records the numbers of pictures, for an owner with a name."""

    def __init__(self, name: str) -> None:
        self.name = self.fingerprint = name

    def look(self, pictures: object, numbers: Tensor, pixels: Tensor) -> dict[str, Tensor]:
        return {"number": numbers}


class Darker(Painter):
    """The same weights, but other pictures."""

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Tensor]:
        for x in super().frames(n, c, noise=noise, preview=preview):
            yield x - 1


def test_pictures_are_painted_again_if_the_code_changed():
    class Stops(Eye):
        def __call__(self, images: Tensor) -> Features:
            if self.seen > 100:
                raise KeyboardInterrupt
            return super().__call__(images)

    data = {"against": Shades(240, seed=1, training=False), "training": Shades(240)}
    expected = value(judged(Darker(SPEC), metrics=["fid"]), "FD")
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            Painter(SPEC), n=N, metrics="fid", extractor=Stops(), device="cpu", quiet=True, **data
        )
    assert list((cache_folder() / "work").rglob("*.pictures"))
    assert value(judged(Darker(SPEC), metrics=["fid"]), "FD") == expected


def test_discarding_keeps_unfinished_blocks_of_other_observers():
    real = RealPictures(Shades(70))
    a, b = (Observations([(real, Notes(name))]) for name in "ab")
    for observations in (a, b):
        observations.do_share(lambda _: None, Share(0, 2))
    a.discard()
    (work,) = (cache_folder() / "work").iterdir()
    assert [file.name.split(".")[1][0] for file in work.iterdir()] == ["b"]
    b.discard()
    assert not work.exists()


def _process(rank: int, size: int, port: int, folder: Path, kill_one: bool) -> None:
    """Run one of several processes that share an evaluation; it may kill itself after a block."""
    os.environ |= {
        "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    model = Painter(SPEC, deafness=0.3)
    if kill_one:
        paint = model.sample

        def sample(*a: object, **k: object) -> Tensor:
            if model.painted:
                os.kill(os.getpid(), signal.SIGKILL)
            return paint(*a, **k)

        model.sample = sample  # pyright: ignore[reportAttributeAccessIssue]
    report = judged(model, n=500)
    (folder / f"{rank}.json").write_text(json.dumps(report.to_json()))


def _together(folder: Path, kill_one: bool) -> list[dict]:
    """Run three processes together; return their reports, or none if one was killed."""
    folder.mkdir()
    context = multiprocessing.get_context("fork")  # torch is imported already
    with free_port() as port:
        processes = [
            context.Process(target=_process, args=(rank, 3, port, folder, kill_one and rank == 1))
            for rank in range(3)
        ]
        for process in processes:
            process.start()
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline and any(p.is_alive() for p in processes):
            if kill_one and processes[1].exitcode is not None:
                for process in processes:  # like torchrun
                    process.kill()
            time.sleep(0.01)
    for process in processes:
        process.join(1)
    return [json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))]


def test_one_process_and_three_with_a_restart_give_the_same_report(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    for module in (fld_module, mind_module):  # makes every metric of features available
        monkeypatch.setattr(module, "_RECOMMENDED_PICTURES", 100)
    single = judged(Painter(SPEC, deafness=0.3), n=500).numbers
    assert _together(tmp_path / "killed", kill_one=True) == []
    names = {path.name for path in (cache / "work").rglob("*.pictures")}
    assert "block-000001.pictures" in names and "block-000004.pictures" not in names
    reports = [Report.from_json(row) for row in _together(tmp_path / "again", kill_one=False)]
    assert len(reports) == 3, "every process must have the report"
    for report in reports:
        assert [replace(n, value=0, low=None, high=None, error=None, parts=()) for n in single] == [
            replace(n, value=0, low=None, high=None, error=None, parts=()) for n in report.numbers
        ]
        for number, other in zip(single, report.numbers):
            assert other.value == pytest.approx(number.value, rel=1e-10, abs=1e-12)


def test_statistics_of_a_data_set_are_cached_by_content():
    real, training = Shades(240, seed=1, training=False), Shades(240)
    options = {"metrics": ["fid"], "device": "cpu", "quiet": True, "training": training}
    eye = Eye()
    first = evaluate(Painter(SPEC), real, n=N, extractor=eye, **options)
    assert eye.seen == 1 + 240 + 2 * N, (
        "one trial picture, the reference, the painted pictures, as many real ones"
    )
    eye.seen = 0
    second = evaluate(Painter(SPEC), real, n=N, extractor=eye, **options)
    assert eye.seen == 1 + N and second.numbers == first.numbers
    file = next((cache_folder() / "statistics").iterdir())
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    eye.seen = 0
    assert evaluate(Painter(SPEC), real, n=N, extractor=eye, **options).numbers == first.numbers
    assert eye.seen > 1 + N, "damaged statistics must be computed again"
    real._pixels[0, 0, 0, 0] ^= 1
    eye.seen = 0
    evaluate(Painter(SPEC), real, n=N, extractor=eye, **options)
    assert eye.seen == 1 + 240 + N, "one changed pixel must give another cache entry"


def test_memory_does_not_grow_with_the_number_of_pictures(monkeypatch):
    """Of 400 blocks, only one is in memory at a time, plus rows of the first 256 pictures."""
    monkeypatch.setattr(passes, "MAX_FEATURES", 256)
    monkeypatch.setattr(passes, "MAX_LOGITS", 256)
    alive: list[weakref.ref] = []
    counts: list[int] = []

    def stream() -> Iterator[dict[str, Tensor]]:
        for number in range(400):
            counts.append(sum(ref() is not None for ref in alive))
            rows = Noise.keyed(0, number, range(64))
            block = {"features": rows.normal(6), "logits": rows.normal(12)}
            alive.extend(weakref.ref(tensor) for tensor in block.values())
            yield block

    result = passes.FeatureObserver(Eye()).together(stream())
    assert max(counts) <= 2 * (256 // 64 + 1)
    assert int(result["n"]) == 400 * 64 and len(result["features"]) == len(result["logits"]) == 256
    model, eye = Painter(SPEC), Eye()
    options = {"metrics": ["fid", "kid", "is"], "device": "cpu", "quiet": True, "extractor": eye}
    evaluate(model, Shades(240, seed=1, training=False), n=1000, **options)
    assert max(model.painted) == 64 and eye.most == 64


class OnePicture(Dataset):
    """A data set of n equal pictures."""

    source = "folder:one"

    def __init__(self, n: int, spec: ImageSpec = SPEC) -> None:
        self.spec, self.n = replace(spec, labels=(), text=None), n

    def __len__(self) -> int:
        return self.n

    def pixels(self, indices: Tensor) -> Tensor:
        return torch.full((len(indices), *self.spec.shape), 9, dtype=torch.uint8)


class Blind(Eye):
    """An extractor that returns an invalid row for the 70th picture."""

    fingerprint = "blind"

    def __call__(self, images: Tensor) -> Features:
        features, logits = super().__call__(images)
        if self.seen > 70:
            features[5, 0] = torch.nan
        return Features(features, logits)


class Void(Painter):
    """A model whose weights are NaN."""

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Tensor]:
        yield torch.full((n, *self.spec.shape), torch.nan)


MISTAKES = {
    "other sizes": (
        OnePicture(20, ImageSpec(3, 8, 8)), {},
        "folder:one has pictures of 8 x 8, and shades has 6 x 6; give data.size=8",
    ),
    "grey and RGB": (
        OnePicture(20, ImageSpec(1, 6, 6)), {},
        "folder:one has grey pictures, and shades has RGB ones; give data.channels=1",
    ),
    "one picture only": (
        OnePicture(20), {},
        "all 20 pictures of folder:one are the same, so no metric has a value; give other pictures",
    ),
    "nothing but one picture to be judged by": (
        Shades(20), {"against": OnePicture(130)},
        "all 130 pictures of folder:one are the same, so nothing can be judged by them",
    ),
    "NaN in a picture": (
        Void(SPEC), {"n": 3}, "the pictures of Void are not finite: the weights are damaged",
    ),
    "no pictures": (OnePicture(0), {}, "folder:one contains no pictures"),
    "fewer than splits": (
        Shades(9), {"metrics": ["is"]},
        "metric 'is' does not apply here: it needs at least 10 pictures, and shades has 9",
    ),
    "too few": (
        Shades(9), {"metrics": ["kid"]},
        "metric 'kid' does not apply here: it needs at least 10 pictures, and shades has 9",
    ),
    "too many asked for": (Shades(9), {"n": 10}, "shades has 9 pictures, not 10"),
    "none asked for": (Shades(9), {"n": 0}, "at least 1, not 0"),
    "NaN": (
        Shades(100), {"extractor": Blind(), "metrics": ["kid"]},
        "by eye are NaN or infinite, so no metric has a value",
    ),
    "an unknown metric": (
        Shades(9), {"metrics": ["kdi"]}, "unknown metric 'kdi'; did you mean 'kid'?",
    ),
    "a likelihood of pictures": (
        Shades(9), {"metrics": ["likelihood"]}, "shades has no likelihood of pictures",
    ),
    "an option of no likelihood": (
        Shades(9), {"likelihood": {"k": 3}}, "no likelihood of pictures; leave likelihood.k out",
    ),
    "an unknown likelihood option": (
        DDPM(SPEC, channels=(4,)), {"likelihood": {"k": 3}}, "unknown likelihood option 'k'",
    ),
    "a wrong likelihood option": (
        VDM(SPEC, channels=(4,), hidden=4), {"likelihood": {"terms": 0}},
        "likelihood option terms=0: input should be greater",
    ),
    "a likelihood option without effect": (
        VDM(SPEC, channels=(4,), hidden=4), {"likelihood": {"terms": 2}, "metrics": ["kid"]},
        "likelihood.terms has no effect without the metric likelihood; name it with --metrics",
    ),
    "an extractor without effect": (
        VDM(SPEC, channels=(4,), hidden=4), {"metrics": ["likelihood"], "extractor": "lite0"},
        "an extractor has no effect on likelihood; leave it out",
    ),
    "weights of no extractor": (
        Shades(9), {"extractor": None, "weights": "no/weights"}, "no/weights",
    ),
    "a sampler of pictures": (
        Shades(9), {"sampler": {"steps": 3}}, "have no sampler; leave sampler.steps out",
    ),
    "an unknown sampler option": (
        Painter(SPEC), {"sampler": {"stesp": 3}}, "unknown sampler option 'stesp'",
    ),
    "two sources": (
        Shades(9), {"against": "scenes", "data": {"source": "mnist"}}, "leave data.source out",
    ),
    "nothing to be judged by": (Shades(9), {"against": None}, "say which real pictures"),
    "nothing there": ("no/such/run", {}, "no run, model file or folder of pictures 'no/such/run'"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gives_one_line(mistake: str):
    subject, options, message = MISTAKES[mistake]
    with pytest.raises(LimnerError) as error:
        evaluate(
            subject,
            **{"against": Shades(240, seed=1), "extractor": Eye(), "device": "cpu"} | options,
        )
    assert message in str(error.value) and "\n" not in str(error.value)


def test_missing_training_data_are_replaced_with_against():
    recipe = {"data": {"source": "folder:gone"}}
    candidate = Candidate("run", "", Painter(SPEC), recipe=recipe)
    with pytest.raises(LimnerError, match=r"folder 'gone'; for data that moved, add --against"):
        open_reference(None, {}, candidate)
    with pytest.raises(LimnerError, match=r"folder 'away'$"):
        open_reference("folder:away", {}, candidate)


def test_the_reference_is_the_folder_test_if_there_is_one(tmp_path: Path):
    for name in ("train/a.png", "train/b.png", "test/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (6, 6), (ord(name[-5]), 0, 0)).save(tmp_path / name)
    candidate = Candidate("run", "", recipe={"data": {"source": f"folder:{tmp_path}"}})
    reference = open_reference(None, {}, candidate)
    assert reference.training and reference.real is reference.held_out
    assert (len(reference.real), len(reference.training)) == (1, 2)
    assert reference.real.name.endswith(" test") and reference.options == {"split": "test"}
    chosen = open_reference(None, {"split": "train"}, candidate)
    assert len(chosen.real) == 2 and chosen.held_out and len(chosen.held_out) == 1


def test_a_metric_without_a_value_is_left_out_unless_named():
    report = judged(Shades(9), n=None)
    assert "at least 10 pictures, and shades has 9" in report.left_out["kid"]
    assert report.number("precision") is not None
    few = judged(Shades(6, seed=3), n=None, metrics=["fid"])
    number = few.number("FD")
    assert number is not None and "fewer pictures than features" in number.protocol
    assert few.number("FD", "floor") is None
    assert "too few" in judged(Shades(6, seed=3), n=None).left_out["fid"]


class Coin(LikelihoodModel):
    """A model of uniform pixels with an exact likelihood, or a bound that is one nat too low."""

    def __init__(self, spec: ImageSpec, kind: str = "exact") -> None:
        super().__init__()
        self.kind = kind

    def log_prob(self, x: Tensor, c: Condition = Condition(), *, noise: Noise) -> Likelihood:
        nats = -self.spec.dimensions * math.log(self.spec.levels) - (self.kind == "lower")
        return Likelihood(torch.full((len(x),), nats), self.kind)  # pyright: ignore[reportArgumentType]

    def frames(
        self, n: int, c: Condition = Condition(), *, noise: Noise, preview: bool = True
    ) -> Iterator[Tensor]:
        yield noise.uniform(*self.spec.shape) * 2 - 1


def test_likelihoods_are_exact_or_marked_as_bounds():
    exact = judged(Coin(SPEC), metrics=["likelihood"])
    assert value(exact, "bits/dim") == pytest.approx(8, rel=1e-7)
    assert value(exact, "log-likelihood") == pytest.approx(-108 * math.log(256), rel=1e-7)
    bound = judged(Coin(SPEC, kind="lower"), metrics=["likelihood"])
    bits, nats = bound.number("bits/dim"), bound.number("log-likelihood")
    assert bits is not None and nats is not None
    assert (bits.sign, nats.sign) == ("<=", ">=") and bits.error == 0
    assert bits.value == pytest.approx(8 + 1 / (108 * math.log(2)), rel=1e-7)
    assert "<= 8.013 ± 0" in bound.text() and bits.n == N
    variants = Shades(240, seed=1, training=False)
    variants.groups = torch.arange(240) // 120
    grouped = judged(Coin(SPEC), against=variants, metrics=["likelihood"]).number("bits/dim")
    assert grouped is not None and (grouped.things, bits.things) == (2, None)


@pytest.mark.parametrize(
    ("model", "terms"),
    [
        (DDPM(SPEC, channels=(4,), T=4), ("prior", "steps", "decoder")),
        (VDM(SPEC, channels=(4,), hidden=4), ("prior", "diffusion", "decoder")),
    ],
    ids=["ddpm", "vdm"],
)
def test_the_terms_of_a_bound_add_up_to_it(model: LikelihoodModel, terms: tuple[str, ...]):
    report = judged(model, n=20, metrics=["likelihood"])
    parts = [value(report, f"bits/dim, {term}") for term in terms]
    assert sum(parts) == pytest.approx(value(report, "bits/dim"), rel=1e-9)
    assert all(part > 0 for part in parts)
    assert "bits/dim, prior" in report.text()
    assert report.number("bits/dim, ELBO") is None, "the ELBO would repeat the bound"


@pytest.mark.parametrize(
    ("model", "terms"),
    [
        (VAE(SPEC, latent=2, channels=(4,)), ("reconstruction", "KL")),
        (
            NVAE(SPEC, channels=(4,), groups=(2,), latent=2),
            ("reconstruction", "KL 1 (3 x 3)", "KL 2 (3 x 3)"),
        ),
    ],
    ids=["vae", "nvae"],
)
def test_a_bound_of_several_draws_has_rows_of_the_elbo_and_its_terms(
    model: LikelihoodModel, terms: tuple[str, ...]
):
    report = judged(model, n=20, metrics=["likelihood"], likelihood={"k": 4})
    parts = [value(report, f"bits/dim, {term}") for term in terms]
    elbo, bits = report.number("bits/dim, ELBO"), report.number("bits/dim")
    assert elbo is not None and bits is not None
    assert elbo.value == pytest.approx(sum(parts), rel=1e-9)
    assert elbo.value > bits.value, "more draws must give a tighter bound"
    assert (elbo.sign, elbo.better) == ("<=", "lower")
    assert "bits/dim, reconstruction" in report.text()
    names = {number["name"] for number in report.to_json()["numbers"]}
    assert {"bits/dim, ELBO", *(f"bits/dim, {term}" for term in terms)} <= names


def test_a_likelihood_is_computed_with_the_given_options():
    model = DDPM(SPEC, channels=(4,), T=4)
    numbers = {
        str(extra): judged(model, n=2, metrics=["likelihood"], likelihood=extra).number("bits/dim")
        for extra in ({}, {"terms": 1}, {"way": "flow"})
    }
    full, one, flow = numbers.values()
    assert full and one and flow
    assert ("4 of 4 steps" in full.protocol, "1 of 4 steps" in one.protocol) == (True, True)
    assert "Hutchinson" in flow.protocol and (full.sign, flow.sign) == ("<=", "~")
    assert len({full.value, one.value, flow.value}) == 3


def test_likelihoods_paint_only_the_pictures_that_are_shown():
    model = Coin(SPEC)
    counts: list[int] = []
    frames = model.frames

    def counting(n: int, *args: object, **more: object) -> Iterator[Tensor]:
        counts.append(n)
        return frames(n, *args, **more)  # pyright: ignore[reportArgumentType]

    model.frames = counting  # pyright: ignore[reportAttributeAccessIssue]
    report = judged(model, metrics=["likelihood"])
    bits = report.number("bits/dim")
    assert bits is not None and bits.n == report.n == N > sum(counts) == report.painted == 64
    assert report.seconds_a_picture == report.painting_seconds / 64
    assert any("seeds 0 to 63" in line for line in report.protocol)
    counts.clear()
    assert judged(model, metrics=["likelihood", "kid"]).painted is None
    assert sum(counts) == N


def test_a_report_is_plain_data(tmp_path: Path):
    report = judged(Painter(SPEC, deafness=0.3), n=60)
    assert Report.from_json(json.loads(json.dumps(report.to_json()))) == report
    assert {f.name for f in report.write(tmp_path)} == {
        "report.json", "report.md", "samples.png", "suspects.png"
    }  # fmt: skip
    assert Report.from_json(json.loads((tmp_path / "report.json").read_text())) == report
    for text in (report.text(), report.markdown()):
        assert "eye" in text and "real is shades" in text and "left out: likelihood" in text
    append_report(report, tmp_path, step=3)
    with (tmp_path / "report.jsonl").open("a") as file:
        file.write('{"cut')
    append_report(report, tmp_path)
    first, second = read_reports(tmp_path)
    assert first["step"] == 3 and Report.from_json(second) == report
    with pytest.raises(LimnerError, match="newer limner"):
        Report.from_json(report.to_json() | {"format": 99})
    with pytest.raises(LimnerError, match="is not finite"):
        Number("kid", "KD", math.nan, 3)


def test_cached_files_are_complete_or_ignored(tmp_path: Path):
    file = tmp_path / "a" / "b.safetensors"
    keep_tensors(file, {"x": torch.arange(3)})
    tensors = load_kept(file)
    assert tensors is not None and tensors["x"].tolist() == [0, 1, 2]
    file.write_bytes(file.read_bytes()[:-1])
    assert load_kept(file) is None and load_kept(tmp_path / "none") is None
    (tmp_path / "file").write_text("")
    with pytest.raises(LimnerError, match="set LIMNER_CACHE to a folder"):
        keep_tensors(tmp_path / "file" / "c", {"x": torch.zeros(1)})


def test_with_many_training_pictures_only_some_are_compared_with_all(monkeypatch):
    monkeypatch.setattr("limner.evaluate.metrics.memorisation._MAX_PIXELS", 240 * 108 * 130)
    report = judged(Painter(SPEC), metrics=["memorisation"])
    number = report.number("copied")
    assert number is not None and (number.n, report.n) == (128, N), (
        "only two whole blocks may be compared"
    )


def test_all_training_pictures_are_compared_or_their_number_is_stated(monkeypatch):
    """Training pictures beyond the largest reference may have been copied, too."""
    monkeypatch.setattr(subject, "_MAX_REFERENCE", 100)
    training, copies = Shades(240), Shades(140)
    copies._pixels = RealPictures(training).pictures(torch.arange(100, 240))
    options = {"against": training, "training": None, "metrics": ["memorisation"]}
    report = judged(copies, None, **options)
    assert value(report, "copied") == 1
    assert report.training is not None and report.training.pictures == 240
    assert report.against.pictures == 100
    monkeypatch.setattr(subject, "_MAX_TRAINING_VALUES", 0)
    number = judged(copies, None, **options).number("copied")
    assert number and number.protocol.endswith("; compared with 100 of 240 training pictures")


class OwnEye(Eye):
    """A user's own extractor with a mistake."""

    def __init__(self, mistake: Callable[[Features], object]) -> None:
        super().__init__()
        self.mistake, self.fingerprint = mistake, repr(mistake)

    def __call__(self, images: Tensor) -> object:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.mistake(super().__call__(images))


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        (lambda f: f.features, "the extractor eye returns Tensor; return Features(features, logi"),
        (tuple, "the extractor eye returns tuple; return Features(features, logits)"),
        (lambda f: f._replace(features=f.features[1:]), "features of the extractor eye are 0 x 6;"),
        (lambda f: f._replace(features=f.features.mean(0, keepdim=True)), "1 x 6; give a tensor o"),
        (lambda f: f._replace(features=torch.cat([f.features] * 2)), "eye are 2 x 6; give a tenso"),
        (lambda f: f._replace(features=f.features[:, :5]), "are 1 x 5; give a tensor of 1 x 6: a"),
        (lambda f: f._replace(features=f.features[:, 0]), "are 1; give a tensor of 1 x 6: a row"),
        (lambda f: f._replace(features=f.features.numpy()), "eye are ndarray; give a tensor of 1"),
        (lambda f: f._replace(logits=f.logits[:, :3]), "logits of the extractor eye are 1 x 3; gi"),
        (lambda f: f._replace(logits=None), "the logits of the extractor eye are NoneType; give a"),
    ],
)
def test_an_extractor_that_does_not_return_a_row_per_picture_is_refused(
    mistake: Callable[[Features], object], said: str
):
    real = Shades(70)
    with pytest.raises(LimnerError, match=said.replace("(", r"\(").replace(")", r"\)")):
        evaluate(real, real, metrics="fid", extractor=OwnEye(mistake), device="cpu", quiet=True)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    ("extractor", "said"),
    [
        (Eye, r"the extractor Eye is a class; give an instance, as Eye\(\)"),
        (3, "the extractor 3 is int; give its name, or an Extractor"),
        (torch.nn.Flatten(), "name of the extractor Flatten is missing or of another type; write"),
    ],
)
def test_objects_that_are_not_extractors_are_refused(extractor: object, said: str):
    real, options = Shades(70), {"extractor": extractor}
    with pytest.raises(LimnerError, match=said):
        evaluate(real, real, metrics="fid", device="cpu", quiet=True, **options)


def test_an_extractor_in_training_mode_is_refused():
    network = torch.nn.Flatten()
    for name, value in {"name": "mine", "fingerprint": "1", "dim": 6, "classes": ()}.items():
        setattr(network, name, value)
    with pytest.raises(LimnerError, match=r"Flatten is in training mode, .*; type extractor.eval"):
        check_attributes(network)
    check_attributes(network.eval())


@pytest.mark.parametrize("attribute", ["name", "fingerprint", "dim", "classes"])
@pytest.mark.parametrize("value", ["", None])
def test_an_extractor_with_an_empty_attribute_is_refused(attribute: str, value: str | None):
    network = torch.nn.Flatten().eval()
    values = {"name": "mine", "fingerprint": "1", "dim": 6, "classes": (), attribute: value}
    for name, given in values.items():
        setattr(network, name, given)
    with pytest.raises(LimnerError, match=f"^{attribute} of the extractor Flatten is missing or"):
        check_attributes(network)


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize(
    "found", [None, torch.zeros(64), {"a": torch.zeros(3)}, {"a": [0] * 64}, {"a": torch.tensor(0)}]
)
def test_an_observer_must_return_a_row_per_picture(found: object):
    class Own(Observer):
        name = fingerprint = "own"

        def look(self, pictures, numbers, pixels):
            return found

    real, observer = RealPictures(Shades(64)), Own()
    with pytest.raises(LimnerError, match="look of Own does not return a row for each of 64 pict"):
        Observations([(real, observer)]).of(real, observer)


def test_an_observer_may_return_parts_of_one_tensor():
    class Own(Observer):
        name = fingerprint = "own"

        def look(self, pictures, numbers, pixels):
            flat = pixels.float().flatten(1)
            return {"all": flat, "first": flat[:, :2], "same": flat}

    real, observer = RealPictures(Shades(64)), Own()
    rows = Observations([(real, observer)]).of(real, observer)
    assert torch.equal(rows["all"], rows["same"])
    assert torch.equal(rows["all"][:, :2], rows["first"])


@pytest.mark.usefixtures("unchecked_shapes")
@pytest.mark.parametrize("found", [None, torch.zeros(12), torch.zeros(12, 1), torch.zeros(1, 12)])
def test_similarity_must_be_a_matrix_of_pictures_and_captions(found: object):
    class Deaf(Eye):
        def similarity(self, images: Tensor, text: Tensor) -> object:  # pyright: ignore
            return found

    data = {"against": Shades(240, seed=1, training=False), "training": Shades(240)}
    with pytest.raises(LimnerError, match="similarity of eye must return the cosines of 12 pic"):
        evaluate(
            Painter(SPEC), n=100, metrics="retrieval", extractor=Deaf(), device="cpu", quiet=True,
            **data,
        )  # fmt: skip
