"""Extractors that use trained judges."""

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
from limner.evaluate.source_code import code_of


class JudgeExtractor:
    """An extractor that uses a judge; pictures are stretched to its size, antialiased.

    Args:
        judge: a trained judge.
        name: the name of this judge.
        dtype: the precision of the computation.
        source: the source that it was trained on; empty if unknown.
    """

    def __init__(
        self, judge: Judge, name: str, dtype: Precision = "float32", source: str = ""
    ) -> None:
        self.name = name_at_precision(name, dtype)
        self.source = source
        self.judge = judge.eval()
        self.spec = judge.spec
        self.half = dtype == "bfloat16"
        size = f"{self.spec.height} x {self.spec.width}"
        code = code_of(type(judge), library=False)  # other code may see other features
        self.fingerprint = digest_tensors(judge.state_dict(), f"{size}, bicubic, {dtype}{code}")
        self.classes = self.spec.labels
        self.dim = self(torch.zeros(1, *self.spec.shape, dtype=torch.uint8)).features.shape[1]

    @torch.inference_mode()
    def __call__(self, images: Pixels) -> Features:
        """Compute the judge's features and logits."""
        features = self._features(images)
        logits = self.judge.logits(features)
        return Features(features, None if logits is None else logits.float())

    def _features(self, images: Pixels) -> Float[Tensor, "b d"]:
        x = self._input(images)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            features: object = self.judge.features(x)
        if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(x):
            is_tensor = isinstance(features, Tensor)
            actual = f"shape {tuple(features.shape)}" if is_tensor else type(features).__name__
            raise LimnerError(
                f"features of {type(self.judge).__name__} returns {actual} for {len(x)} pictures; "
                "return a row for each, b x d"
            )
        return features.float()

    def _input(self, images: Pixels) -> Float[Tensor, "b d i j"]:
        """Convert pictures to the judge's input."""
        convert = grey if self.spec.channels == 1 else to_rgb
        x = from_uint8(convert(images.to(self.judge.device), self.name))
        size = (self.spec.height, self.spec.width)
        if x.shape[2:] != size:
            x = F.interpolate(x, size, mode="bicubic", antialias=True).clamp(-1, 1)
        return x


class ImageTextExtractor(JudgeExtractor):
    """An extractor that uses a judge of pictures and captions."""

    def __init__(
        self, judge: ImageTextJudge, name: str, dtype: Precision = "float32", source: str = ""
    ) -> None:
        super().__init__(judge, name, dtype, source)
        assert judge.spec.text is not None, "a judge of captions has a word table"
        self.judge: ImageTextJudge = judge
        self.text = judge.spec.text

    @torch.inference_mode()
    def similarity(self, images: Pixels, text: Int[Tensor, "k l"]) -> Float[Tensor, "b k"]:
        """Compute the similarity of each picture and each caption: cosines, from -1 to 1."""
        return self.judge.cosines(self._features(images), text.to(self.judge.device)).float()


class DetectorExtractor(JudgeExtractor):
    """An extractor that uses a detector."""

    def __init__(
        self, judge: Detector, name: str, dtype: Precision = "float32", source: str = ""
    ) -> None:
        super().__init__(judge, name, dtype, source)
        assert judge.spec.hint is not None, "a detector knows kinds of objects"
        self.judge: Detector = judge
        self.kinds = judge.spec.hint.labels

    @torch.inference_mode()
    def detect(self, images: Pixels) -> Detections:
        """Find the objects in each picture, the highest score first."""
        x = self._input(images)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            return self.judge.detect(x)
