"""A data set of generated pictures, written in shards.

A shard is written completely or not at all, so that a set that was stopped can be continued.

    OUT/shard-00012.tar      000012000.png, .txt, .json, 000012001.png, ... (WebDataset), or
    OUT/000012000.png, ...   and, once complete, metadata.jsonl (Hugging Face's ImageFolder)
    OUT/.set/plan.json       the settings of the set
    OUT/.set/00012.jsonl     a line for each picture of a complete shard
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from limner.commands.request import SamplingRequest, open_model
from limner.commands.sheets.sample import PAINT
from limner.commands.task import Work
from limner.contract.atomic_files import write_durably
from limner.contract.bundled import find_model
from limner.contract.checkpoint import digest, model_file, read_header
from limner.contract.errors import LimnerError, writing
from limner.data import png
from limner.runtime.ray_workers import run_by_ray

Form = Literal["tar", "folder"]
_STATE_FOLDER = ".set"
_METADATA = "metadata.jsonl"


class Painting(NamedTuple):
    """A generated picture of a set.

    Args:
        name: its number, with nine digits.
        file: the bytes of a PNG file that stores how it was made.
        row: its metadata: prompt, class and seed.
    """

    name: str
    file: bytes
    row: dict[str, Any]


@dataclass(frozen=True)
class SetPlan:
    """The settings of a set.

    Picture i has the seed request.seed + i. Pictures take the prompts in turn, and the next class
    after each pass over the prompts.

    Args:
        request: the model, its options and all classes, without prompts.
        prompts: prompts as they are typed; the seed of each picture chooses among their words.
        count: number of pictures.
        shard: number of pictures that are painted and written at a time.
        form: format of the files.
    """

    request: SamplingRequest
    prompts: tuple[str, ...]
    count: int
    shard: int = 1000
    form: Form = "tar"

    def shards(self) -> range:
        """The numbers of the shards."""
        return range(-(-self.count // self.shard))

    def numbers(self, shard: int) -> range:
        """The numbers of a shard's pictures."""
        return range(shard * self.shard, min((shard + 1) * self.shard, self.count))

    def requests(self, shard: int) -> list[SamplingRequest]:
        """Return one request for each picture of a shard."""
        return [self._request_of(i) for i in self.numbers(shard)]

    def _request_of(self, i: int) -> SamplingRequest:
        labels = self.request.labels
        turn, index = divmod(i, max(len(self.prompts), 1))
        values = {
            "prompts": self.prompts[index : index + 1],
            "labels": (labels[turn % len(labels)],) if labels else (),
            "seed": self.request.seed + i,
        }
        return SamplingRequest.of(vars(self.request) | values)

    def settings(self) -> dict[str, Any]:
        """Return the settings that must match to continue a set; words and weights as hashes."""
        words_hash = hashlib.sha256(json.dumps([self.prompts, self.request.labels]).encode())
        layout = {"count": self.count, "shard": self.shard, "form": self.form}
        names = ("negative", "seed", "sampler", "dtype")
        request = {name: value for name, value in self.request.settings().items() if name in names}
        weights = digest(model_file(find_model(self.request.model)))
        return layout | request | {"prompts and labels": words_hash.hexdigest(), "model": weights}


class SetPainter:
    """A worker that loads the model once, and paints one shard after another.

    Args:
        plan: settings of the set.
        device: device to run on.
    """

    def __init__(self, plan: SetPlan, device: str = "auto") -> None:
        self.plan = plan
        self.model, self.sampler = open_model(plan.request, device)

    def do(self, number: int) -> list[Painting]:
        """Paint a shard; on the same kind of device, every worker makes the same bytes."""
        requests = self.plan.requests(number)
        reports = [lambda line: None] * len(requests)
        work = Work.of(self.model, self.sampler, requests, reports)
        images = PAINT.finish(work, quiet=True)[-1]
        return [
            Painting(
                f"{request.seed - self.plan.request.seed:09d}",
                png.png(image, request.with_sampler(self.sampler).settings()),
                _row(request),
            )
            for request, image in zip(requests, images, strict=True)
        ]


def paint_shards(
    plan: SetPlan, numbers: Sequence[int], device: str = "auto"
) -> Iterator[tuple[int, list[Painting]]]:
    """Paint shards of a plan, one after the other."""
    if numbers:
        painter = SetPainter(plan, device)
        for number in numbers:
            yield number, painter.do(number)


