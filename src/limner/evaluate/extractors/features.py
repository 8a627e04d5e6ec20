"""From pictures to the numbers that metrics are made of: extractors, by name.

    lenet                      grey digits, at 28 x 28: 128 features, 10 classes; bundled
    emoji-judge                emoji, at 32 x 32: 192 features, 9 classes, captions; bundled
    lite0                      RGB pictures, at 128 x 128: 1,280 features, 1,000 classes
    scene-judge                scenes, at 128 x 128: 128 features, and the objects in them; bundled
    inception-v3               of the Frechet inception distance: 2,048 features, 1,008 classes
    inception-v3-pytorch-fid   the same, of pictures resized as by pytorch-fid
    dinov2, clip               through transformers, as many features as the model has

An extractor takes uint8 pictures of any size and resizes them as it says. Numbers of different
extractors cannot be compared, so each has a name, to stand beside every number, and a fingerprint.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from limner.contract.bundled import bundled
from limner.contract.checkpoint import load, load_tensors, model_file, read_header
from limner.contract.errors import LimnerError, unknown
from limner.contract.image import ImageSpec, TextSpec, from_uint8
from limner.evaluate.extractors.weights import has_lite0, inception_file, lite0_file
from limner.evaluate.judges.judge import Detections, Detector, ImageTextJudge, Judge

Pixels = UInt8[Tensor, "b c h w"]
Precision = Literal["float32", "bfloat16"]
"""In which a network computes; features are float32 anyway."""
DETECTORS = ("scene-judge",)
"""The bundled extractors that find objects."""
JUDGES = ("lenet", "emoji-judge", *DETECTORS)
"""The bundled extractors."""
NAMES = (*JUDGES, "lite0", "inception-v3", "inception-v3-pytorch-fid", "dinov2", "clip")


class Features(NamedTuple):
    """What an extractor sees in pictures.

    Args:
        features: a row for each.
        logits: scores of classes, of which softmax makes probabilities; None without classes.
    """

    features: Float[Tensor, "b d"]
    logits: Float[Tensor, "b k"] | None


class Extractor(Protocol):
    """Pictures to features.

    Attributes:
        name: stands beside every number.
        fingerprint: a SHA-256 of weights and preprocessing; equal ones give equal features.
        dim: how many features a picture has.
        classes: the names of the logits' classes; () where they have none.
    """

    name: str
    fingerprint: str
    dim: int
    classes: tuple[str, ...]

    def __call__(self, images: Pixels) -> Features:
        """The features of grey or RGB pictures of any size.

        Raises:
            LimnerError: pictures of other channels, or of colours where the extractor knows none.
        """
        ...


@runtime_checkable
class ImageText(Protocol):
    """What an extractor has that also compares pictures with captions.

    Attributes:
        text: how captions become tokens, see `Tokenizer`.
    """

    text: TextSpec

    def similarity(self, images: Pixels, text: Int[Tensor, "k l"]) -> Float[Tensor, "b k"]:
        """How well each picture shows what each caption says: cosines, from -1 to 1."""
        ...


@runtime_checkable
class Detects(Extractor, Protocol):
    """An extractor that also finds objects.

    Attributes:
        kinds: the names of the kinds that it knows, by number.
    """

    kinds: tuple[str, ...]

    def detect(self, images: Pixels) -> Detections:
        """The objects in each picture, the surest first."""
        ...


def extractor(
    name: str | None,
    spec: ImageSpec,
    device: str | torch.device = "cpu",
    weights: Path | str | None = None,
    dtype: Precision = "float32",
    source: str = "",
) -> Extractor:
    """An extractor, ready to use.

    Args:
        name: one of `NAMES`; None for the bundled one that was trained on such pictures, else
            `lite0` where it is installed and the pictures are RGB.
        spec: what the pictures are; only read where the name is None.
        device: where it computes.
        weights: a file or folder in place of the usual weights: for a bundled judge a run of one's
            own, for `dinov2` and `clip` a folder, or a name on the Hugging Face hub.
        dtype: in which it computes.
        source: the data set of the pictures; only read where the name is None.

    Raises:
        LimnerError: no such extractor, none that fits, or weights that are nowhere or do not fit.
    """
    name = name or _fitting(spec, source)
    if name not in NAMES:
        raise unknown("extractor", name, NAMES)
    if name in JUDGES:
        return _judge(name, device, weights, dtype)
    if name in ("dinov2", "clip"):
        from limner.evaluate.extractors.transformers import pretrained

        return pretrained(name, weights, device, dtype)
    if name == "lite0":
        from limner.evaluate.extractors import lite0

        file = lite0_file(weights)
        return lite0.Lite0(lite0.loaded(load_tensors(file), str(file)), device, dtype)
    from limner.evaluate.extractors.inception import Inception, loaded

    file = inception_file(weights)
    network = loaded(load_tensors(file), str(file))
    resized = "pytorch-fid" if name.endswith("pytorch-fid") else "tensorflow"
    return Inception(network, resized, device, dtype)


def _bundled(name: str) -> Path:
    folders = bundled()
    if name not in folders:
        raise LimnerError(f"the bundled judge '{name}' is missing; reinstall limner")
    return folders[name]


def _fitting(spec: ImageSpec, source: str) -> str:
    """The extractor that was made for such pictures, as far as can be seen.

    A bundled judge knows its own source or classes; RGB pictures of which it knows neither are for
    `lite0`. Where that is not installed, a judge sees whatever has its shape. No detector is
    chosen, for its features say where objects are and not what they look like.
    """
    general = spec.channels == 3 and has_lite0()
    for name in (name for name in JUDGES if name not in DETECTORS):
        header = read_header(model_file(_bundled(name)))
        known, learnt = header.spec, header.recipe.get("data", {}).get("source", "")
        alike = name != "lenet" or spec.shape == known.shape
        if not alike or spec.labels not in ((), known.labels) or spec.channels not in (1, 3):
            continue
        if spec.labels or (source and source == learnt) or not general:
            return name
    if general:
        return "lite0"
    classes = f" of {', '.join(spec.labels[:3])}, ..." if spec.labels else ""
    install = "; for lite0 type: pip install 'limner[judge]'" if spec.channels == 3 else ""
    raise LimnerError(
        f"no bundled extractor was trained on pictures{classes} with {spec.channels} channels of "
        f"{spec.height} x {spec.width}; name one: {', '.join(NAMES)}{install}"
    )


def _judge(
    name: str, device: str | torch.device, weights: Path | str | None, dtype: Precision
) -> "JudgeExtractor":
    path = Path(weights) if weights else _bundled(name)
    model = load(path, str(device))
    said = f"{name} of {weights}" if weights else name
    learnt = read_header(model_file(path)).recipe.get("data", {}).get("source", "")
    if isinstance(model, ImageTextJudge):
        return ImageTextExtractor(model, said, dtype, learnt)
    if isinstance(model, Detector):
        return DetectorExtractor(model, said, dtype, learnt)
    if isinstance(model, Judge):
        return JudgeExtractor(model, said, dtype, learnt)
    raise LimnerError(
        f"'{path}' is a {model.name}, which is no judge; train lenet or another judge"
    )


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
        self.name = named(name, dtype)
        self.learnt = learnt
        self.judge = judge.eval()
        self.spec = judge.spec
        self.half = dtype == "bfloat16"
        size = f"{self.spec.height} x {self.spec.width}"
        self.fingerprint = fingerprint(judge.state_dict(), f"{size}, bicubic, {dtype}")
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
            return self.judge.features(x).float()

    def _input(self, images: Pixels) -> Float[Tensor, "b d i j"]:
        """Pictures as the judge takes them."""
        see = grey if self.spec.channels == 1 else coloured
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


def coloured(images: Pixels, name: str) -> UInt8[Tensor, "b 3 h w"]:
    """RGB pictures: grey ones three times over, as a grey file is shown.

    Raises:
        LimnerError: the pictures are neither grey nor RGB.
    """
    channels = images.shape[1]
    if channels not in (1, 3):
        raise LimnerError(f"{name} judges grey or RGB pictures, and these have {channels} channels")
    return images.expand(-1, 3, -1, -1)


def grey(images: Pixels, name: str) -> UInt8[Tensor, "b 1 h w"]:
    """Grey pictures, also where each was saved as RGB.

    Raises:
        LimnerError: pictures with colours; the message is in the extractor's name.
    """
    if images.shape[1] not in (1, 3) or not torch.equal(images[:, :1].expand_as(images), images):
        raise LimnerError(
            f"{name} judges grey pictures, and these have colours; choose another extractor, or "
            "make them grey with data.channels=1"
        )
    return images[:, :1]


def named(name: str, dtype: Precision) -> str:
    """An extractor's name, which says when it computes in another precision than usual."""
    return name if dtype == "float32" else f"{name} ({dtype})"


def fingerprint(weights: Mapping[str, Shaped[Tensor, "..."]], preprocessing: str) -> str:
    """The SHA-256 of tensors, by their names, and of how pictures are prepared."""
    content = hashlib.sha256(preprocessing.encode())
    for name, tensor in sorted(weights.items()):
        content.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().view(-1)
        content.update(flat.view(torch.uint8).numpy().data)
    return content.hexdigest()
