"""`limner score`: how likely is a picture under a model, compared with real pictures?

A picture is read like the model's data (size, colours, levels) and scored without a condition. Its
score is compared with those of real pictures, computed in the same way: see `typicality`.
"""

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float64, Int, UInt8
from PIL import Image
from torch import Tensor

from limner.contract.bundled import bundled_models
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, to_uint8
from limner.contract.likelihood import KINDS, Kind, Likelihood, LikelihoodModel
from limner.contract.noise import Noise, Purpose
from limner.contract.registry import models
from limner.data.dataset import Dataset
from limner.data.decode import (
    BYTE_CAP,
    PictureHeader,
    UndecodableError,
    header,
    is_grey,
    read_with,
    to_pixels,
)
from limner.evaluate.metrics.likelihood import LikelihoodObserver, kind_of
from limner.evaluate.passes import Observations
from limner.evaluate.picture_sets import Numbers, RealPictures
from limner.evaluate.subject import Candidate, check_alike, open_reference, open_subject
from limner.evaluate.tables import align_columns
from limner.evaluate.typicality import Typicality, typicality
from limner.runtime import processes
from limner.runtime.cache import cache_folder, cache_key, keep_tensors, load_kept
from limner.runtime.progress import painting_progress, say

DEFAULT_PICTURES = 1000
"""The default number of real pictures that are scored."""
_NO_NUMBER = -1  # the number of a picture that is not one of the data set


@dataclass(frozen=True)
class PictureScore:
    """The score of a picture.

    Args:
        name: the name of its file.
        bits: bits per dimension.
        typicality: its log-likelihood, compared with those of real pictures.
        changed: how it was changed to fit the model's data; empty if it was not.
    """

    name: str
    bits: float
    typicality: Typicality
    changed: str = ""


