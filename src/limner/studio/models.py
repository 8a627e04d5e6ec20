"""The models of the studio: found by the server, described by a worker, and stored."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import limner
from limner.studio import catalogue
from limner.studio.background import in_slow_thread, in_thread, log
from limner.studio.store import Store
from limner.studio.tables import Job, new_id

Document = dict[str, Any]
_DOCUMENT_NAME = "catalogue"
_REFRESH_SECONDS = 3.0  # between two searches for new runs
# At least so many times the duration of a search, for roots with very many folders.
_REST_FACTOR = 30


class Models:
    """The models below a folder, and the bundled ones.

    Args:
        root: folder below which runs are searched.
        store: store of the descriptions.
        wake: function that is called when a worker should describe models.
        shared: whether models need hashes of their weights, for workers on other hosts.

    Attributes:
        descriptions: descriptions of the models that paint, by name.
        broken: reasons why other models cannot be used, by name.
        folders: folders of all models, by name.
        stamps: texts that change when a model's file does, by name.
        trainable_models: models that can be trained on pictures alone.
        training_options: names of the options of training, see `catalogue.training_options`.
        recall_event: event that is set after the first search for models.
        version: id that is new after every change of the descriptions.
    """

    def __init__(
        self, root: Path, store: Store, wake: Callable[[], None], shared: bool = False
    ) -> None:
        self._root, self._store, self._wake, self._shared = root, store, wake, shared
        self.descriptions: dict[str, Document] = {}
        self.broken: dict[str, str] = {}
        self.folders: dict[str, Path] = {}
        self.trainable_models: list[Document] = []
        self.training_options: dict[str, dict[str, list[str]]] = {}
        self.stamps: dict[str, str] = {}
        self._described_stamps: dict[str, str] = {}
        self._last_refresh = self._refresh_seconds = 0.0
        self.recall_event = asyncio.Event()
        self.version = new_id()

    async def recall(self) -> None:
        """Find the models, and load the descriptions from the server's last run."""
        try:
            cache = await in_thread(self._store.document, _DOCUMENT_NAME)
            await self._find()
            if cache.get("version") == limner.__version__ and cache.get("shared") == self._shared:
                self._learn(cache["models"], cache["stamps"])
        finally:
            self._described_stamps.clear()  # the code may have changed: describe all again
            self.recall_event.set()

    async def refresh(self) -> None:
        """Find the models, unless that was done just before."""
        pause = max(_REFRESH_SECONDS, _REST_FACTOR * self._refresh_seconds)
        if time.monotonic() - self._last_refresh > pause and self.recall_event.is_set():
            self._last_refresh = time.monotonic()
            await self._find()

    @property
    def weights(self) -> set[str]:
        """The hashes of the weights of the models that paint."""
        return {model["weights"] for model in self.descriptions.values() if model.get("weights")}

    def weights_for(self, name: str, controls: Sequence[str]) -> str | None:
        """Return the hash by which workers on other hosts identify a model; None with controls,
        which only the studio's own workers support.
        """
        return None if controls else self.descriptions[name].get("weights")

    def folder(self, job: Job) -> Path | None:
        """Return the folder of a job's model: by name in the studio, by weights on other hosts."""
        if self._store.owner is None:
            return self.folders.get(job.model)
        names = (n for n, model in self.descriptions.items() if model.get("weights") == job.weights)
        return self.folders.get(next(names, ""))

    async def describe(self, ask: Callable[[Document], Awaitable[Document]]) -> None:
        """Have a worker describe new and changed models."""
        unknown, stamps = self._unknown(), dict(self.stamps)
        if not unknown:
            return
        answer = await ask({"do": "describe", "models": unknown, "weights": self._shared})
        self.trainable_models = answer.get("trainable", self.trainable_models)
        self.training_options = answer.get("training_options", self.training_options)
        self._learn(answer["models"], stamps)
        for name in unknown:  # so that a model that vanished is not requested again
            self._described_stamps.setdefault(name, stamps[name])
        models = [*self.descriptions.values()]
        models += [{"name": name, "broken": problem} for name, problem in self.broken.items()]
        if self._store.owner is not None:
            return
        cache = {"version": limner.__version__, "shared": self._shared}
        cache |= {"models": models, "stamps": stamps}
        try:
            await in_thread(self._store.keep, _DOCUMENT_NAME, cache)
        except Exception as error:  # only the next start is slower without it
            log.warning("the descriptions of models were not stored: %s", error)

    async def _find(self) -> None:
        started = time.monotonic()
        self.folders = await in_slow_thread(catalogue.find_models, self._root)
        self._refresh_seconds = time.monotonic() - started
        stamps = {name: catalogue.stamp(folder) for name, folder in self.folders.items()}
        for name in [name for name in self.stamps if name not in stamps]:
            self._forget(name)
        self.stamps, self._last_refresh = stamps, time.monotonic()
        if self._unknown():
            self._wake()

    def _unknown(self) -> dict[str, str]:
        return {
            name: str(folder)
            for name, folder in self.folders.items()
            if self._described_stamps.get(name) != self.stamps[name]
        }

    def _forget(self, name: str) -> None:
        self.descriptions.pop(name, None)
        self.broken.pop(name, None)
        self.version = new_id()

    def _learn(self, models: Sequence[Document], stamps: dict[str, str]) -> None:
        for model in models:
            name = model["name"]
            if stamps.get(name) != self.stamps.get(name):
                continue
            self._described_stamps[name] = stamps[name]
            self._forget(name)
            if "broken" not in model:
                self.descriptions[name] = model
            elif model["broken"]:
                self.broken[name] = model["broken"]
        order = {name: i for i, name in enumerate(self.folders)}
        self.descriptions = dict(sorted(self.descriptions.items(), key=lambda item: order[item[0]]))
