"""The process that paints: one for each device, controlled by the server.

It reads JSON documents from standard input, one on each line, and writes them to standard output in
the same way. A thread listens meanwhile, so that a job can be cancelled between two frames.

    {"do": "describe", "models": {NAME: FOLDER}}     -> {"is": "models", "models": [...]}
    {"do": "work", "jobs": [...], "folder": FOLDER}  -> progress, done or failed for each; then idle
    {"do": "cancel", "id": ID}
"""

import base64
import contextlib
import io
import json
import os
import queue
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

from limner.commands.hints import read_hints
from limner.commands.request import (
    SamplingRequest,
    as_control,
    at_size,
    load_painter,
    sampler_options,
    with_controls,
)
from limner.commands.sheets.attention import known_words
from limner.commands.suited_model import better_model
from limner.commands.task import Work
from limner.contract.checkpoint import digest, model_file
from limner.contract.errors import DISK_FULL, LimnerError, first_line
from limner.contract.image import Images, ImageSpec, to_uint8
from limner.contract.model import GenerativeModel
from limner.contract.options import names_a_file
from limner.contract.package_errors import package_traceback, place_of_error
from limner.data import png
from limner.data.picture_files import read_mask, read_picture, read_whole
from limner.runtime import processes
from limner.runtime.allocator import keep_freed_memory
from limner.runtime.sigterm import hold_sigterm
from limner.studio.catalogue import describe_model, trainable_models, training_options
from limner.studio.common_files import CommonFiles
from limner.studio.settings import MAX_PICTURES, hint_inputs
from limner.studio.tasks import find_task

_MAX_LOADED = 3  # models kept in memory
_PREVIEW_SECONDS = 0.1
_PREVIEW_SIDE = 128  # largest side of a picture in a preview, in pixels
Document = dict[str, Any]


class Worker:
    """The state of the process: loaded models, and cancelled jobs.

    Args:
        device: device to paint on.
        write: function that sends a document to the server.
    """

    def __init__(self, device: torch.device, write: Any) -> None:
        self.device = device
        self.write = write
        self.cancelled_ids: set[str] = set()
        self.input_ended = threading.Event()
        self.models: OrderedDict[str, GenerativeModel] = OrderedDict()

    def should_stop(self, jobs: Sequence[Document]) -> bool:
        """Whether all of the jobs are cancelled, or the server is gone."""
        return self.input_ended.is_set() or all(job["id"] in self.cancelled_ids for job in jobs)

    def describe(self, folders: Mapping[str, str], weights: bool = False) -> None:
        """Send descriptions of models for clients.

        Args:
            folders: folders of the models, by name.
            weights: whether to include a hash of each model's weights.
        """
        models: list[Document] = []
        for name, folder in folders.items():
            try:
                description = describe_model(name, Path(folder))
                if description is not None and weights:
                    description["weights"] = digest(model_file(folder))
            except LimnerError as error:
                description = {"name": name, "broken": str(error)}
            except Exception as error:  # for a damaged file, or one that is deleted meanwhile
                message = f"it cannot be read ({type(error).__name__}); make or copy it again"
                description = {"name": name, "broken": message}
            models.append(description or {"name": name, "broken": ""})
        training = {"trainable": trainable_models(), "training_options": training_options()}
        self.write({"is": "models", "models": models} | training)

    def model(self, folder: str, controls: Sequence[tuple[str, str]] = ()) -> GenerativeModel:
        """Return a model, from memory if it was used recently and has not changed since.

        Args:
            folder: folder of the model.
            controls: names and folders of the controls to apply on top of it.

        Raises:
            LimnerError: the model cannot be loaded or cannot paint, or the controls do not fit it.
        """
        files = [model_file(each) for each in (folder, *(control for _, control in controls))]
        times = (file.stat().st_mtime_ns if file.exists() else 0 for file in files)
        key = " ".join(f"{file} {time}" for file, time in zip(files, times))
        if key not in self.models:
            model, *others = (load_painter(file, str(self.device)) for file in files)
            pairs = zip((name for name, _ in controls), others)
            self.models[key] = with_controls(model, [as_control(*each) for each in pairs])
        self.models.move_to_end(key)
        while len(self.models) > _MAX_LOADED:
            self.models.popitem(last=False)
        return self.models[key]

    def work(self, jobs: Sequence[Document], folder: Path) -> None:
        """Paint jobs in one batch, and send progress and results."""
        self._paint(jobs, folder)
        self.cancelled_ids -= {job["id"] for job in jobs}
        self.write({"is": "idle"})

    def _paint(self, jobs: Sequence[Document], folder: Path) -> None:
        """Paint jobs in one batch; if it fails, paint them one by one, as one may be the cause."""
        try:
            _Batch(self, jobs, folder).paint()
            return
        except (Exception, SystemExit) as error:  # a job's failure must not end the worker
            code, message = _failure(error)
        if code == "memory":  # after the error, which holds the batch, is freed
            self.models.clear()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
        if len(jobs) > 1:
            for job in jobs:
                self._paint([job], folder)
            return
        text, _, hint = message.partition("; ")
        failed = {"is": "failed", "id": jobs[0]["id"]}
        self.write(failed | {"code": code, "message": text, "hint": hint})


