"""The metrics of features and class scores: how like the real pictures, and how diverse.

Each stands beside what other real pictures read: as many as are judged, none of them in the
reference.
"""

from abc import abstractmethod
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from limner.evaluate.extractors.extractor import Extractor
from limner.evaluate.metric import Metric
from limner.evaluate.metrics import fid
from limner.evaluate.metrics import mind as monge
from limner.evaluate.metrics.fld import fld
from limner.evaluate.metrics.inception_score import inception_score
from limner.evaluate.metrics.kid import kid
from limner.evaluate.metrics.neighbours import density_coverage, precision_recall
from limner.evaluate.metrics.statistics import Estimate, Moments
from limner.evaluate.passes import MOST_FEATURES, Observer, Seen, SeenFeatures
from limner.evaluate.picture_sets import PictureSet, RealPictures
from limner.evaluate.report import SUBJECT, Number

_SPLITS = 10
_ENOUGH = 1000  # pictures: the fewest that the papers of MIND and FLD look at
_PARTS = {"IS": "inception_score", "sharpness": "sharpness", "diversity": "diversity"}


class OfFeatures(Metric):
    """What all metrics of an extractor share: the subject, the reference and other real pictures.

    Attributes:
        least: fewer pictures of the subject or of the reference have no value.
    """

    least: int = 2

    @cached_property
    def extractor(self) -> Extractor:
        """There is one, or `refusal` has said why not."""
        assert self.setting.extractor is not None
        return self.setting.extractor

    @cached_property
    def observer(self) -> SeenFeatures:
        """What sees the features."""
        return SeenFeatures(self.extractor)

    @cached_property
    def sets(self) -> dict[str, PictureSet]:
        """The subject, and other real pictures if there are enough of them, by their rows."""
        other = self.setting.other
        real = {f"real ({other.name})": other} if other and len(other) >= self.least else {}
        return {SUBJECT: self.setting.subject} | real

    def refusal(self) -> str:
        """No extractor fits, or there are too few pictures."""
        s = self.setting
        if s.extractor is None:
            return s.no_extractor
        for pictures in (s.subject, s.reference):
            if (n := len(pictures)) < self.least:
                return f"it needs at least {self.least} pictures, and {pictures.name} has {n}"
        return ""

    def extractors(self) -> list[Extractor]:
        """The one."""
        return [self.extractor]

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """The features of all sets."""
        return [(p, self.observer) for p in (*self.sets.values(), self.setting.reference)]

    def number(self, name: str, value: float | Estimate, n: int, **more: Any) -> Number:
        """By this extractor; an estimate comes with its interval."""
        if isinstance(value, Estimate):
            more |= {"low": value.low, "high": value.high}
            value = value.value
        return Number(self.name, name, value, n, extractor=self.extractor.name, **more)

    def called(self, inception: str, otherwise: str) -> str:
        """A number's name: papers mean Inception's features by FID and KID."""
        return inception if self.extractor.name.startswith("inception") else otherwise


class Frechet(OfFeatures):
    """The Frechet distance, its floor and its limit."""

    name = "fid"
    summary = "Frechet distance of features; its floor for so few pictures, and its limit"

    def doubt(self) -> str:
        """Few pictures are far apart whatever they show."""
        fewest = min(len(self.setting.subject), len(self.setting.reference))
        if fewest > self.extractor.dim:
            return ""
        return f"{fewest} pictures are too few for {self.extractor.dim} features; kid is for few"

    def numbers(self, seen: Seen) -> list[Number]:
        """The distance of each set to the reference, with its limit, and the floor."""
        reference = Moments.from_tensors(seen.of(self.setting.reference, self.observer))
        name, limit = self.called("FID", "FD"), self.called("FID-infinity", "FD-infinity")
        shared: dict[str, Any] = {"m": reference.n, "better": "lower"}
        found: list[Number] = []
        for row, pictures in self.sets.items():
            of = seen.of(pictures, self.observer)
            moments, features = Moments.from_tensors(of), of["features"]
            distance = fid.frechet_distance(moments, reference)
            if min(moments.n, reference.n) <= self.extractor.dim:
                few = "fewer pictures than features: only comparable at this n"
                found.append(
                    self.number(name, distance, moments.n, row=row, protocol=few, **shared)
                )
                continue
            more, limits = dict(shared), []
            if len(features) > 2 * self.extractor.dim:
                estimate = fid.extrapolated(features, reference)
                half = (estimate.high - estimate.low) / 2  # the jackknife's error is of both
                more |= {"low": distance - half, "high": distance + half}
                limits = [self.number(limit, estimate, len(features), row=row, sign="~", **shared)]
            found.append(self.number(name, distance, moments.n, row=row, **more))
            if row == SUBJECT:
                floor = fid.floor(reference.covariance, moments.n, reference.n)
                found.append(self.number(name, floor, moments.n, row="floor", sign="~", **shared))
            found += limits
        return found


