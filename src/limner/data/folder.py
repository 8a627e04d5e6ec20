"""Folders and archives of pictures: `folder:PATH` and `zip:PATH`.

    flat              a.png b.jpg                  pictures
    class folders     cat/a.png dog/b.jpg          the folder is the label
    split folders     train/ test/ (or validation/)   data.split names one; classes are inside
    metadata          metadata.jsonl or .csv       rows with file_name, text (or caption) and label,
                                                   as in Hugging Face's format; a picture may have
                                                   several rows, of which one caption is drawn;
                                                   folders are then not classes
    caption files     a.png a.txt                  one caption per line, one drawn each time
    two domains       trainA/ trainB/ testA/ testB/   as in CycleGAN's sets; data.domain names one
    pairs             train/ test/ (or val/)       both domains side by side in each picture, as in
                                                   pix2pix's sets; data.half names one

An archive is read as a stream and never extracted; links and members with unsafe names are left out
and reported.
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from limner.contract.errors import LimnerError, unknown
from limner.contract.options import Rate
from limner.data.decode import EXTENSIONS, UNSUPPORTED_EXTENSIONS, UNSUPPORTED_REASON
from limner.data.files import Files, folder_files, natural, zip_files
from limner.data.pictures import Entry, Listing, Report, Source
from limner.data.records import plain_captions

_METADATA_FILES = ("metadata.jsonl", "metadata.csv")
_SPLIT_FOLDERS = ("train", "test", "val")
_SPLITS = {"train": "train", "test": "test"} | dict.fromkeys(("val", "valid", "validation"), "val")
CAPTION_COLUMNS = ("text", "caption", "captions")


@dataclass(frozen=True, kw_only=True)
class Folder(Source):
    """`folder:PATH`: pictures, with captions and classes if there are any.

    Args:
        split: "train", "test" (held out with `holdout`, or the pictures in a folder test or
            validation next to train) or "all".
        holdout: share of pictures held out, chosen by a hash of their names; with folders train and
            test, a share of the pictures in train.
        labels: false to ignore classes; a list to fix their names and order.
        captions: false to ignore captions.
        domain: "A" or "B", for folders trainA, trainB, testA and testB.
        held_out_as: picture -> counterpart whose name decides whether both are held out.
    """

    split: Literal["train", "test", "all"] = "train"
    holdout: Rate = 0.0
    labels: bool | list[str] = True
    captions: bool = True
    domain: Literal["A", "B"] | None = None
    held_out_as: Mapping[str, str] = field(default_factory=dict)

    def files(self) -> Files:
        """List the files of the folder."""
        return folder_files(Path(self.address).expanduser())

    def listing(self, report: Report) -> Listing:
        """List the pictures, with labels and captions from metadata, folders and text files."""
        files = self.files()
        names, has_splits = self._select_split(files.names)
        files = files._replace(names=names)
        rows = _join_rows(_metadata(files, report), _ignore if self.labels is False else report)
        suffixes = {name: PurePosixPath(name).suffix.lower() for name in files.names}
        pictures = [name for name in files.names if name in rows or suffixes[name] in EXTENSIONS]
        unread = [
            name
            for name in files.names
            if name not in rows and suffixes[name] in UNSUPPORTED_EXTENSIONS
        ]
        refused = [*files.refused, *((name, UNSUPPORTED_REASON) for name in unread)]
        if not pictures:
            details = f", only {len(files.names)} other files" if files.names else ", it is empty"
            details += f"; save '{unread[0]}' and the like as PNG or JPEG" if unread else ""
            report(f"'{self.address}' contains no pictures (.png, .jpg, .webp, ...){details}")
            return Listing([], (), refused)
        splits = {} if has_splits else split_folders(pictures)
        has_splits = has_splits or bool(splits and not self.holdout)
        if self.split == "test" and not self.holdout and not has_splits:
            raise LimnerError("no pictures are held out; give for example data.holdout=0.1")
        selected = pictures
        if splits and (self.holdout or self.split != "all"):  # a share of train is held out
            split = "train" if self.holdout else self.split
            selected = [name for name in pictures if splits[name] == split]
        labels, classes = self._labels(pictures, selected, splits, rows, report)
        captions = self._captions(selected, rows, files, report)
        entries = [
            Entry(name, partial(files.open, name), labels.get(name), captions.get(name, ()))
            for name in selected
            if has_splits
            or self.split == "all"
            or (share_of(self.held_out_as.get(name, name)) < self.holdout) == (self.split == "test")
        ]
        return Listing(entries, classes, refused)

    def _select_split(self, names: list[str]) -> tuple[list[str], bool]:
        """Return the files of the domain and split, and whether folders are splits."""
        if not (self.domain or self.half):
            return names, False
        parts = {name: set(PurePosixPath(name).parts[:-1]) for name in names}
        suffix = self.domain or ""
        sets = {
            split: [name for name in names if split + suffix in parts[name]]
            for split in _SPLIT_FOLDERS
        }
        sets["test"] = sets["test"] or sets["val"]
        if self.domain is None and not sets["train"]:
            return names, False
        if self.split == "all":
            return [name for name in names if any(name in group for group in sets.values())], True
        return sets[self.split], True

    def _labels(
        self,
        pictures: list[str],
        selected: list[str],
        splits: dict[str, str],
        rows: dict[str, dict],
        report: Report,
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return the label of each picture, and all labels; both empty without labels.

        Faulty labels are reported only for pictures of the requested split.
        """
        if self.labels is False:
            return {}, ()
        if rows:
            raw = {name: rows.get(name, {}).get("label") for name in pictures}
            if all(label in (None, "") for label in raw.values()):
                return {}, ()
        else:
            paths = _inside(pictures)
            if splits:
                paths = _inside(["/".join(parts[1:]) for parts in paths])
            raw = {name: p[0] if len(p) > 1 else None for name, p in zip(pictures, paths)}
            if not any(raw.values()):
                return {}, ()
        remedy = "correct it, or give data.labels=false"
        labels: dict[str, str] = {}
        selected_set = set(selected)
        for name, label in raw.items():
            note = report if name in selected_set else _ignore
            if label in (None, ""):
                note(f"'{name}' has no label although other pictures have one; {remedy}")
            elif isinstance(label, bool) or not isinstance(label, str | int):
                note(
                    f"'{name}' has label {label!r}, which is neither a word nor a whole number; "
                    f"{remedy}"
                )
            elif isinstance(self.labels, list) and str(label) not in self.labels:
                note(str(unknown("label", str(label), self.labels, f"of '{name}'; {remedy}")))
            else:
                labels[name] = str(label)
        if isinstance(self.labels, list):
            return labels, class_names(self.labels, report)
        return labels, tuple(sorted(set(labels.values()), key=natural))

    def _captions(
        self, pictures: list[str], rows: dict[str, dict], files: Files, report: Report
    ) -> dict[str, tuple[str, ...]]:
        """Return the captions of each picture; empty without captions."""
        if not self.captions:
            return {}
        present = set(files.names)
        captions: dict[str, tuple[str, ...]] = {}
        for name in pictures:
            row = rows.get(name, {})
            texts = row.get(CAPTION_COLUMNS[0]) or None
            text_file = str(PurePosixPath(name).with_suffix(".txt"))
            if texts is None and text_file in present:
                texts = files.text(text_file, report).splitlines()
            wrong = [text for text in texts or [] if not isinstance(text, str | None)]
            if wrong:
                report(
                    f"'{name}' has caption {wrong[0]!r}, which is not a text; correct it, or give "
                    "data.captions=false"
                )
            captions[name] = plain_captions(texts)
        missing = [name for name, texts in captions.items() if not texts]
        if len(missing) == len(pictures):
            return {}
        if missing:
            file = next((m for m in _METADATA_FILES if rows and m in present), None)
            file = file or f"'{PurePosixPath(missing[0]).with_suffix('.txt')}'"
            report(
                f"{len(missing)} of {len(pictures)} pictures have no caption, first "
                f"'{missing[0]}'; write it into {file}, or give data.captions=false"
            )
        return captions


