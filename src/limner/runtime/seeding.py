"""torch's global generators, seeded within a `with`."""

import contextlib
import hashlib
from collections.abc import Iterator

import torch

CPU = torch.device("cpu")


@contextlib.contextmanager
def seed_torch(key: tuple[object, ...], device: torch.device = CPU) -> Iterator[None]:
    """Seed torch's global generators with a key within a `with`, and restore them after it."""
    generators = [torch.default_generator]  # torch.manual_seed formats a stack trace each time
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    for generator in generators:
        generator.manual_seed(int.from_bytes(digest, signed=True))
    try:
        yield
    finally:
        for generator, state in zip(generators, states):
            generator.set_state(state)
