"""`limner score`: how likely is this picture to a model, among real pictures?

A picture is read as the model's data are (size, colours, levels), scored without being told what it
shows, and placed among real pictures that were scored in the same way: see `typicality`.
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

from limner.contract.bundled import bundled
from limner.contract.errors import LimnerError
from limner.contract.image import Condition, Images, to_uint8
from limner.contract.likelihood import KINDS, Kind, Likelihood, LikelihoodModel
from limner.contract.noise import Noise, Purpose
from limner.contract.registry import models
from limner.data.dataset import Dataset
from limner.data.decode import (
    BYTE_CAP,
    Header,
    UndecodableError,
    header,
    is_grey,
    reading,
    to_pixels,
)
from limner.evaluate.metrics.likelihood import LikelihoodObserver, kind_of
from limner.evaluate.passes import Seen
from limner.evaluate.picture_sets import Numbers, RealPictures
from limner.evaluate.subject import Candidate, check_alike, open_reference, open_subject
from limner.evaluate.tables import align
from limner.evaluate.typicality import Typicality, typicality
from limner.runtime import processes
from limner.runtime.cache import cache_folder, keep, kept, key
from limner.runtime.progress import painting_progress, say

PICTURES = 1000
"""So many real pictures are scored, unless said otherwise."""
_ALONE = -1  # the number of a picture that is none of the data's


@dataclass(frozen=True)
class Scored:
    """A picture's score.

    Args:
        name: of its file.
        bits: per dimension.
        typicality: its log-likelihood, among those of real pictures.
        changed: what was done to it before the model saw it; empty where nothing was.
    """

    name: str
    bits: float
    typicality: Typicality
    changed: str = ""


@dataclass(frozen=True)
class Scores:
    """What `score` found.

    Args:
        model: as it was typed.
        against: the real pictures.
        n: how many of them.
        mean, deviation: of their log-likelihoods, in nats.
        kind: whether likelihoods are exact, lower bounds or estimates.
        protocol: what the model says of them.
        pictures: a score for each picture that could be read.
        failed: the others, and why.
        remarks: what to know before the numbers are believed.
    """

    model: str
    against: str
    n: int
    mean: float
    deviation: float
    kind: Kind
    protocol: str
    pictures: tuple[Scored, ...]
    failed: dict[str, str] = field(default_factory=dict[str, str])
    remarks: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the verdict of each picture in words; log p = -inf is null."""
        document = asdict(self)
        for each, scored in zip(document["pictures"], self.pictures):
            t = scored.typicality
            each["typicality"] |= {"verdict": t.verdict, "sentence": t.sentence()}
        return _finite(document)

    def text(self) -> str:
        """A table to read on a terminal."""
        nats, bits = KINDS[self.kind]
        rows = [("picture", "log-likelihood", "bits/dim", "percentile", "p", "verdict")]
        for each in self.pictures:
            t = each.typicality
            rows.append((
                each.name, f"{nats} {t.nats:,.1f} nats", f"{bits} {each.bits:.4g}",
                f"{t.percentile:.1f}", f"{t.p:.2g}", t.sentence(),
            ))  # fmt: skip
        mean = f"{self.mean:,.1f} nats on average, deviation {self.deviation:,.1f}"
        lines = [
            f"{self.model}, among {self.n:,} real pictures of {self.against}, of which log p is "
            + (mean if nats == "=" else f"{nats} {mean}")
            + (f" ({self.protocol})" if self.protocol else ""),
            "",
            *align(rows),
        ]
        changed = [f"{each.name}: {each.changed}" for each in self.pictures if each.changed]
        remarks = [f"remark: {line}" for line in self.remarks]
        return "\n".join([*lines, *([""] if changed or remarks else []), *changed, *remarks])