@dataclass(frozen=True)
class Scores:
    """The result of `score`.

    Args:
        model: the name of the model as it was typed.
        against: the name of the real pictures.
        n: the number of real pictures.
        mean, deviation: mean and standard deviation of their log-likelihoods, in nats.
        kind: whether likelihoods are exact, lower bounds or estimates.
        protocol: the model's description of its likelihoods.
        pictures: a score for each picture that could be read.
        failed: the pictures that could not be read, and why.
        remarks: remarks that matter for the interpretation of the numbers.
    """

    model: str
    against: str
    n: int
    mean: float
    deviation: float
    kind: Kind
    protocol: str
    pictures: tuple[PictureScore, ...]
    failed: dict[str, str] = field(default_factory=dict[str, str])
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the verdict of each picture in words; log p = -inf is null."""
        document = asdict(self)
        for picture, scored in zip(document["pictures"], self.pictures):
            t = scored.typicality
            picture["typicality"] |= {"verdict": t.verdict, "sentence": t.sentence()}
        return _finite(document)

    def text(self) -> str:
        """Return a table for the terminal."""
        nats, bits = KINDS[self.kind]
        rows = [("picture", "log-likelihood", "bits/dim", "percentile", "p", "verdict")]
        for picture in self.pictures:
            t = picture.typicality
            rows.append((
                picture.name, f"{nats} {t.nats:,.1f} nats", f"{bits} {picture.bits:.4g}",
                f"{t.percentile:.1f}", f"{t.p:.2g}", t.sentence(),
            ))  # fmt: skip
        mean = f"{self.mean:,.1f} nats on average, deviation {self.deviation:,.1f}"
        lines = [
            f"{self.model}, among {self.n:,} real pictures of {self.against}, whose log p is "
            + (mean if nats == "=" else f"{nats} {mean}")
            + (f" ({self.protocol})" if self.protocol else ""),
            "",
            *align_columns(rows),
        ]
        changes = [f"{each.name}: {each.changed}" for each in self.pictures if each.changed]
        remarks = [f"remark: {line}" for line in self.remarks]
        return "\n".join([*lines, *([""] if changes or remarks else []), *changes, *remarks])


def score(
    model: str | Path,
    images: Sequence[Path | str],
    *,
    against: str | None = None,
    n: int = DEFAULT_PICTURES,
    data: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Scores:
    """Score how likely pictures are under a model, compared with real ones.

    The scores of the real pictures are cached, in the folder `scores` of the run or, if the model
    is not a run, in the cache folder. The file name depends on the model and the pictures.

    Args:
        model: a bundled model, a run or model folder, or a model file.
        images: the files of the pictures.
        against: a source of real pictures; None for the source that the model was trained on. A
            held-out split is used if there is one.
        n: the largest number of real pictures.
        data: options of the source; they override those of the model's recipe.
        device: the device to compute on.

    Raises:
        LimnerError: a model without likelihoods, or one that needs a condition; no source; no file
            that can be read.
    """
    scorer = Scorer.open(model, against, n, data or {}, device)
    pictures, failed, pixels = [], {}, []
    for image in images:
        try:
            pixels.append((str(image), *scorer.read(Path(image))))
        except LimnerError as error:
            failed[str(image)] = str(error)
    if not pixels:
        raise LimnerError("; ".join(failed.values()) or "name the pictures to score")
    real, kind = scorer.reference()
    for name, x, changed in pixels:
        nats = float(scorer.log_p(x, [_NO_NUMBER]).nats)
        bits = -nats / (scorer.model.spec.dimensions * math.log(2))
        pictures.append(PictureScore(name, bits, typicality(nats, real), changed))
    return Scores(
        model=str(model),
        against=scorer.real.name,
        n=len(real),
        mean=float(real.mean()),
        deviation=float(real.std(correction=0)),
        kind=kind,
        protocol=scorer.model.likelihood_protocol(),
        pictures=tuple(pictures),
        failed=failed,
        remarks=scorer.remarks,
    )


@dataclass(frozen=True)
class Scorer:
    """A likelihood model and the real pictures that its scores are compared with.

    Args:
        candidate: the opened model, with the recipe of its training.
        model: the same model.
        real: the real pictures.
        options: the options of their source.
        remarks: remarks on the model and the real pictures.
    """

    candidate: Candidate
    model: LikelihoodModel
    real: RealPictures
    options: dict[str, Any]
    remarks: tuple[str, ...]

    @classmethod
    def open(
        cls, model: str | Path, against: str | None, n: int, data: Mapping[str, Any], device: str
    ) -> "Scorer":
        """Open a model and its real pictures; arguments and errors are those of `score`."""
        if n < 2:
            raise LimnerError(f"give at least 2 real pictures, not {n}")
        candidate = open_subject(model, data, processes.device(device))
        likelihood_model = _likelihood_model(candidate)
        reference = open_reference(against, data, candidate)
        use_reference = "split" in data or reference.held_out is None
        real = reference.real if use_reference else cast(RealPictures, reference.held_out)
        check_alike(candidate.name, likelihood_model.spec, real, paints=True)
        remarks: list[str] = []
        source, real_source = candidate.data.get("source"), real.dataset.source
        if source and source != real_source:
            remarks.append(f"{candidate.name} was trained on {source}, not on {real_source}")
        elif real.dataset.training:
            remarks.append(
                f"the model learnt from {real.name}, so these pictures are likelier than new ones"
            )
        return cls(candidate, likelihood_model, real.first(n), reference.options, tuple(remarks))

    def log_p(self, x: Images, numbers: Sequence[int] | Numbers) -> Likelihood:
        """Compute log p of pictures without a condition, in float64.

        Args:
            x: the pictures, on the grid of the model's levels.
            numbers: the numbers of their random streams.

        Raises:
            LimnerError: log p is NaN.
        """
        device = self.model.device
        streams = Noise.keyed(0, Purpose.SCORE, numbers, str(device))
        with torch.no_grad():
            nats, kind, _ = self.model.log_prob(x.to(device), Condition(), noise=streams)
        nats = nats.double().cpu()
        if nats.isnan().any():
            raise LimnerError(f"{self.candidate.name} returns NaN for the likelihood of a picture")
        return Likelihood(nats, kind)

    def reference(self) -> tuple[Float64[Tensor, "n"], Kind]:
        """Return log p of the real pictures and its kind; it is computed once.

        Raises:
            LimnerError: a real picture has no finite likelihood.
        """
        pictures = self.real.first(len(self.real))
        platform = [self.model.device.type, str(torch.__version__)]
        observer = LikelihoodObserver(
            lambda real, numbers: self.log_p(real.images(numbers), numbers),
            cache_key("alone", self.candidate.fingerprint, platform),
        )
        name = cache_key("scores", observer.fingerprint, pictures.fingerprint, len(pictures))
        path = (self.candidate.run or cache_folder()) / "scores" / f"{name}.safetensors"
        records = load_kept(path)
        if records is None:
            pictures.fingerprint = name  # a separate work folder from that of evaluations
            observations = Observations([(pictures, observer)])
            with painting_progress(observations.count_waiting(), "scoring real") as advance:
                observations.do_share(advance)
            records = observations.of(pictures, observer)
            try:
                keep_tensors(path, records)
            except LimnerError:
                say(f"{path.parent} cannot be written, so the scores are computed each time")
            observations.discard()
        return records["nats"], kind_of(records)

    def read(self, path: Path) -> tuple[Images, str]:
        """Read a picture like the model's data, "1 c h w"; also return in words what was changed.

        Raises:
            LimnerError: the file does not exist, or is not a valid picture.
        """
        if path.is_dir():
            raise LimnerError(f"'{path}' is a folder; name pictures, as in {path}/*.png")
        if not path.is_file():
            raise LimnerError(f"there is no file '{path}'")
        if path.stat().st_size > BYTE_CAP:
            raise LimnerError(f"'{path}' is larger than {BYTE_CAP >> 20} MB")
        channels, height, width = self.model.spec.shape
        fit, load_size = self.options.get("fit", "crop"), self.options.get("load_size")

        def header_and_pixels(image: Image.Image) -> tuple[PictureHeader, UInt8[Tensor, "c h w"]]:
            head = header(image)
            is_resized = (head.height, head.width) != (height, width)
            h, w = (load_size, load_size) if load_size and is_resized else (height, width)
            picture = to_pixels(image, channels=channels, height=h, width=w, fit=fit)
            top, left = (h - height) // 2, (w - width) // 2
            return head, picture[:, top : top + height, left : left + width]

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # warnings of Pillow
                head, pixels = read_with(partial(path.open, "rb"), header_and_pixels)
        except UndecodableError as reason:
            raise LimnerError(f"'{path}' cannot be read: {reason}") from None
        changes: list[str] = []
        if (head.height, head.width) != (height, width):
            changes.append(f"at {height} x {width} instead of {head.height} x {head.width}")
        if channels == 1 and not is_grey(head.mode):
            changes.append("in grey")
        dataset = _SinglePicture(pixels, self.real.dataset)
        x = dataset.images(torch.tensor([0]), Noise.keyed(0, Purpose.SCORE, [_NO_NUMBER]))
        if not torch.equal(to_uint8(x)[0], pixels):
            changes.append(f"in {self.model.spec.levels} levels")
        return x, f"seen {', '.join(changes)}" if changes else ""


class _SinglePicture(Dataset):
    """A data set of one given picture, requantised and binarised like another data set."""

    def __init__(self, pixels: UInt8[Tensor, "c h w"], dataset: Dataset) -> None:
        self.spec, self.training = dataset.spec, False
        self.dynamic, self.floors = dataset.dynamic, dataset.floors
        self._pixels = pixels[None]

    def __len__(self) -> int:
        return len(self._pixels)

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """Return the picture."""
        return self._pixels[indices]


def _finite(value: Any) -> Any:
    """Return plain values for JSON, with None in place of infinity."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in cast(dict[str, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in cast(list[Any], value)]
    return None if value in (math.inf, -math.inf) else value


