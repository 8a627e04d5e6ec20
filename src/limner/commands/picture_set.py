"""A set of many paintings: what each is of, and how they are written in shards that are there
whole or not at all, so that a set that was stopped goes on.

    OUT/shard-00012.tar      000012000.png, .txt, .json, 000012001.png, ... (WebDataset), or
    OUT/000012000.png, ...   beside a metadata.jsonl when all are there (Hugging Face's ImageFolder)
    OUT/.set/plan.json       what the set is of
    OUT/.set/00012.jsonl     a line for each picture of a shard that is whole
"""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from limner.commands.painting import PAINT
from limner.commands.task import Work
from limner.commands.wish import Wish, open_model
from limner.contract.bundled import find_model
from limner.contract.checkpoint import digest, model_file, read_header, write_durably
from limner.contract.errors import LimnerError
from limner.data import png
from limner.runtime.ray_workers import done_by_ray

Form = Literal["tar", "folder"]
_OWN = ".set"
_METADATA = "metadata.jsonl"


class Painting(NamedTuple):
    """A painting of a set.

    Args:
        name: its number, nine digits.
        file: the bytes of a PNG file that says how it was made.
        row: what is said of it: its prompt, its class, its seed.
    """

    name: str
    file: bytes
    row: dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a set is of. Picture i has the seed wish.seed + i, and takes the next prompt; when all
    prompts were taken, the next class.

    Args:
        wish: the model, its options and all classes, without prompts.
        prompts: as they are typed, for each picture's seed chooses among their words.
        count: how many pictures.
        shard: how many of them are painted and written at a time.
        form: of the files.
    """

    wish: Wish
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

    def wishes(self, shard: int) -> list[Wish]:
        """One for each picture of a shard."""
        return [self._wish(i) for i in self.numbers(shard)]

    def _wish(self, i: int) -> Wish:
        labels = self.wish.labels
        turn, prompt = divmod(i, max(len(self.prompts), 1))
        own = {
            "prompts": self.prompts[prompt : prompt + 1],
            "labels": (labels[turn % len(labels)],) if labels else (),
            "seed": self.wish.seed + i,
        }
        return Wish.of(vars(self.wish) | own)

    def settings(self) -> dict[str, Any]:
        """What must stay for a set to go on; words and weights by their hash."""
        words = hashlib.sha256(json.dumps([self.prompts, self.wish.labels]).encode())
        own = {"count": self.count, "shard": self.shard, "form": self.form}
        kept = ("negative", "seed", "sampler", "dtype")
        wish = {name: value for name, value in self.wish.settings().items() if name in kept}
        weights = digest(model_file(find_model(self.wish.model)))
        return own | wish | {"prompts and labels": words.hexdigest(), "model": weights}


class Painter:
    """A worker: a model that is loaded once, and paints one shard after another.

    Args:
        plan: of the set.
        device: where.
    """

    def __init__(self, plan: Plan, device: str = "auto") -> None:
        self.plan = plan
        self.model, self.sampler = open_model(plan.wish, device)

    def do(self, number: int) -> list[Painting]:
        """A shard; the same bytes whoever paints it, on the same kind of device."""
        wishes = self.plan.wishes(number)
        quiet = [lambda line: None] * len(wishes)
        work = Work.of(self.model, self.sampler, wishes, quiet)
        images = PAINT.finish(work, quiet=True)[-1]
        return [
            Painting(
                f"{wish.seed - self.plan.wish.seed:09d}",
                png.png(image, wish.filled(self.sampler).settings()),
                _row(wish),
            )
            for wish, image in zip(wishes, images, strict=True)
        ]


def painted(
    plan: Plan, numbers: Sequence[int], device: str = "auto"
) -> Iterator[tuple[int, list[Painting]]]:
    """Shards of a plan, one after the other."""
    if numbers:
        painter = Painter(plan, device)
        for number in numbers:
            yield number, painter.do(number)


def painted_by_ray(
    plan: Plan, numbers: Sequence[int], workers: int, address: str | None, device: str = "auto"
) -> Iterator[tuple[int, list[Painting]]]:
    """The same by several processes, see `done_by_ray`; on other machines the model must lie at
    the same path.

    Raises:
        LimnerError: the model cannot paint this, or there are no workers.
    """
    if not numbers:
        return iter(())
    open_model(plan.wish, "cpu")  # what is wrong with it is said before they start
    given = plan, device
    return done_by_ray(Painter, given, numbers, workers=workers, address=address, device=device)


def _row(wish: Wish) -> dict[str, Any]:
    words = {"text": wish.prompts[0]} if wish.prompts else {}
    label = {"label": wish.labels[0]} if wish.labels else {}
    return words | label | {"seed": wish.seed}


class SetFolder:
    """The folder of a set.

    Args:
        out: which, new or of the same plan.
        plan: of the set.

    Raises:
        LimnerError: it holds another set, a larger one, or other files.
    """

    def __init__(self, out: Path, plan: Plan) -> None:
        self.out, self.plan = out, plan
        self._file = out / _OWN / "plan.json"
        if not self._file.exists():
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise LimnerError(f"{out} holds other files; name a new folder")
            return
        there, here = json.loads(self._file.read_bytes()), json.loads(self._content())
        if there.pop("count") > here.pop("count"):
            raise LimnerError(f"{out} is to hold more than {plan.count:,} pictures; name another")
        for name in here | there:
            if here.get(name) != there.get(name):
                raise LimnerError(
                    f"{out} holds a set whose {name} differs; name another folder, or give the "
                    "same settings to go on"
                )

    def _content(self) -> bytes:
        return json.dumps(self.plan.settings(), indent=1).encode()

    def left(self) -> list[int]:
        """The numbers of the shards that are not yet there; the last one may have been shorter."""
        return [number for number in self.plan.shards() if not self._whole(number)]

    def _whole(self, number: int) -> bool:
        rows = self._rows(number)
        there = rows.read_bytes().count(b"\n") if rows.exists() else 0
        return there == len(self.plan.numbers(number))

    def keep(self, number: int, paintings: list[Painting]) -> None:
        """Write a shard, and before the first one what the set is of."""
        (self.out / _OWN).mkdir(parents=True, exist_ok=True)
        write_durably(self._file, self._content())
        if self.plan.form == "tar":
            write_durably(self.out / f"shard-{number:05d}.tar", _tar(paintings))
        else:
            for each in paintings:
                write_durably(self.out / f"{each.name}.png", each.file)
        rows = [{"file_name": f"{each.name}.png", **each.row} for each in paintings]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_durably(self._rows(number), lines.encode())

    def finish(self) -> None:
        """Write what is said of all pictures, where they lie in a folder."""
        if self.plan.form == "folder":
            rows = [self._rows(number).read_bytes() for number in self.plan.shards()]
            write_durably(self.out / _METADATA, b"".join(rows))

    def _rows(self, number: int) -> Path:
        return self.out / _OWN / f"{number:05d}.jsonl"


def _tar(paintings: list[Painting]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for each in paintings:
            for name, content in _members(each):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def _members(painting: Painting) -> Iterator[tuple[str, bytes]]:
    yield f"{painting.name}.png", painting.file
    if "text" in painting.row:
        yield f"{painting.name}.txt", painting.row["text"].encode()
    yield f"{painting.name}.json", json.dumps(painting.row, ensure_ascii=False).encode()


def checked(wish: Wish) -> Wish:
    """The wish with each class by its name, also where "all" are asked for.

    Raises:
        LimnerError: the model has no such class, or makes pictures of others.
    """
    path = find_model(wish.model)
    spec = read_header(model_file(path)).spec
    if spec.hint is not None:
        raise LimnerError(
            f"'{path.name}' makes pictures of others, and a set is of words or classes"
        )
    labels = spec.labels if "all" in wish.labels and "all" not in spec.labels else wish.labels
    return replace(wish, labels=tuple(spec.labels[spec.label_index(name)] for name in labels))
