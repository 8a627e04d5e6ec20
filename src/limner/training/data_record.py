"""Record of a run's data set, from which a resumed run can tell whether the data have changed.

data.json   {"source": "folder:cats", "pictures": 40, "digest": "9f...", "spec": {...}}
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from limner.contract.atomic_files import write_durably
from limner.contract.errors import LimnerError
from limner.contract.image import ImageSpec
from limner.data.dataset import Dataset

DATA_FILE = "data.json"


@dataclass(frozen=True)
class DataRecord:
    """Record of a data set in a run.

    Args:
        source: the source as typed.
        pictures: number of pictures.
        digest: SHA-256 of pictures, captions, labels and options; "" where there is none.
        spec: specification of the pictures.
    """

    source: str
    pictures: int
    digest: str
    spec: ImageSpec

    @classmethod
    def of(cls, dataset: Dataset) -> "DataRecord":
        """Return the record of a data set."""
        return cls(dataset.source, len(dataset), dataset.digest, dataset.spec)

    @classmethod
    def read(cls, run: Path) -> "DataRecord | None":
        """Read a run's record; return None if an earlier version of limner trained the run.

        Raises:
            LimnerError: the file is damaged.
        """
        path = run / DATA_FILE
        try:
            document = json.loads(path.read_bytes())
            return cls(**document | {"spec": ImageSpec.from_json(document["spec"])})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise LimnerError(
                f"cannot read {path} ({error}); to train on the present data, delete it"
            ) from None

    def write(self, run: Path) -> None:
        """Write the file, durably."""
        document = asdict(self) | {"spec": self.spec.to_json()}
        write_durably(run / DATA_FILE, json.dumps(document, indent=1).encode())

    def changes(self, now: "DataRecord") -> list[str]:
        """Return how the present data differ, in words; an empty list if they are the same."""
        old, changes = self.spec, list[str]()
        if self.pictures != now.pictures:
            changes.append(f"{now.pictures:,} pictures instead of {self.pictures:,}")
        if old.shape != now.spec.shape:
            sizes = [" x ".join(map(str, spec.shape)) for spec in (now.spec, old)]
            changes.append(f"{sizes[0]} (channels x height x width) instead of {sizes[1]}")
        if old.levels != now.spec.levels:
            changes.append(f"{now.spec.levels} levels instead of {old.levels}")
        for name in sorted(set(now.spec.labels) ^ set(old.labels)):
            changes.append(f"class '{name}' is {'new' if name in now.spec.labels else 'gone'}")
        if set(now.spec.labels) == set(old.labels) and now.spec.labels != old.labels:
            changes.append("the classes are in another order")
        if old.text != now.spec.text:
            changes.append("captions are encoded in another way (data.text, data.tokens)")
        if old.hint != now.spec.hint:
            changes.append("the conditioning images are of another kind")
        if not changes and self.digest and now.digest and self.digest != now.digest:
            changes.append("as many pictures, but other pixels, captions, classes or data options")
        return changes[:4]


def same_kind(a: ImageSpec, b: ImageSpec) -> bool:
    """Return whether weights for data a fit data b; class frequencies may differ."""
    return replace(a, frequencies=()) == replace(b, frequencies=())
