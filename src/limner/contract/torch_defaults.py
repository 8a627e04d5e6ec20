"""Torch's defaults while the library computes, whatever the program that uses it has set."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def usual_tensors() -> Iterator[None]:
    """Make new tensors within a `with` ordinary ones on the CPU, unless a device is given.

    A tensor that is made in inference mode cannot be used for a gradient, as in guidance by a
    classifier. So the mode is left; gradients stay off.
    """
    with ExitStack() as stack:
        if torch.compiler.is_compiling():  # a graph has no such modes
            yield
            return
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        yield


@contextmanager
def usual_defaults() -> Iterator[None]:
    """Make new tensors within a `with` as `usual_tensors` does, and floats float32.

    Models are built so: the default of a program is not the type of a file's weights.
    """
    dtype = torch.get_default_dtype()
    with usual_tensors(), ExitStack() as stack:
        if dtype != torch.float32:  # it is one for all threads, so it is set only if need be
            torch.set_default_dtype(torch.float32)
            stack.callback(torch.set_default_dtype, dtype)
        yield
