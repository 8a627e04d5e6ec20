"""Whether a subject gives back training pictures, beside what the meter makes of held-out ones."""

from functools import cached_property
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from limner.contract.errors import LimnerError
from limner.evaluate.cache import key
from limner.evaluate.metric import Metric
from limner.evaluate.metrics.memorisation import Memorisation, memorisation, suspects
from limner.evaluate.passes import BLOCK, Columns, Observer, Seen
from limner.evaluate.picture_sets import Numbers, PictureSet, Pixels, RealPictures
from limner.evaluate.report import SUBJECT, Number

_FEWEST_FOR_PERCENTILES = 100
_LEAST_SIDE = 5  # pictures are shifted by 2 pixels both ways
_PAIRS = 24
_MOST_PIXELS = 10**10  # of training pictures, once for each picture: about 40 s of one core


class SeenCopies(Observer):
    """How near each picture is to training pictures.

    Args:
        training: all pictures that models learn from.
    """

    lasting = True

    def __init__(self, training: RealPictures) -> None:
        self.training = training
        pixels = len(training) * training.spec.dimensions
        self.most = max(1, _MOST_PIXELS // pixels // BLOCK) * BLOCK
        self.name = "copies"
        self.fingerprint = key("copies", training.fingerprint, len(training), self.most)

    @cached_property
    def pixels(self) -> UInt8[Tensor, "m c h w"]:
        """All training pictures."""
        return self.training.pictures(torch.arange(len(self.training)))

    def look(self, pictures: PictureSet, numbers: Numbers, pixels: Pixels) -> Columns:
        """`nearest`, `first`, `second` and `own`, see `Memorisation`."""
        groups = self.training.groups(torch.arange(len(self.training)))
        try:
            return dict(vars(memorisation(pixels, self.pixels, groups)))
        except LimnerError:  # the training pictures are all alike: said when all pictures are seen
            unknown = torch.full((3, len(pixels)), torch.nan, dtype=torch.float64)
            nearest = torch.zeros(len(pixels), dtype=torch.int64)
            return {"nearest": nearest} | dict(zip(("first", "second", "own"), unknown.clone()))


class Copies(Metric):
    """Memorisation."""

    name = "memorisation"
    summary = "the share of pictures that are copies of training pictures, with a sheet of pairs"

    def refusal(self) -> str:
        """It is not known what models learn from, or it is too little."""
        training = self.setting.training
        if training is None:
            return f"{self.setting.reference.name} has no split that models learn from"
        if training.dataset.endless:
            return f"{training.name} never shows a picture twice, so there is nothing to copy"
        if len(training) < 2:
            return f"it needs at least 2 training pictures, and {training.name} has {len(training)}"
        if min(training.spec.shape[1:]) < _LEAST_SIDE:
            return f"it needs pictures of at least {_LEAST_SIDE} x {_LEAST_SIDE}"
        return ""

    @cached_property
    def observer(self) -> SeenCopies:
        """What compares."""
        assert self.setting.training is not None
        return SeenCopies(self.setting.training)

    @cached_property
    def sets(self) -> dict[str, PictureSet]:
        """The subject and as many held-out pictures, by their rows."""
        s = self.setting
        held_out = s.held_out and s.held_out.first(len(s.subject))
        real = {f"real ({held_out.name})": held_out} if held_out else {}
        return {SUBJECT: s.subject} | real

    def needs(self) -> list[tuple[PictureSet, Observer]]:
        """Both sets."""
        return [(pictures, self.observer) for pictures in self.sets.values()]

    def found(self, seen: Seen, pictures: PictureSet) -> Memorisation:
        """Of a set.

        Raises:
            LimnerError: the training pictures are alike, so that none is second nearest.
        """
        found = Memorisation(**seen.of(pictures, self.observer))
        if found.first.isnan().any():
            raise LimnerError(
                f"the pictures of {self.observer.training.name} are so alike that none is the "
                "second nearest, which memorisation is measured by"
            )
        return found

    def numbers(self, seen: Seen) -> list[Number]:
        """Three shares; those of held-out pictures are the meter's false positives."""
        found: list[Number] = []
        by_row = {row: self.found(seen, pictures) for row, pictures in self.sets.items()}
        held_out = [of for row, of in by_row.items() if row != SUBJECT]
        for row, of in by_row.items():
            n = len(of.first)
            shared: dict[str, Any] = {"row": row, "m": len(self.observer.training)}
            found.append(self.share("copied", of.share_copied, n, better="lower",
                                protocol="d1 / d2 < 1/3 in pixels, shifted by up to 2 and mirrored",
                                **shared))  # fmt: skip
            found.append(self.share("authentic", of.share_authentic, n, better="higher",
                                protocol="d1 > the nearest training picture's own distance",
                                **shared))  # fmt: skip
            if held_out and len(held_out[0].first) >= _FEWEST_FOR_PERCENTILES:
                found.append(self.share("closer than held-out", of.share_closer(held_out[0]),
                                    n, better="lower",
                                    protocol="d1 below the 1st percentile of held-out pictures'",
                                    **shared))  # fmt: skip
        return found

    def sheets(self, seen: Seen) -> dict[str, Pixels]:
        """The pairs that are most suspicious: a picture, and the training picture next to it."""
        subject = self.setting.subject
        of = self.found(seen, subject)
        worst = of.ratio.argsort(stable=True)[:_PAIRS]
        some = Memorisation(*(column[worst] for column in vars(of).values()))
        pixels = seen.pixels(subject, worst.tolist())
        return {"suspects": suspects(pixels, self.observer.pixels, some, _PAIRS)}