def _likelihood_model(candidate: Candidate) -> LikelihoodModel:
    """Return the model, after checking that it has a likelihood without a condition.

    Raises:
        LimnerError: it has no likelihood, or it needs a condition.
    """
    model = candidate.model
    if model is None:
        raise LimnerError(f"{candidate.name} are pictures; name a model first, then pictures")
    if not isinstance(model, LikelihoodModel):
        raise LimnerError(
            f"{candidate.name} has no likelihood of pictures: its model is {model.name}; "
            f"{_models_with_likelihood()}"
        )
    if model.condition == "required":
        raise LimnerError(
            f"{candidate.name} needs a condition, such as a class or a caption, and limner score "
            f"has none; use limner evaluate {candidate.name} --metrics likelihood"
        )
    return model


def _models_with_likelihood() -> str:
    """List the models with likelihoods: those that can be trained, and those that are bundled."""
    from limner.contract.checkpoint import model_file, read_header

    types = [name for name, entry in models().items() if issubclass(entry.model, LikelihoodModel)]
    names = [
        n for n, path in bundled_models().items() if read_header(model_file(path)).model in types
    ]
    text = f"these have one: {', '.join(types)}" if types else "no model has one"
    return f"{text}; of the bundled ones: {', '.join(names)}" if names else f"{text}, once trained"
