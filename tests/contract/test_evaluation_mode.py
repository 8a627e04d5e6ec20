"""A model in training mode may be used from many threads, and stays in training mode."""

import threading
from typing import Any

import torch
import toys

from limner.contract.codes import Encodes
from limner.contract.evaluation_mode import evaluation_mode
from limner.contract.image import ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build

GREY = ImageSpec(1, 2, 2)


def test_the_mode_is_restored_when_the_last_user_leaves():
    model: Any = toys.Dropout(GREY).train()
    first, second = model.watch(1), model.watch(1)
    next(first), next(second)
    first.close()
    assert not model.training
    second.close()
    assert model.training
    with evaluation_mode(model), evaluation_mode(model.eval()):
        assert not model.training
    assert model.training


def test_a_call_of_train_while_sampling_takes_effect():
    model: Any = toys.Dropout(GREY).eval()
    frames = model.watch(1)
    next(frames)
    model.train().sample(1)
    assert model.training
    frames.close()
    assert model.training


def test_threads_sample_the_same_as_one_and_leave_the_mode_unchanged():
    model: Any = toys.Dropout(GREY, width=64).eval()
    noise = Noise.sampling(0, 64).normal(toys.LATENT)
    expected = [model.sample(64, seed=i) for i in range(4)]
    model.train()
    results: list[Any] = [[] for _ in expected]
    starting = threading.Barrier(4)

    def paint(i: int) -> None:
        starting.wait()
        for _ in range(40):
            results[i].append(model.sample(64, seed=i))

    threads = [threading.Thread(target=paint, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert model.training
    assert not torch.equal(model.painter(noise), model.eval().painter(noise))  # dropout is active
    for samples, x in zip(results, expected):
        assert all(torch.equal(sample, x) for sample in samples)


def test_codes_are_computed_in_evaluation_mode():
    model = build("autoencoder", ImageSpec(1, 8, 8)).train()
    assert isinstance(model, Encodes)
    modes = list[bool]()
    for layer in model.modules():
        layer.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    model.encode(torch.zeros(2, 1, 8, 8))
    assert modes and not any(modes)
    assert model.training
