"""limner: every kind of image generator behind one contract.

A generative model is two iterators: `turns(batch, step)` yields losses, one per turn of the
training game; `frames(n, c)` yields pictures, from first sketch to finished image.

>>> import limner
>>> limner.ImageSpec(channels=3, height=32, width=32).dimensions
3072
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from limner.contract.bundled import load, painting_options
    from limner.contract.checkpoint import save_model
    from limner.contract.errors import LimnerError
    from limner.contract.image import Batch, Condition, Images, ImageSpec, TextSpec
    from limner.contract.likelihood import LikelihoodModel
    from limner.contract.model import GenerativeModel, Learner, Turn
    from limner.contract.noise import Noise
    from limner.contract.registry import Paper, build, models, register
    from limner.contract.text import text_condition
    from limner.data import Dataset, open_data
    from limner.data.picture_files import read_pictures
    from limner.data.png import sheet
    from limner.evaluate.metric import metrics
    from limner.training.recipe import Recipe
    from limner.training.run import resume, train

_HOMES = {
    "contract.bundled": ("load", "painting_options"),
    "contract.checkpoint": ("save_model",),
    "data": ("Dataset", "open_data"),
    "data.picture_files": ("read_pictures",),
    "data.png": ("sheet",),
    "contract.errors": ("LimnerError",),
    "evaluate.metric": ("metrics",),
    "contract.image": ("Batch", "Condition", "ImageSpec", "Images", "TextSpec"),
    "contract.likelihood": ("LikelihoodModel",),
    "contract.model": ("GenerativeModel", "Learner", "Turn"),
    "contract.noise": ("Noise",),
    "contract.registry": ("Paper", "build", "models", "register"),
    "contract.text": ("text_condition",),
    "training.recipe": ("Recipe",),
    "training.run": ("resume", "train"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [
    "Batch",
    "Condition",
    "Dataset",
    "GenerativeModel",
    "ImageSpec",
    "Images",
    "Learner",
    "LikelihoodModel",
    "LimnerError",
    "Noise",
    "Paper",
    "Recipe",
    "TextSpec",
    "Turn",
    "build",
    "load",
    "metrics",
    "models",
    "open_data",
    "painting_options",
    "read_pictures",
    "register",
    "resume",
    "save_model",
    "sheet",
    "text_condition",
    "train",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import limner` does not import torch."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'limner' has no attribute '{name}'")
    return getattr(importlib.import_module(f"limner.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
