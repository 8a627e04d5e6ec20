"""Trained judges as extractors."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limner.contract.checkpoint import digest_tensors
from limner.contract.errors import LimnerError
from limner.contract.image import from_uint8
from limner.evaluate.extractors.extractor import (
    Features,
    Pixels,
    Precision,
    grey,
    name_at_precision,
    to_rgb,
)
from limner.evaluate.judges.judge import Detections, Detector, ImageTextJudge, Judge
from limner.evaluate.own_code import code_of


class JudgeExtractor:
    """A judge as an extractor; pictures of another size are stretched to its own, antialiased.

    Args:
        judge: a trained one.
        name: of this judge.
        dtype: in which it computes.
        learnt: the source that it was trained on; empty where that is unknown.
    """

    def __init__(
        self, judge: Judge, name: str, dtype: Precision = "float32", learnt: str = ""
    ) -> None:
        self.name = name_at_precision(name, dtype)
        self.learnt = learnt
        self.judge = judge.eval()
        self.spec = judge.spec
        self.half = dtype == "bfloat16"
        size = f"{self.spec.height} x {self.spec.width}"
        own = code_of(type(judge), library=False)  # a class with the same weights may see others
        self.fingerprint = digest_tensors(judge.state_dict(), f"{size}, bicubic, {dtype}{own}")
        self.classes = self.spec.labels
        self.dim = self(torch.zeros(1, *self.spec.shape, dtype=torch.uint8)).features.shape[1]

    @torch.inference_mode()
    def __call__(self, images: Pixels) -> Features:
        """The judge's features and logits."""
        features = self._features(images)
        logits = self.judge.logits(features)
        return Features(features, None if logits is None else logits.float())

    def _features(self, images: Pixels) -> Float[Tensor, "b d"]:
        x = self._input(images)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            found: object = self.judge.features(x)
        if not isinstance(found, Tensor) or found.dim() != 2 or len(found) != len(x):
            is_tensor = isinstance(found, Tensor)
            given = f"shape {tuple(found.shape)}" if is_tensor else type(found).__name__
            raise LimnerError(
                f"features of {type(self.judge).__name__} gives {given} for {len(x)} pictures; "
                "return a row for each, b x d"
            )
        return found.float()

    def _input(self, images: Pixels) -> Float[Tensor, "b d i j"]:
        """Pictures as the judge takes them."""
        see = grey if self.spec.channels == 1 else to_rgb
        x = from_uint8(see(images.to(self.judge.device), self.name))
        size = (self.spec.height, self.spec.width)
        if x.shape[2:] != size:
            x = F.interpolate(x, size, mode="bicubic", antialias=True).clamp(-1, 1)
        return x


class ImageTextExtractor(JudgeExtractor):
    """A judge of pictures and captions as an extractor."""

    def __init__(
        self, judge: ImageTextJudge, name: str, dtype: Precision = "float32", learnt: str = ""
    ) -> None:
        super().__init__(judge, name, dtype, learnt)
        assert judge.spec.text is not None, "a judge of captions has a word table"
        self.judge: ImageTextJudge = judge
        self.text = judge.spec.text

    @torch.inference_mode()
    def similarity(self, images: Pixels, text: Int[Tensor, "k l"]) -> Float[Tensor, "b k"]:
        """How well each picture shows what each caption says: cosines, from -1 to 1."""
        return self.judge.cosines(self._features(images), text.to(self.judge.device)).float()


class DetectorExtractor(JudgeExtractor):
    """A detector as an extractor."""

    def __init__(
        self, judge: Detector, name: str, dtype: Precision = "float32", learnt: str = ""
    ) -> None:
        super().__init__(judge, name, dtype, learnt)
        assert judge.spec.hint is not None, "a detector knows kinds of objects"
        self.judge: Detector = judge
        self.kinds = judge.spec.hint.labels

    @torch.inference_mode()
    def detect(self, images: Pixels) -> Detections:
        """The objects in each picture, the surest first."""
        x = self._input(images)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            return self.judge.detect(x)