def _failure(error: Exception | SystemExit) -> tuple[str, str]:
    """Return the code and the message of an error."""
    match error:
        case LimnerError():
            return "invalid", str(error)
        case torch.OutOfMemoryError():
            return "memory", "the device has too little memory for this job"
        case MemoryError():
            return "memory", "this machine has too little memory for this job"
        case OSError():
            reason = (
                "the disk is full; make room" if error.errno in DISK_FULL else f"{error.strerror}"
            )
            return "storage", f"the pictures cannot be written: {reason}"
    if place := place_of_error(error):
        print(package_traceback(error), file=sys.stderr)
        return "error", f"painting failed in {place}"
    return "error", f"painting failed: {first_line(error)}"


class _Batch:
    """Jobs with the same settings, which are painted together."""

    def __init__(self, worker: Worker, jobs: Sequence[Document], folder: Path) -> None:
        self.worker, self.jobs, self.folder = worker, jobs, folder
        first = jobs[0]
        self.write({"is": "loading"})
        self.model = worker.model(first["folder"], first["controls"])
        self.task = find_task(first["task"])
        self.requests = [_request_of(job) for job in jobs]
        if size := self.requests[0].size:
            self.model = at_size(self.model, size)
        _refuse_files(self.model, self.requests[0])
        self.sampler = sampler_options(self.model, first["folder"], self.requests[0])
        self.requests = [request.with_sampler(self.sampler) for request in self.requests]
        self.remarks: dict[str, list[str]] = {job["id"]: [] for job in jobs}
        self.suggestions: dict[str, Document | None] = {}
        for job, request in zip(jobs, self.requests):
            better = better_model(request)
            self.suggestions[job["id"]] = better._asdict() if better else None
        self.words: list[str] = []
        ends = [*accumulate(request.n for request in self.requests)]
        self.rows = [slice(end - request.n, end) for request, end in zip(self.requests, ends)]

    def paint(self) -> None:
        """Paint the jobs."""
        started = time.perf_counter()
        reports = [self.remarks[job["id"]].append for job in self.jobs]
        spec = self.model.spec
        work = Work.of(self.model, self.sampler, self.requests, reports)
        work = replace(work, pictures=self._pictures(spec))
        options = self.task.complete(self.jobs[0]["params"].get("options", {}))
        if remark := self.task.remark(work, options):
            for report in reports:
                report(remark)
        if self.task.shows == "maps" and self.task.reads:  # a picture for each word
            self.words = [word for word, _ in known_words(spec, work.prompt)]
        total = self.task.frame_count(work, options)
        last_preview, x = 0.0, torch.empty(0)
        for step, x in enumerate(self.task.start(work, options), 1):
            if self.worker.should_stop(self.jobs):
                return
            now = time.perf_counter()
            if now - last_preview >= _PREVIEW_SECONDS and step < total:
                last_preview = now
                self._send_progress(step, total, now - started, x)
        self._send_results(to_uint8(x).cpu(), time.perf_counter() - started)

    def _pictures(self, spec: ImageSpec) -> dict[str, Images]:
        """Return the input pictures, in the form that the model takes."""
        pictures: dict[str, Images] = {}
        inputs: dict[str, str] = self.jobs[0]["inputs"]
        for name, file in inputs.items():
            if name == "parent":  # only recorded; its pixels are not used
                continue
            if name.startswith("hint"):  # all hints are read together below
                continue
            try:
                if self.task.whole:
                    x = read_whole(Path(file))
                else:
                    x = (read_mask if name == "mask" else read_picture)(Path(file), spec)
            except LimnerError as error:  # the message names a file of this machine
                raise LimnerError(str(error).replace(file, name)) from None
            pictures[name] = x.to(self.worker.device)
        hints = [hint for hint in hint_inputs(len(inputs)) if hint in inputs]
        if hints:
            report = self.remarks[self.jobs[0]["id"]].append
            names = ["the hint"] if len(hints) == 1 else hints
            batch = read_hints([Path(inputs[hint]) for hint in hints], self.model, report, names)
            pictures["hint"] = batch.to(self.worker.device)
        return pictures

    def _send_progress(self, step: int, total: int, seconds: float, x: Images) -> None:
        """Send the progress of each job, with its pictures side by side."""
        eta = seconds / step * (total - step)
        for job, rows in zip(self.jobs, self.rows):
            images = x[rows] if len(self.jobs) > 1 else x
            self.write(
                {
                    "is": "progress",
                    "id": job["id"],
                    "step": step,
                    "steps": total,
                    "eta": round(eta, 2),
                    **self._notes(job),
                    "pictures": len(images),
                    "frame": _preview(images),
                }
            )

    def _send_results(self, x: torch.Tensor, seconds: float) -> None:
        for job, request, rows in zip(self.jobs, self.requests, self.rows):
            images = x[rows] if self.task.several else x
            pictures: list[Document] = []
            for i, image in enumerate(images):
                single = request.for_picture(i) if self.task.several else request
                settings = single.settings() | self._task_settings(job)
                if self.words:
                    settings["word"] = self.words[i]
                content = png.png(image, settings)
                pictures.append(
                    {
                        "sha256": CommonFiles(self.folder).keep(content),
                        "width": image.shape[2],
                        "height": image.shape[1],
                        "settings": settings,
                    }
                )
            notes = {"seconds": round(seconds, 3)} | self._notes(job)
            document = {"is": "done", "id": job["id"], "pictures": pictures, "notes": notes}
            self.write(document | {"kept": self.task.shows != "maps"})

    def _notes(self, job: Document) -> Document:
        """Return the remarks on a job, and another model that suits it better, if there is one."""
        return {"remarks": self.remarks[job["id"]], "suggestion": self.suggestions[job["id"]]}

    def _task_settings(self, job: Document) -> Document:
        """Return the settings of a picture beyond its request: task, options and inputs, if any."""
        if job["task"] == "paint" and not job["inputs"]:
            return {}
        names = {name: Path(file).stem for name, file in job["inputs"].items()}
        return {"task": job["task"], "options": job["params"].get("options", {}), "inputs": names}

    def write(self, document: Document) -> None:
        """Send a document to the server; one without an id is sent for every job."""
        if "id" in document:
            self.worker.write(document)
            return
        for job in self.jobs:
            self.worker.write(document | {"id": job["id"]})