@dataclass(frozen=True, kw_only=True)
class Zip(Folder):
    """`zip:PATH`: pictures as in `folder:PATH`, in an archive that is never extracted."""

    def files(self) -> Files:
        """List the members of the archive."""
        return zip_files(Path(self.address).expanduser())


def class_names(names: list[str], report: Report) -> tuple[str, ...]:
    """Return the class names of data.labels; report a name that is given twice."""
    duplicate = next((name for name in names if names.count(name) > 1), None)
    if duplicate is not None:
        report(f"data.labels={','.join(names)}: '{duplicate}' is given twice; give each name once")
    return tuple(dict.fromkeys(names))


def split_folders(pictures: list[str]) -> dict[str, str]:
    """Return the split of each picture, "train", "test" or "val", from the top folders.

    "val" counts as "test" if there is no other. The result is empty if a top folder is not a split.

    >>> split_folders(["d/train/cat/1.png", "d/valid/cat/2.png"])
    {'d/train/cat/1.png': 'train', 'd/valid/cat/2.png': 'test'}
    """
    tops = [parts[0].lower() for parts in _inside(pictures)]
    if "train" not in tops or len({*tops}) < 2 or not {*tops} <= {*_SPLITS}:
        return {}
    splits = [_SPLITS[top] for top in tops]
    if "test" not in splits:
        splits = ["test" if split == "val" else split for split in splits]
    return dict(zip(pictures, splits))