def score(
    model: str | Path,
    images: Sequence[Path | str],
    *,
    against: str | None = None,
    n: int = PICTURES,
    data: Mapping[str, Any] | None = None,
    device: str = "auto",
) -> Scores:
    """How likely pictures are to a model, among real ones.

    The scores of the real pictures are kept, in the run's folder `scores` or, where the model is
    not a run, in the cache, under a name made of the model and the pictures.

    Args:
        model: a bundled model, a run or model folder, or a model file.
        images: files.
        against: a source of real pictures; None for what the model was trained on. A part that it
            was not trained on is taken where there is one.
        n: how many real pictures, at most.
        data: options of the source, over those of the model's recipe.
        device: where.

    Raises:
        LimnerError: a model without likelihoods, or one that must be told what a picture is of; no
            source; no file that can be read.
    """
    scorer = Scorer.open(model, against, n, data or {}, device)
    scored, failed, pixels = [], {}, []
    for image in images:
        try:
            pixels.append((str(image), *scorer.read(Path(image))))
        except LimnerError as error:
            failed[str(image)] = str(error)
    if not pixels:
        raise LimnerError("; ".join(failed.values()) or "name the pictures that are to be scored")
    real, kind = scorer.reference()
    for name, x, changed in pixels:
        nats = float(scorer.log_p(x, [_ALONE]).nats)
        bits = -nats / (scorer.model.spec.dimensions * math.log(2))
        scored.append(Scored(name, bits, typicality(nats, real), changed))
    return Scores(
        model=str(model),
        against=scorer.real.name,
        n=len(real),
        mean=float(real.mean()),
        deviation=float(real.std(correction=0)),
        kind=kind,
        protocol=scorer.model.likelihood_protocol(),
        pictures=tuple(scored),
        failed=failed,
        remarks=scorer.remarks,
    )


@dataclass(frozen=True)
class Scorer:
    """A likelihood model and the real pictures that its scores are compared with.

    Args:
        opened: the model, with how it was trained.
        model: the same.
        real: the pictures.
        options: of their source.
        remarks: what to know of them.
    """

    opened: Candidate
    model: LikelihoodModel
    real: RealPictures
    options: dict[str, Any]
    remarks: tuple[str, ...]

    @classmethod
    def open(
        cls, model: str | Path, against: str | None, n: int, data: Mapping[str, Any], device: str
    ) -> "Scorer":
        """Arguments and errors as for `score`."""
        if n < 2:
            raise LimnerError(f"give at least 2 real pictures, not {n}")
        opened = open_subject(model, data, processes.device(device))
        found = _likelihood_model(opened)
        reference = open_reference(against, data, opened)
        chosen = "split" in data or reference.held_out is None
        real = reference.real if chosen else cast(RealPictures, reference.held_out)
        check_alike(opened.name, found.spec, real, paints=True)
        remarks = []
        if real.dataset.training:
            remarks.append(f"{real.name} is what the model learnt from, and likelier than new ones")
        trained, source = opened.data.get("source"), real.dataset.source
        if trained and trained != source:
            remarks.append(f"{opened.name} was trained on {trained}, not on {source}")
        return cls(opened, found, real.first(n), reference.options, tuple(remarks))

    def log_p(self, x: Images, numbers: Sequence[int] | Numbers) -> Likelihood:
        """log p of pictures that the model is told nothing of, in float64.

        Args:
            x: on the grid of the model's levels.
            numbers: of their random streams.

        Raises:
            LimnerError: NaN.
        """
        device = self.model.device
        streams = Noise.keyed(0, Purpose.SCORE, numbers, str(device))
        with torch.no_grad():
            nats, kind, _ = self.model.log_prob(x.to(device), Condition(), noise=streams)
        nats = nats.double().cpu()
        if nats.isnan().any():
            raise LimnerError(f"{self.opened.name} gives a picture no likelihood (NaN)")
        return Likelihood(nats, kind)

    def reference(self) -> tuple[Float64[Tensor, "n"], Kind]:
        """log p of the real pictures, and how it is to be read; computed once.

        Raises:
            LimnerError: a real picture has no finite likelihood.
        """
        pictures = self.real.first(len(self.real))
        where = [self.model.device.type, str(torch.__version__)]
        observer = LikelihoodObserver(
            lambda real, numbers: self.log_p(real.images(numbers), numbers),
            key("alone", self.opened.fingerprint, where),
        )
        name = key("scores", observer.fingerprint, pictures.fingerprint, len(pictures))
        path = (self.opened.run or cache_folder()) / "scores" / f"{name}.safetensors"
        found = kept(path)
        if found is None:
            pictures.fingerprint = name  # a folder of its own for the work, apart from evaluations'
            seen = Seen([(pictures, observer)])
            with painting_progress(seen.waiting(), "scoring real") as advance:
                seen.do_share(advance)
            found = seen.of(pictures, observer)
            try:
                keep(path, found)
            except LimnerError:
                say(f"{path.parent} cannot be written, and so the scores are computed each time")
            seen.discard()
        return found["nats"], kind_of(found)

    def read(self, path: Path) -> tuple[Images, str]:
        """A picture as the model's data are, "1 c h w", and in words what was changed.

        Raises:
            LimnerError: no file, or no sound picture.
        """
        if path.is_dir():
            raise LimnerError(f"'{path}' is a folder; name pictures, as in {path}/*.png")
        if not path.is_file():
            raise LimnerError(f"there is no file '{path}'")
        if path.stat().st_size > BYTE_CAP:
            raise LimnerError(f"'{path}' is larger than {BYTE_CAP >> 20} MB")
        channels, height, width = self.model.spec.shape
        fit, large = self.options.get("fit", "crop"), self.options.get("load_size")

        def both(image: Image.Image) -> tuple[Header, UInt8[Tensor, "c h w"]]:
            head = header(image)
            other = (head.height, head.width) != (height, width)
            h, w = (large, large) if large and other else (height, width)
            whole = to_pixels(image, channels=channels, height=h, width=w, fit=fit)
            top, left = (h - height) // 2, (w - width) // 2
            return head, whole[:, top : top + height, left : left + width]

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's
                head, pixels = reading(partial(path.open, "rb"), both)
        except UndecodableError as reason:
            raise LimnerError(f"'{path}' cannot be read: {reason}") from None
        changes: list[str] = []
        if (head.height, head.width) != (height, width):
            changes.append(f"at {height} x {width} instead of {head.height} x {head.width}")
        if channels == 1 and not is_grey(head.mode):
            changes.append("in grey")
        given = _Given(pixels, self.real.dataset)
        x = given.images(torch.tensor([0]), Noise.keyed(0, Purpose.SCORE, [_ALONE]))
        if not torch.equal(to_uint8(x)[0], pixels):
            changes.append(f"in {self.model.spec.levels} levels")
        return x, f"seen {', '.join(changes)}" if changes else ""


