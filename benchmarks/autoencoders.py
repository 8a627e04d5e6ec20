"""How fast is training a variational autoencoder, beside pythae, at equal networks?

    pip install "limner[bench]"
    python benchmarks/autoencoders.py --threads 1
    python benchmarks/autoencoders.py --networks convolutional --batches 100 --rounds 5

Each trains on the same binary 28 x 28 pictures, which lie in memory, as it trains by itself, from
the picture's number to the optimiser's step, in a process of its own:

    limner      `Loop.advance` on a `Stream`: fused AdamW, the average of the weights, freed memory
                kept, as `limner train` does
    pythae      `BaseTrainer.train_step`: its data loader, Adam, without its progress bar

The networks are limner's own, handed to pythae as its `BaseEncoder` and `BaseDecoder`: the same
modules, with the same first weights. Before anything is timed, the losses of both for one batch and
the same draws of the code are compared. They take turns, A B A B; medians over the rounds are
printed. Where other programs compute too, look at the ratio's spread.

How to read it:

    img/s       pictures a second, over whole epochs
    limner is   so many times as fast as this row, in the first of its types: median (least-greatest
                of the rounds)

pythae's trainer has no type but float32 on a CPU; limner's bfloat16 is what its recipes take.
"""

import argparse
import logging
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Int, UInt8
from timing import Call, apart, interleaved, ratio, show
from torch import Tensor, nn

from limner import Batch, Condition, ImageSpec, Noise, build
from limner.data.dataset import Dataset
from limner.data.stream import Stream
from limner.runtime.allocator import keep_freed_memory
from limner.training.loop import Loop, TrainOptions

SPEC = ImageSpec(1, 28, 28, levels=2)
LATENT = 50
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (200, 200)},
    "convolutional": {"channels": (32, 64)},
}


class InMemory(Dataset):
    """Black and white pictures at random."""

    def __init__(self, n: int) -> None:
        self.spec = SPEC
        self.kept = (torch.rand(n, *SPEC.shape) < 0.13).to(torch.uint8) * 255

    def __len__(self) -> int:
        return len(self.kept)

    def pixels(self, indices: Int[Tensor, "b"]) -> UInt8[Tensor, "b c h w"]:
        """As they are."""
        return self.kept[indices]


def made(network: str) -> Any:
    """limner's VAE, with the same first weights each time."""
    torch.manual_seed(0)
    return build("vae", SPEC, latent=LATENT, **NETWORKS[network])


def limner(model: Any, data: InMemory, batch: int, dtype: str) -> Call:
    options = TrainOptions.of({"steps": 10**9, "batch": batch, "lr": 1e-3, "dtype": dtype})
    loop = Loop(model, Stream(data, 0).batch, options)
    return lambda: [loop.advance() for _ in range(len(data) // batch)]


def pythae(network: str, n: int, batch: int, folder: str) -> Call:
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback

    logging.disable(logging.INFO)
    peer, data = as_pythaes(made(network)), InMemory(n)
    pictures = BaseDataset(data.kept.float() / 255, torch.zeros(len(data)))
    config = BaseTrainerConfig(
        output_dir=folder, per_device_train_batch_size=batch, learning_rate=1e-3, num_epochs=1
    )
    trainer = BaseTrainer(peer, pictures, training_config=config)
    trainer.prepare_training()
    trainer.callback_handler = CallbackHandler([TrainingCallback()], peer)
    return lambda: trainer.train_step(1)


def as_pythaes(model: Any) -> Any:
    """pythae's VAE with limner's networks."""
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Tensor) -> ModelOutput:
            mean, log_deviation = self.network(2 * x - 1).chunk(2, 1)
            return ModelOutput(embedding=mean, log_covariance=2 * log_deviation)

    class Decoder(BaseDecoder):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, z: Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.network(z).sigmoid().permute(0, 3, 1, 2))

    config = VAEConfig(input_dim=SPEC.shape, latent_dim=LATENT, reconstruction_loss="bce")
    return VAE(config, encoder=Encoder(model.encoder), decoder=Decoder(model.decoder))


def losses(model: Any, data: InMemory) -> tuple[float, float]:
    """Nats of a batch by both, for the same draws of the code."""
    from pythae.data.datasets import DatasetOutput

    numbers = torch.arange(16)
    ours = Batch(data.images(numbers, Noise.keyed(0, 0, numbers)), Condition())
    turn = next(model.turns(ours, 0, Noise.keyed(0, 0, numbers)))
    epsilon = Noise.keyed(0, 0, numbers).normal(LATENT)
    peer = as_pythaes(model)
    peer._sample_gauss = lambda mean, deviation: (mean + deviation * epsilon, epsilon)
    theirs = peer(DatasetOutput(data=data.kept[numbers].float() / 255))
    own = float(turn.logs["reconstruction"] + turn.logs["kl"])
    return own, float(theirs.loss.detach())


def compared(
    network: str, batch: int, pictures: int, rounds: int, folder: str, dtypes: list[str]
) -> list[list[str]]:
    """The rows of one network and batch."""

    data = InMemory(pictures)
    own, other = losses(made(network), data)
    if abs(own / other - 1) > 1e-4:
        raise SystemExit(f"the losses differ: {own:.4f} and {other:.4f} nats a picture")
    calls: dict[str, Callable[[], object]] = {
        f"limner {dtype}": limner(made(network), data, batch, dtype) for dtype in dtypes
    }
    calls["pythae float32"] = apart(pythae, network, pictures, batch, folder)
    first = f"limner {dtypes[0]}"
    seconds = interleaved(calls, rounds, 0)
    rates = {name: pictures / statistics.median(took) for name, took in seconds.items()}
    return [
        [
            name,
            network,
            str(batch),
            f"{rates[name]:,.0f}",
            "" if name == first else ratio(seconds[name], seconds[first]),
        ]
        for name in calls
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[100])
    parser.add_argument("--pictures", type=int, default=2000, help="in an epoch")
    parser.add_argument("--dtypes", nargs="+", default=["float32"], help="limner's")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    keep_freed_memory()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for network in asked.networks:
            for batch in asked.batches:
                rows += compared(network, batch, asked.pictures, asked.rounds, folder, asked.dtypes)
    title = f"training a VAE on 28 x 28 pictures, {asked.threads} thread(s)"
    show(title, ["", "network", "batch", "img/s", "limner is"], rows)


if __name__ == "__main__":
    main()
