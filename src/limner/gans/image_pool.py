"""A pool of earlier generated pictures, so that a critic does not forget them.

Shrivastava, Pfister, Tuzel, Susskind, Wang, Webb (2016). Learning from simulated and unsupervised
images through adversarial training. arXiv:1612.07828, section 2.3.
"""

import torch
from torch import Tensor, nn

from limner.contract.image import Images
from limner.contract.noise import Noise


class ImagePool(nn.Module):
    """A buffer of earlier generated pictures, some of which replace new ones as a critic's input.

    Until the pool is full, every new picture is stored and returned. Afterwards half of the new
    pictures are returned and not stored; each of the others replaces a random stored picture, which
    is returned instead.

    Its tensors are non-persistent buffers: part of the training state, but not of model files.

    Args:
        size: number of stored pictures; 0 returns every new picture and stores none.
        shape: shape of a picture.
    """

    paintings: Tensor
    count: Tensor

    def __init__(self, size: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("paintings", torch.zeros(size, *shape), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def exchange(self, new: Images, noise: Noise) -> Images:
        """Return pictures for the critic in place of new ones, processed one after the other.

        Args:
            new: new generated pictures.
            noise: a random stream for each picture.
        """
        size = len(self.paintings)
        new = new.detach().to(self.paintings)
        if not size:
            return new
        keeps, indices = noise.uniform() < 0.5, noise.integers(size)
        pictures: list[Tensor] = []
        for painting, keep, index in zip(new, keeps.tolist(), indices.tolist()):
            if int(self.count) < size:
                self.paintings[int(self.count)] = painting
                self.count += 1
                pictures.append(painting)
            elif keep:
                pictures.append(self.paintings[index].clone())
                self.paintings[index] = painting
            else:
                pictures.append(painting)
        return torch.stack(pictures)