def paint_shards_by_ray(
    plan: SetPlan, numbers: Sequence[int], workers: int, address: str | None, device: str = "auto"
) -> Iterator[tuple[int, list[Painting]]]:
    """Paint shards of a plan with several processes, see `run_by_ray`.

    On other machines the model must have the same path.

    Raises:
        LimnerError: the model cannot paint this, or there are no workers.
    """
    if not numbers:
        return iter(())
    open_model(plan.request, "cpu")  # raise errors before the workers start
    arguments = plan, device
    return run_by_ray(
        SetPainter, arguments, numbers, workers=workers, address=address, device=device
    )


def _row(request: SamplingRequest) -> dict[str, Any]:
    words = {"text": request.prompts[0]} if request.prompts else {}
    label = {"label": request.labels[0]} if request.labels else {}
    return words | label | {"seed": request.seed}


class SetFolder:
    """The folder of a set.

    Args:
        out: the folder, new or with a set of the same plan.
        plan: settings of the set.

    Raises:
        LimnerError: the folder contains another set, a larger one, or other files.
    """

    def __init__(self, out: Path, plan: SetPlan) -> None:
        self.out, self.plan = out, plan
        self._file = out / _STATE_FOLDER / "plan.json"
        if not self._file.exists():
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise LimnerError(f"{out} contains other files; name a new folder")
            return
        old, new = json.loads(self._file.read_bytes()), json.loads(self._content())
        if old.pop("count") > new.pop("count"):
            raise LimnerError(
                f"{out} contains a set of more than {plan.count:,} pictures; name another folder"
            )
        for name in new | old:
            if new.get(name) != old.get(name):
                raise LimnerError(
                    f"{out} contains a set with another {name}; name another folder, or give "
                    "the same settings to continue"
                )

    def _content(self) -> bytes:
        return json.dumps(self.plan.settings(), indent=1).encode()

    def missing_shards(self) -> list[int]:
        """Return the numbers of shards that are missing or have fewer pictures than planned."""
        return [number for number in self.plan.shards() if not self._is_complete(number)]

    def _is_complete(self, number: int) -> bool:
        rows = self._rows(number)
        count = rows.read_bytes().count(b"\n") if rows.exists() else 0
        return count == len(self.plan.numbers(number))

    def keep(self, number: int, paintings: list[Painting]) -> None:
        """Write a shard, and before the first one the settings of the set.

        Raises:
            LimnerError: the folder cannot be written.
        """
        with self._writing():
            self._keep(number, paintings)

    def _keep(self, number: int, paintings: list[Painting]) -> None:
        (self.out / _STATE_FOLDER).mkdir(parents=True, exist_ok=True)
        write_durably(self._file, self._content())
        if self.plan.form == "tar":
            write_durably(self.out / f"shard-{number:05d}.tar", _tar(paintings))
        else:
            for painting in paintings:
                write_durably(self.out / f"{painting.name}.png", painting.file)
        rows = [{"file_name": f"{painting.name}.png", **painting.row} for painting in paintings]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_durably(self._rows(number), lines.encode())

    def finish(self) -> None:
        """Write the metadata of all pictures, if the format is a folder."""
        if self.plan.form == "folder":
            rows = [self._rows(number).read_bytes() for number in self.plan.shards()]
            with self._writing():
                write_durably(self.out / _METADATA, b"".join(rows))

    def _writing(self) -> AbstractContextManager[None]:
        advice = "finished shards are kept: make room, then type the same command again"
        return writing(self.out, advice)

    def _rows(self, number: int) -> Path:
        return self.out / _STATE_FOLDER / f"{number:05d}.jsonl"


def _tar(paintings: list[Painting]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for painting in paintings:
            for name, content in _members(painting):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _members(painting: Painting) -> Iterator[tuple[str, bytes]]:
    yield f"{painting.name}.png", painting.file
    if "text" in painting.row:
        yield f"{painting.name}.txt", painting.row["text"].encode()
    yield f"{painting.name}.json", json.dumps(painting.row, ensure_ascii=False).encode()


def checked_request(request: SamplingRequest) -> SamplingRequest:
    """Return the request with the name of each class, also for "all".

    Raises:
        LimnerError: the model has no such class, or needs input pictures.
    """
    path = find_model(request.model)
    spec = read_header(model_file(path)).spec
    if spec.hint is not None:
        raise LimnerError(
            f"'{path.name}' needs input pictures, which a set does not have; give another model"
        )
    labels = request.with_all_classes(spec).labels
    return replace(request, labels=tuple(spec.labels[spec.label_index(name)] for name in labels))
