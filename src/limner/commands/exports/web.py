"""Implementation of `limner export --format web`: a folder that paints in the visitor's browser.

The folder can be put on any web server. It contains a page, the model's networks as ONNX graphs,
the table of the sampling steps, and ONNX Runtime's files from npm. The page uses no other server.
"""

import json
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from limner.autoregressive.autoregressive_model import AutoregressiveModel
from limner.commands.exports.onnx_file import convert, difference
from limner.commands.exports.onnx_graph import (
    WeightFormat,
    file_content,
    has_float64,
    reduce_weights,
)
from limner.contract.atomic_files import atomic_file
from limner.contract.errors import LimnerError, writing
from limner.contract.model import GenerativeModel
from limner.contract.text import CHARACTERS, word_pieces
from limner.runtime.cache import cache_folder

_PAGE = ("index.html", "limner.js", "noise.js", "words.js")
_RUNTIME = (
    "ort.wasm.min.mjs",
    "ort-wasm-simd-threaded.mjs",
    "ort-wasm-simd-threaded.wasm",
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
)
_PACKAGE = "onnxruntime-web@1.30.0"


def write_web(
    model: GenerativeModel,
    options: Mapping[str, Any],
    folder: Path,
    *,
    title: str,
    store: WeightFormat,
    runtime: Path | None = None,
) -> Path:
    """Write a folder whose page paints one picture at a time.

    Args:
        model: model in evaluation mode.
        options: checked sampler options.
        folder: a new or an empty folder.
        title: title of the page.
        store: number format in which large weights are stored.
        runtime: the folder `dist` of onnxruntime-web; fetched with npm if None.

    Returns:
        the folder.

    Raises:
        LimnerError: the model cannot be written as a graph, the folder is in use, or the runtime is
            not available.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LimnerError(f"{folder} is in use; name a new folder")
    if model.spec.text and model.spec.text.asset == CHARACTERS:
        raise LimnerError(
            "a model with its own tokenizer cannot be written for the browser; export another"
        )
    if model.spec.hint:
        raise LimnerError(
            "a model with an input picture cannot be written for the browser; export another"
        )
    if isinstance(model, AutoregressiveModel):
        raise LimnerError(
            f"{model.name} models paint pixel by pixel, which takes too long in a browser; "
            "export another"
        )
    if runtime and (missing := [name for name in _RUNTIME if not (runtime / name).is_file()]):
        raise LimnerError(f"{runtime} has no {missing[0]}; give the folder dist of {_PACKAGE}")
    dist = runtime or _fetch_runtime()
    description, graphs = _parts(model, options, store)
    description |= {"title": title, "graphs": list(graphs)}
    with writing(folder):
        try:
            (folder / "ort").mkdir(parents=True)
            for name in _RUNTIME:
                shutil.copyfile(dist / name, folder / "ort" / name)
            for name in _PAGE:
                page = files("limner.commands.exports").joinpath("page", name)
                (folder / name).write_text(page.read_text("utf-8"), "utf-8")
            for name, content in graphs.items():
                (folder / f"{name}.onnx").write_bytes(content)
            (folder / "model.json").write_text(json.dumps(description), "utf-8")
            if model.spec.text:
                words = {"length": model.spec.text.length, "pieces": word_pieces()}
                (folder / "words.json").write_text(json.dumps(words, ensure_ascii=False), "utf-8")
        except BaseException:  # such as a full disk; a partial folder would block the next try
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return folder


def _parts(
    model: GenerativeModel, options: Mapping[str, Any], store: WeightFormat
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the description for the page, and the graphs by name."""
    spec, export = model.spec, convert(model, options, 1)
    description: dict[str, Any] = {
        "float64": any(map(has_float64, export.networks.values() or [export.graph])),
        "picture": spec.shape,
        "labels": spec.labels,
        "text": spec.text is not None,
    }
    content = file_content(reduce_weights(export.graph, store))
    difference(content, export, store)
    if export.loop is None:
        description["noise"] = {
            name: {"law": d.law, "shape": d.shape, "type": str(d.dtype).removeprefix("torch.")}
            for name, d in export.draws.items()
        }
        return description, {"painter": content}
    description |= {
        "shape": tuple(export.loop.first.shape[1:]),
        "deviation": export.loop.deviation,
        "looks": [row._asdict() for row in export.loop.table],
    }
    return description, {
        n: file_content(reduce_weights(graph, store)) for n, graph in export.networks.items()
    }


def _fetch_runtime() -> Path:
    """Return the cached runtime, which npm fetches the first time.

    Raises:
        LimnerError: npm is not installed, or fails.
    """
    name = _PACKAGE.replace("@", "-")
    folder = cache_folder() / name
    if (folder / _RUNTIME[-1]).is_file():
        return folder
    hint = f"give --runtime FOLDER, the folder dist of the npm package {_PACKAGE}"
    if shutil.which("npm") is None:
        raise LimnerError(
            f"npm, which fetches ONNX Runtime for the browser, is not installed; {hint}"
        )
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.run(
            ["npm", "pack", "--silent", _PACKAGE], cwd=directory, capture_output=True
        )
        archives = [*Path(directory).glob("*.tgz")]
        if process.returncode or not archives:
            raise LimnerError(f"npm could not fetch {_PACKAGE}; {hint}")
        with writing(folder, "set LIMNER_CACHE to a folder that can be written"):
            folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archives[0]) as archive:
            for file in _RUNTIME:
                source = archive.extractfile(f"package/dist/{file}")
                assert source is not None
                with source, atomic_file(folder / file) as new, new.open("wb") as target:
                    shutil.copyfileobj(source, target)
    return folder
