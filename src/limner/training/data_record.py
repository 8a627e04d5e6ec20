"""What a run is trained on, written down, so that a resumed run can tell whether it still is.

data.json   {"source": "folder:cats", "pictures": 40, "digest": "9f...", "spec": {...}}
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from limner.contract.checkpoint import write_durably
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.data.dataset import Dataset

DATA_FILE = "data.json"


@dataclass(frozen=True)
class DataRecord:
    """A data set as a run remembers it.

    Args:
        source: as it was typed.
        pictures: how many.
        digest: a sha256 of pictures, captions, labels and options; "" where there is none.
        spec: what the pictures are.
    """

    source: str
    pictures: int
    digest: str
    spec: ImageSpec

    @classmethod
    def of(cls, dataset: Dataset) -> "DataRecord":
        """The record of a data set."""
        return cls(dataset.source, len(dataset), dataset.digest, dataset.spec)

    @classmethod
    def read(cls, run: Path) -> "DataRecord | None":
        """What a run remembers; None in a run that an earlier version of limner trained.

        Raises:
            LimnerError: the file is damaged.
        """
        path = run / DATA_FILE
        try:
            found = json.loads(path.read_bytes())
            return cls(**found | {"spec": ImageSpec.from_json(found["spec"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LimnerError(
                f"cannot read {path} ({error}); to train on the data as they are, delete it"
            ) from None

    def write(self, run: Path) -> None:
        """Write the file, durably."""
        document = asdict(self) | {"spec": self.spec.to_json()}
        write_durably(run / DATA_FILE, json.dumps(document, indent=1).encode())

    def changes(self, now: "DataRecord") -> list[str]:
        """How the data of now differ, in words; an empty list where they are the same."""
        was, found = self.spec, list[str]()
        if self.pictures != now.pictures:
            found.append(f"{now.pictures:,} pictures instead of {self.pictures:,}")
        if was.shape != now.spec.shape:
            sizes = [" x ".join(map(str, spec.shape)) for spec in (now.spec, was)]
            found.append(f"{sizes[0]} (channels x height x width) instead of {sizes[1]}")
        if was.levels != now.spec.levels:
            found.append(f"{now.spec.levels} levels instead of {was.levels}")
        for name in sorted(set(now.spec.labels) ^ set(was.labels)):
            found.append(f"class '{name}' is {'new' if name in now.spec.labels else 'gone'}")
        if set(now.spec.labels) == set(was.labels) and now.spec.labels != was.labels:
            found.append("the classes are in another order")
        if was.text != now.spec.text:
            found.append("captions are encoded in another way (data.text, data.tokens)")
        if was.hint != now.spec.hint:
            found.append("the conditioning images are of another kind")
        if not found and self.digest and now.digest and self.digest != now.digest:
            found.append("as many pictures, but other pixels, captions, classes or data options")
        return found[:4]


def same_kind(a: ImageSpec, b: ImageSpec) -> bool:
    """Whether weights for data a fit data b; how often each class occurs does not matter."""
    return replace(a, frequencies=()) == replace(b, frequencies=())
