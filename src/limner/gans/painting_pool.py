"""A pool of earlier paintings, so that a critic does not forget what it was shown.

Shrivastava, Pfister, Tuzel, Susskind, Wang, Webb (2016). Learning from simulated and unsupervised
images through adversarial training. arXiv:1612.07828, section 2.3.
"""

import torch
from torch import Tensor, nn

from limner.contract.image import Images
from limner.contract.noise import Noise


class PaintingPool(nn.Module):
    """The last paintings, some of which stand for new ones.

    Until the pool is full every painting enters it and is shown. Then half of them are shown and
    forgotten; each of the others takes the place of an earlier one, which is shown.

    Its tensors are buffers that are part of a training's state, and of no model file.

    Args:
        size: how many there are; 0 shows every painting and keeps none.
        shape: of a painting.
    """

    paintings: Tensor
    count: Tensor

    def __init__(self, size: int, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.register_buffer("paintings", torch.zeros(size, *shape), persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64), persistent=False)

    @torch.no_grad()
    def exchange(self, new: Images, noise: Noise) -> Images:
        """What a critic is shown in place of new paintings, one after the other.

        Args:
            new: paintings.
            noise: a stream for each.
        """
        size = len(self.paintings)
        new = new.detach().to(self.paintings)
        if not size:
            return new
        keeps, places = noise.uniform() < 0.5, noise.integers(size)
        shown: list[Tensor] = []
        for painting, keep, place in zip(new, keeps.tolist(), places.tolist()):
            if int(self.count) < size:
                self.paintings[int(self.count)] = painting
                self.count += 1
                shown.append(painting)
            elif keep:
                shown.append(self.paintings[place].clone())
                self.paintings[place] = painting
            else:
                shown.append(painting)
        return torch.stack(shown)