def _inside(names: list[str]) -> list[tuple[str, ...]]:
    """Return the path parts of each name below the folder common to all."""
    top = os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120
    return [PurePosixPath(name).relative_to(top).parts for name in names]


def _ignore(message: str) -> None:
    """Ignore a message: the `Report` for problems that do not matter."""


def share_of(name: str) -> float:
    """Return a number in [0, 1) that depends on a file's name alone."""
    digest = hashlib.sha256(f"limner {name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def _metadata(files: Files, report: Report) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (picture, row) of all metadata files; `file_name` is relative to the file's folder."""
    present = set(files.names)
    for source in files.names:
        if PurePosixPath(source).name not in _METADATA_FILES:
            continue
        unreadable: list[str] = []
        text = files.text(source, unreadable.append)
        if unreadable:
            report(unreadable[0])
            continue
        first = text.partition("\n")[0].strip()
        columns = [*(_table(first[:1000]).fieldnames or ())] if source.endswith(".csv") else None
        if columns is not None and "file_name" not in columns:
            report(
                f"the first line of '{source}' is '{first[:60]}'; write the names of the columns "
                "there, with commas between them, such as file_name,text"
            )
            continue
        read = ("file_name", "label", *CAPTION_COLUMNS)
        if repeated := [name for name in read if columns and columns.count(name) > 1]:
            report(f"'{source}' has the column {repeated[0]} twice; rename one of them")
            continue
        for number, row in _csv(text) if source.endswith(".csv") else _json(text):
            if row is None:
                report(f"line {number} of '{source}' is not valid; correct it or delete the line")
                continue
            if not isinstance(row, dict) or not isinstance(row.get("file_name"), str):
                report(f"line {number} of '{source}' has no file_name; add it or delete the line")
                continue
            if None in row:  # csv.DictReader puts surplus fields under None
                report(
                    f"line {number} of '{source}' has more fields than the first line; put texts "
                    "with commas in quotes"
                )
                continue
            name = (PurePosixPath(source).parent / row["file_name"]).as_posix()
            if name not in present:
                report(
                    f"line {number} of '{source}' names '{row['file_name']}', which is missing; "
                    f"correct the name or delete the line"
                )
                continue
            yield name, row


def _join_rows(
    lines: Iterator[tuple[str, dict[str, Any]]], report: Report
) -> dict[str, dict[str, Any]]:
    """Join the rows of each picture, with all captions; report different labels."""
    rows: dict[str, dict[str, Any]] = {}
    for name, row in lines:
        captions = next((row[column] for column in CAPTION_COLUMNS if row.get(column)), [])
        label, merged = row.get("label"), rows.setdefault(name, {"label": None, "text": []})
        for caption in captions if isinstance(captions, list) else [captions]:
            if caption not in merged["text"]:
                merged["text"].append(caption)
        if merged["label"] in (None, ""):
            merged["label"] = label
        elif label not in (None, "", merged["label"]):
            report(
                f"'{name}' has the label {merged['label']!r} in one line of its metadata and "
                f"{label!r} in another; correct one, or give data.labels=false"
            )
    return rows


def _table(text: str) -> csv.DictReader:
    """Return a reader of a table with a header; spaces after commas and capitals do not count."""
    table = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    table.fieldnames = [name.strip().lower() for name in table.fieldnames or ()]
    return table


def _csv(text: str) -> Iterator[tuple[int, Any]]:
    """Yield (line number, row) of a table with a header; None for an invalid row."""
    try:
        table = _table(text)
    except csv.Error:  # such as a name of more than 131,072 characters
        yield 1, None
        return
    while True:
        try:
            row = next(table, None)
        except csv.Error:  # such as a field of more than 131,072 characters
            yield table.line_num + 1, None
            continue
        if row is None:
            return
        yield table.line_num, row


def _json(text: str) -> Iterator[tuple[int, Any]]:
    """Yield (line number, value) of JSON lines; None for an invalid line."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None