class Kernel(OfFeatures):
    """The kernel distance."""

    name = "kid"
    summary = "kernel distance of features: unbiased, also for few pictures; may be negative"
    least = 10

    def numbers(self, seen: Seen) -> list[Number]:
        """The distance of each set to the reference."""
        reference = seen.of(self.setting.reference, self.observer)["features"]
        found: list[Number] = []
        for row, pictures in self.sets.items():
            features = seen.of(pictures, self.observer)["features"]
            shared: dict[str, Any] = {"row": row, "m": len(reference), "better": "lower"}
            distance = kid(features, reference)
            found.append(self.number(self.called("KID", "KD"), distance, len(features), **shared))
        return found


class Monge(OfFeatures):
    """The Monge distance and its floor."""

    name = "mind"
    summary = "sliced Wasserstein distance of features, for 1,000 pictures or more; its floor"
    least = 20

    def doubt(self) -> str:
        """The distance of few pictures is mostly its floor."""
        fewest = min(len(self.setting.subject), len(self.setting.reference))
        if fewest >= _ENOUGH:
            return ""
        return f"it is made for {_ENOUGH:,} pictures or more, not {fewest}; kid is for few"

    def numbers(self, seen: Seen) -> list[Number]:
        """The distance of each set to as many pictures of the reference, and the floor."""
        reference = seen.of(self.setting.reference, self.observer)["features"]
        name = self.called("MIND", "MD")
        found: list[Number] = []
        for row, pictures in self.sets.items():
            features = seen.of(pictures, self.observer)["features"]
            n = min(len(features), len(reference))
            shared: dict[str, Any] = {"m": n, "better": "lower"}
            shared["protocol"] = f"{monge.DIRECTIONS:,} directions"
            distance = monge.mind(features[:n], reference[:n])
            found.append(self.number(name, distance, n, row=row, **shared))
            if row == SUBJECT:
                floor = monge.floor(reference, n)
                found.append(self.number(name, floor, n, row="floor", sign="~", **shared))
        return found


class FeatureLikelihood(OfFeatures):
    """The feature likelihood divergence."""

    name = "fld"
    summary = "feature likelihood divergence: quality, diversity and novelty in one number"
    least = 10

    @cached_property
    def splits(self) -> dict[str, RealPictures | None]:
        """The pictures that models learn from, and those that they never see, at most 10,000."""
        s = self.setting
        pairs = {"training": s.training, "held-out": s.held_out}
        return {kind: real and real.first(MOST_FEATURES) for kind, real in pairs.items()}

    def refusal(self) -> str:
        """It needs both splits."""
        for kind, real in self.splits.items():
            if real is None:
                return f"it needs {kind} pictures, and {self.setting.reference.name} has none"
            if len(real) < self.least:
                return f"it needs at least {self.least} {kind} pictures, and there are {len(real)}"
        return super().refusal()

    def doubt(self) -> str:
        """Few pictures leave most of the space of features empty."""
        sizes = {"judged": len(self.setting.subject)}
        sizes |= {kind: len(real) for kind, real in self.splits.items() if real}
        kind = min(sizes, key=sizes.__getitem__)
        if sizes[kind] >= _ENOUGH:
            return ""
        return f"it is made for {_ENOUGH:,} pictures of each kind or more, not {sizes[kind]} {kind}"

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """The features of the subject and of both splits."""
        sets = (self.setting.subject, *filter(None, self.splits.values()))
        return [(pictures, self.observer) for pictures in sets]

    def numbers(self, seen: Seen) -> list[Number]:
        """FLD and the gap of the subject, and the FLD of other training pictures."""
        training, held_out = self.splits["training"], self.splits["held-out"]
        assert self.setting.training is not None and training is not None and held_out is not None
        train, test, features = (
            seen.of(pictures, self.observer)["features"]
            for pictures in (training, held_out, self.setting.subject)
        )
        found = fld(train, test, features)
        n, of = len(features), len(self.setting.training.dataset)
        shared: dict[str, Any] = {"m": len(test)}
        shared["protocol"] = f"variances fitted to {len(train):,} of {of:,} training pictures"
        numbers = [
            self.number("FLD", found.fld, n, better="lower", **shared),
            self.number("FLD gap", found.gap, n, **shared),
        ]
        if found.real is not None:
            row = f"real ({training.name})"
            numbers.append(self.number("FLD", found.real, n, row=row, better="lower", **shared))
        return numbers


