"""How fast is the training of a variational autoencoder, compared with pythae, with equal networks?

    pip install "limner[bench]"
    python benchmarks/autoencoders.py --threads 1
    python benchmarks/autoencoders.py --networks convolutional --batches 100 --rounds 5

Both train on the same binary 28 x 28 pictures, which are in memory. Each uses its own training
code, from the picture's number to the optimiser's step, in its own process:

    limner      `Loop.advance` on a `Stream`: fused AdamW, averaged weights, freed memory kept, as
                in `limner train`
    pythae      `BaseTrainer.train_step`: its data loader, Adam, without its progress bar

The networks are limner's own; pythae gets them as its `BaseEncoder` and `BaseDecoder`: the same
modules, with the same initial weights. Before anything is timed, the losses of both are compared,
for one batch and the same samples of the code. They take turns, A B A B; medians over the rounds
are printed. If other programs run at the same time, check how far the ratios spread.

How to read it:

    img/s       pictures per second, over whole epochs
    limner is   how many times as fast as this row limner is, in the first of its types: median
                (smallest-largest of the rounds)

pythae's trainer supports only float32 on a CPU; limner's recipes use bfloat16.
"""

import logging
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from in_memory import InMemory, limner_training
from timing import Call, count, options_parser, ratio, run_in_process, show, time_interleaved
from torch import Tensor, nn

from limner import Batch, Condition, ImageSpec, Noise, build
from limner.runtime.allocator import keep_freed_memory

SPEC = ImageSpec(1, 28, 28, levels=2)
LATENT = 50
NETWORKS: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (200, 200)},
    "convolutional": {"channels": (32, 64)},
}


def make_model(network: str) -> Any:
    """Return limner's VAE, with the same initial weights each time."""
    torch.manual_seed(0)
    return build("vae", SPEC, latent=LATENT, **NETWORKS[network])


def pythae_training(network: str, n: int, batch: int, folder: str) -> Call:
    from pythae.data.datasets import BaseDataset
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import CallbackHandler, TrainingCallback

    logging.disable(logging.INFO)
    model, data = to_pythae(make_model(network)), InMemory(SPEC, n)
    pictures = BaseDataset(data.stored.float() / 255, torch.zeros(len(data)))
    config = BaseTrainerConfig(
        output_dir=folder, per_device_train_batch_size=batch, learning_rate=1e-3, num_epochs=1
    )
    trainer = BaseTrainer(model, pictures, training_config=config)
    trainer.prepare_training()
    trainer.callback_handler = CallbackHandler([TrainingCallback()], model)
    return lambda: trainer.train_step(1)


def to_pythae(model: Any) -> Any:
    """Return pythae's VAE with limner's networks."""
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
    """Return the loss of a batch in nats with limner and with pythae, for the same samples of the
    code.
    """
    from pythae.data.datasets import DatasetOutput

    indices = torch.arange(16)
    ours = Batch(data.images(indices, Noise.keyed(0, 0, indices)), Condition())
    turn = next(model.turns(ours, 0, Noise.keyed(0, 0, indices)))
    epsilon = Noise.keyed(0, 0, indices).normal(LATENT)
    pythae_model = to_pythae(model)
    pythae_model._sample_gauss = lambda mean, deviation: (mean + deviation * epsilon, epsilon)
    output = pythae_model(DatasetOutput(data=data.stored[indices].float() / 255))
    loss_limner = float(turn.logs["reconstruction"] + turn.logs["kl"])
    return loss_limner, float(output.loss.detach())


def compare(
    network: str, batch: int, pictures: int, rounds: int, folder: str, dtypes: list[str]
) -> list[list[str]]:
    """Time both with one network and batch size; return the rows of the table."""

    data = InMemory(SPEC, pictures)
    loss_limner, loss_pythae = losses(make_model(network), data)
    if abs(loss_limner / loss_pythae - 1) > 1e-4:
        raise SystemExit(
            f"the losses differ: {loss_limner:.4f} and {loss_pythae:.4f} nats per picture"
        )
    calls: dict[str, Callable[[], object]] = {
        f"limner {dtype}": limner_training(make_model(network), data, batch, dtype)
        for dtype in dtypes
    }
    calls["pythae float32"] = run_in_process(pythae_training, network, pictures, batch, folder)
    reference = f"limner {dtypes[0]}"
    seconds = time_interleaved(calls, rounds, 0)
    rates = {name: pictures / statistics.median(times) for name, times in seconds.items()}
    return [
        [
            name,
            network,
            str(batch),
            f"{rates[name]:,.0f}",
            "" if name == reference else ratio(seconds[name], seconds[reference]),
        ]
        for name in calls
    ]


def main() -> None:
    parser = options_parser(__doc__)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--batches", nargs="+", type=count, default=[100])
    parser.add_argument("--pictures", type=count, default=2000, help="pictures per epoch")
    parser.add_argument(
        "--dtypes", nargs="+", default=["float32"], help="types of limner's training"
    )
    parser.add_argument("--rounds", type=count, default=7)
    parser.add_argument("--threads", type=count, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        for network in args.networks:
            for batch in args.batches:
                rows += compare(network, batch, args.pictures, args.rounds, folder, args.dtypes)
    title = f"training a VAE on 28 x 28 pictures, {args.threads} thread(s)"
    show(title, ["", "network", "batch", "img/s", "limner is"], rows)


if __name__ == "__main__":
    main()