class _Given(Dataset):
    """A picture that was given, requantised and binarised as those of a data set."""

    def __init__(self, pixels: UInt8[Tensor, "c h w"], like: Dataset) -> None:
        self.spec, self.training = like.spec, False
        self.dynamic, self.floors = like.dynamic, like.floors
        self._pixels = pixels[None]

    def __len__(self) -> int:
        return len(self._pixels)

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """The picture."""
        return self._pixels[indices]


def _finite(value: Any) -> Any:
    """The same as JSON has it, null in place of infinity."""
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in cast(dict[str, Any], value).items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in cast(list[Any], value)]
    return None if value in (math.inf, -math.inf) else value


def _likelihood_model(opened: Candidate) -> LikelihoodModel:
    """The model that says how likely a picture is.

    Raises:
        LimnerError: there is none, with those that there are; or it must be told what it sees.
    """
    model = opened.model
    if model is None:
        raise LimnerError(f"{opened.name} are pictures; name a model first, then pictures")
    if not isinstance(model, LikelihoodModel):
        raise LimnerError(
            f"{opened.name} does not say how likely a picture is: its model is {model.name}; "
            f"{_models_with_likelihood()}"
        )
    if model.condition == "required":
        raise LimnerError(
            f"{opened.name} must be told what a picture is of, and limner score tells nothing; use "
            f"limner evaluate {opened.name} --metrics likelihood"
        )
    return model


def _models_with_likelihood() -> str:
    """The models that have likelihoods: those that can be trained, and those that are bundled."""
    from limner.contract.checkpoint import model_file, read_header

    known = [name for name, of in models().items() if issubclass(of.model, LikelihoodModel)]
    ready = [n for n, at in bundled().items() if read_header(model_file(at)).model in known]
    said = f"these do: {', '.join(known)}" if known else "no model does"
    return f"{said}; of the bundled ones: {', '.join(ready)}" if ready else f"{said}, once trained"