class Neighbours(OfFeatures):
    """Two shares by nearest neighbours, of equally many pictures and real ones."""

    k: int
    names: tuple[str, str]

    @abstractmethod
    def shares(self, real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]) -> tuple[float, float]:
        """The two."""

    def numbers(self, seen: Seen) -> list[Number]:
        """Both of each set; the more, the stricter, and so equally many are compared."""
        reference = seen.of(self.setting.reference, self.observer)["features"]
        found: list[Number] = []
        for row, pictures in self.sets.items():
            features = seen.of(pictures, self.observer)["features"]
            n = min(len(features), len(reference))
            shared: dict[str, Any] = {"row": row, "m": n, "protocol": f"{self.k} neighbours"}
            shared |= {"extractor": self.extractor.name, "better": "higher"}
            for name, value in zip(self.names, self.shares(reference[:n], features[:n])):
                if name == "density":  # is no share: it may exceed 1
                    found.append(Number(self.name, name, value, n, **shared))
                else:
                    found.append(self.share(name, value, n, **shared))
        return found


class PrecisionRecall(Neighbours):
    """Precision and recall."""

    name = "precision-recall"
    summary = "the share of pictures that lie among real ones, and of real ones among pictures"
    least = 4
    k = 3
    names = ("precision", "recall")

    def shares(self, real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]) -> tuple[float, float]:
        """The two."""
        precision, recall = precision_recall(real, fake, self.k)
        return precision, recall


class DensityCoverage(Neighbours):
    """Density and coverage."""

    name = "density-coverage"
    summary = "how crowded the pictures are with real ones, and how many of those have one near"
    least = 6
    k = 5
    names = ("density", "coverage")

    def shares(self, real: Float[Tensor, "n d"], fake: Float[Tensor, "n d"]) -> tuple[float, float]:
        """The two."""
        density, coverage = density_coverage(real, fake, self.k)
        return density, coverage


class Inception(OfFeatures):
    """The Inception Score with its factors, sharpness and diversity."""

    name = "is"
    summary = "sharpness x diversity of class scores, in 10 splits and in one"
    least = _SPLITS

    def refusal(self) -> str:
        """Not of an extractor without classes, nor of fewer pictures than splits."""
        why = super().refusal()
        if not why and not self.setting.has_logits:
            return f"{self.extractor.name} knows no classes"
        return why

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """The class scores of the subject and of the reference."""
        return [(p, self.observer) for p in (self.setting.subject, self.setting.reference)]

    def numbers(self, seen: Seen) -> list[Number]:
        """IS and its factors, in ten splits and in one, of as many pictures of the reference."""
        s = self.setting
        logits = seen.of(s.subject, self.observer)["logits"]
        real = seen.of(s.reference, self.observer)["logits"][: len(logits)]
        found: list[Number] = []
        for splits, kind in ((_SPLITS, ""), (1, " (1 split)")):
            for row, rows in ((SUBJECT, logits), (f"real ({s.reference.name})", real)):
                score = inception_score(rows, splits)
                for name, part in _PARTS.items():
                    shared: dict[str, Any] = {"row": row, "better": "higher"}
                    if splits > 1:
                        shared["error"] = getattr(score.deviation, part)
                        shared["parts"] = tuple(getattr(split, part) for split in score.splits)
                        shared["protocol"] = f"mean of {splits} splits ± their deviation"
                    value = getattr(score.mean, part)
                    found.append(self.number(name + kind, value, len(rows), **shared))
        return found