def _refuse_files(model: GenerativeModel, request: SamplingRequest) -> None:
    """Refuse options that name files of this machine, which only the command line may give.

    Raises:
        LimnerError: the request has such an option.
    """
    options = model.sample_schema()["properties"]
    for name in request.sampler:
        if names_a_file(options.get(name, {})):
            raise LimnerError(f"sampler.{name} names a file; give it on the command line")


def _request_of(job: Document) -> SamplingRequest:
    params = job["params"]
    fields = {key: params[key] for key in ("seed", "vary", "dtype", "sampler") if key in params}
    return SamplingRequest.single(
        job["model"],
        params.get("prompt"),
        params.get("label"),
        negative=params.get("negative") or "",
        n=min(params.get("n", 1), MAX_PICTURES),
        changes=tuple(params.get("changes", ())),
        controls=tuple(params.get("controls", ())),
        size=params.get("size") or None,
        **fields,
    )


def _preview(x: Images) -> str:
    """Return pictures side by side as a small WebP file, in base64."""
    side = max(x.shape[-2:])
    small = torch.nn.functional.avg_pool2d(x, -(-side // _PREVIEW_SIDE))
    sheet = torch.cat(list(to_uint8(small).cpu()), dim=2)
    file = io.BytesIO()
    png.to_pil(sheet).convert("RGB").save(file, "WEBP", quality=80, method=0)
    return base64.b64encode(file.getvalue()).decode()


def devices(text: str) -> list[str]:
    """Return the devices to paint on: the requested one, or every accelerator for "auto"."""
    first = processes.device(text)
    if text == "auto" and first.type == "cuda":
        return [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return [str(first)]


def main(device: str) -> None:
    """Carry out the commands from standard input, until it ends."""
    hold_sigterm()
    output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nothing else may write to the server

    def write(document: Document) -> None:
        output.write(json.dumps(document) + "\n")
        output.flush()

    keep_freed_memory()
    try:
        names = devices(device)
    except LimnerError as error:
        write({"is": "failed", "message": str(error)})
        return
    worker = Worker(torch.device(names[0]), write)
    write({"is": "hello", "device": names[0], "others": names[1:]})
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        for document in _commands(worker):
            if document["do"] == "describe":
                worker.describe(document["models"], document.get("weights", False))
            elif document["do"] == "load":
                with contextlib.suppress(LimnerError):
                    worker.model(document["folder"])
            else:
                worker.work(document["jobs"], Path(document["folder"]))


def _commands(worker: Worker) -> Iterator[Document]:
    """Yield the commands from standard input; a cancellation takes effect immediately."""
    waiting: queue.SimpleQueue[Document | None] = queue.SimpleQueue()

    def listen() -> None:
        for line in sys.stdin:
            document = json.loads(line)
            if document["do"] == "cancel":
                worker.cancelled_ids.add(document["id"])
            else:
                waiting.put(document)
        worker.input_ended.set()
        waiting.put(None)

    threading.Thread(target=listen, daemon=True).start()
    while (document := waiting.get()) is not None:
        yield document


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "auto")
