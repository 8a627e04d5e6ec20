"""Pixel laws: distributions of the values of a pixel, given a network's numbers at that pixel.

A law is a distribution of the values k_1 .. k_C in {0 .. levels - 1} of a pixel's channels,

    p(k | theta) = prod_c p(k_c | k_<c, theta).

It sums to 1, so that log p is the log-likelihood of the discrete picture, without further terms.
Autoregressive models use one channel after the other, decoders all pixels in one call: `theta` and
`k` may have any leading dimensions, with the law's numbers, or the channels, last.

    Bernoulli                  logits of two levels
    Categorical                a softmax over the levels
    Gaussian                   a normal density, integrated over the bin of each level
    DiscretisedLogisticMixture logistic densities, also integrated; their means depend on the
                               channels before

Level k has the value v = 2 k / (levels - 1) - 1, and its bin is [v - 1 / (levels - 1),
v + 1 / (levels - 1)]; the first and the last bin have no outer end.
"""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from limner.contract.image import ImageSpec

_MIN_LOG_SCALE = -7.0  # as in the code of Salimans et al. (2017)
_BLOCK_LEVELS = 2**17  # levels of all pixels that are computed together, to fit in CPU caches


class PixelDistribution(ABC):
    """A distribution of the values of one pixel's channels.

    Args:
        channels: the channels of the picture.
        levels: the number of values of each channel.

    Attributes:
        size: the number of network outputs for each pixel.
    """

    size: int

    def __init__(self, channels: int, levels: int) -> None:
        self.channels, self.levels = channels, levels
        self._at_once = _BLOCK_LEVELS // levels

    @abstractmethod
    def log_prob(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*#at c"]
    ) -> Float[Tensor, "*at"]:
        """Return log p(k | theta) in nats, of all channels of a pixel together."""

    @abstractmethod
    def log_probs(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*at c"], channel: int
    ) -> Float[Tensor, "*at levels"]:
        """Return log p(k_channel = 0 .. levels - 1 | k_<channel, theta); only the channels of k
        before it are read."""

    def mean(self, theta: Float[Tensor, "*at p"]) -> Float[Tensor, "*at c"]:
        """Return the expected value of each channel in [-1, 1], given the expected ones before it.

        This is E[k | theta] if channels are independent, as in all laws except the mixture.
        """
        pixels = theta.reshape(-1, self.size).split(self._at_once)
        parts = [self._mean(chunk) for chunk in pixels]
        return torch.cat(parts).view(*theta.shape[:-1], self.channels)

    def expected_value(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*at c"], channel: int
    ) -> Float[Tensor, "*at"]:
        """Return the expected value in [-1, 1] of a channel, given the channels before it;
        arguments as for `log_probs`."""
        p = self.log_probs(theta, k, channel).exp()
        return p @ _value(torch.arange(self.levels, device=p.device), self.levels, p)

    def sample(
        self, theta: Float[Tensor, "*at p"], u: Float[Tensor, "*at c"]
    ) -> Int[Tensor, "*at c"]:
        """Draw values from the law, with one uniform number in [0, 1) for each value."""
        flat = theta.reshape(-1, self.size), u.reshape(-1, self.channels)
        parts = [self._sample(*chunk) for chunk in zip(*(x.split(self._at_once) for x in flat))]
        return torch.cat(parts).view(u.shape)

    def _mean(self, theta: Float[Tensor, "n p"]) -> Float[Tensor, "n c"]:
        k = torch.zeros(len(theta), self.channels, dtype=torch.int64, device=theta.device)
        values: list[Tensor] = []
        for channel in range(self.channels):
            values.append(self.expected_value(theta, k, channel))
            k[:, channel] = ((values[-1] + 1) * ((self.levels - 1) / 2)).round().long()
        return torch.stack(values, -1)

    def _sample(self, theta: Float[Tensor, "n p"], u: Float[Tensor, "n c"]) -> Int[Tensor, "n c"]:
        k = torch.zeros(u.shape, dtype=torch.int64, device=u.device)
        for channel in range(self.channels):
            k[:, channel] = draw(self.log_probs(theta, k, channel), u[:, channel])
        return k


class Bernoulli(PixelDistribution):
    """Two levels: one logit for each channel, p(1) = sigmoid(logit)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 2)
        self.size = channels

    def log_prob(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*#at c"]
    ) -> Float[Tensor, "*at"]:
        """Return the sum over channels of log sigmoid(+-logit)."""
        logit = _full_precision(theta)
        return F.logsigmoid((2 * k.to(logit.dtype) - 1) * logit).sum(-1)

    def log_probs(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*at c"], channel: int
    ) -> Float[Tensor, "*at levels"]:
        """Return log sigmoid(-logit), log sigmoid(logit)."""
        logit = _full_precision(theta)[..., channel]
        return F.logsigmoid(torch.stack([-logit, logit], -1))


class Categorical(PixelDistribution):
    """Any distribution: a softmax over the levels of each channel.

    van den Oord, Kalchbrenner, Kavukcuoglu (2016), arXiv:1601.06759, section 3.6.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__(channels, levels)
        self.size = channels * levels

    def log_prob(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*#at c"]
    ) -> Float[Tensor, "*at"]:
        """Return the sum over channels of the log-softmax at k."""
        logits = _full_precision(theta).unflatten(-1, (self.channels, self.levels))
        index = k.expand(logits.shape[:-1])[..., None]
        return logits.log_softmax(-1).gather(-1, index).sum((-1, -2))

    def log_probs(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*at c"], channel: int
    ) -> Float[Tensor, "*at levels"]:
        """Return the log-softmax of the channel's logits."""
        start = channel * self.levels
        return _full_precision(theta)[..., start : start + self.levels].log_softmax(-1)


class Gaussian(PixelDistribution):
    """A normal density for each channel, integrated over each level's bin; theta has the means in
    [-1, 1], then the logs of the standard deviations.

    Ho, Jain, Abbeel (2020), arXiv:2006.11239, equation 13.
    """

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__(channels, levels)
        self.size = 2 * channels

    def log_prob(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*#at c"]
    ) -> Float[Tensor, "*at"]:
        """Return the sum over channels of log(Phi(end of the bin) - Phi(start of the bin))."""
        mean, log_deviation = _full_precision(theta).chunk(2, -1)
        return _log_normal_bin(k, mean, log_deviation, self.levels).sum(-1)

    def log_probs(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*at c"], channel: int
    ) -> Float[Tensor, "*at levels"]:
        """Return the same for every level of one channel."""
        mean, log_deviation = _full_precision(theta)[..., channel :: self.channels, None].unbind(-2)
        all_k = torch.arange(self.levels, device=theta.device)
        return _log_normal_bin(all_k, mean, log_deviation, self.levels)

    def expected_value(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*at c"], channel: int
    ) -> Float[Tensor, "*at"]:
        """Return the same as the base class: the sum of P(k' > k) over all levels except the last
        is the expected level."""
        mean, log_deviation = _full_precision(theta)[..., channel :: self.channels].unbind(-1)
        above = self._above(mean, log_deviation).sum(-1)
        return above * (2 / (self.levels - 1)) - 1

    def _sample(self, theta: Float[Tensor, "n p"], u: Float[Tensor, "n c"]) -> Int[Tensor, "n c"]:
        above = self._above(*_full_precision(theta).chunk(2, -1))
        return (above >= 1 - u[..., None]).sum(-1)

    def _above(
        self, mean: Float[Tensor, "*at"], log_deviation: Float[Tensor, "*at"]
    ) -> Float[Tensor, "*at _"]:
        """Return P(k' > k) = Phi((mu - end of the bin of k) / s) for all levels except the last."""
        return torch.special.ndtr(_margins(mean, log_deviation, self.levels))


class DiscretisedLogisticMixture(PixelDistribution):
    """p(k) = sum_i pi_i prod_c P(k_c | mu_ic, s_ic): components that are shared by the channels.

    P is a logistic density integrated over the level's bin. The mean of a channel is linear in the
    values v of the channels before it, mu_ic = m_ic + sum_{d < c} tanh(a_icd) v_d. Salimans,
    Karpathy, Chen, Kingma (2017), arXiv:1701.05517, equations 1 to 3. The bin's mass is computed as

        sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)),

    which is accurate everywhere; the paper's code uses the density where the mass is small.

    Args:
        channels, levels: see `PixelDistribution`.
        components: the number of components of the mixture.
    """

    def __init__(self, channels: int, levels: int, components: int) -> None:
        super().__init__(channels, levels)
        self.components = components
        self._parts = (1, channels, channels, channels * (channels - 1) // 2)
        self.size = components * sum(self._parts)

    def log_prob(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*#at c"]
    ) -> Float[Tensor, "*at"]:
        """Return logsumexp_i(log pi_i + sum_c log P(k_c | mu_ic, s_ic))."""
        return self._joint(_full_precision(theta), k, self.channels).logsumexp(-1)

    def log_probs(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*at c"], channel: int
    ) -> Float[Tensor, "*at levels"]:
        """Return the log-probabilities of the mixture; its components are weighted by their
        posterior given the channels before."""
        theta = _full_precision(theta)
        weights = self._joint(theta, k, channel).log_softmax(-1)
        mean, log_scale = self._component(theta, k, channel)
        all_k = torch.arange(self.levels, device=theta.device)[:, None]
        log_p = _log_logistic_bin(all_k, mean[..., None, :], log_scale[..., None, :], self.levels)
        return (weights[..., None, :] + log_p).logsumexp(-1)

    def expected_value(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*at c"], channel: int
    ) -> Float[Tensor, "*at"]:
        """Return the same as the base class, from P(k' > k) = sigmoid((mu_i - end of the bin of k)
        / s_i): its sum over all levels except the last is the expected level."""
        theta = _full_precision(theta)
        weights = self._joint(theta, k, channel).softmax(-1)
        mean, log_scale = self._component(theta, k, channel)
        above = _margins(mean, log_scale, self.levels).sigmoid().sum(-1)
        return (weights * above).sum(-1) * (2 / (self.levels - 1)) - 1

    def _split(self, theta: Float[Tensor, "*at p"]) -> tuple[Float[Tensor, "*at _ i"], ...]:
        """Return the logits of the components, the means, log-scales and coefficients."""
        rows = theta.unflatten(-1, (-1, self.components))
        return rows.split(self._parts, -2)

    def _joint(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*#at c"], channels: int
    ) -> Float[Tensor, "*at i"]:
        """Return log pi_i + the sum over the first channels of log P(k_c | mu_ic, s_ic)."""
        total = self._split(theta)[0].squeeze(-2).log_softmax(-1)
        for c in range(channels):
            mean, log_scale = self._component(theta, k, c)
            total = total + _log_logistic_bin(k[..., c, None], mean, log_scale, self.levels)
        return total

    def _component(
        self, theta: Float[Tensor, "*at p"], k: Int[Tensor, "*#at c"], channel: int
    ) -> tuple[Float[Tensor, "*at i"], Float[Tensor, "*at i"]]:
        """Return mu_ic and log s_ic of one channel."""
        _, means, log_scales, coefficients = self._split(theta)
        mean, first = means[..., channel, :], channel * (channel - 1) // 2
        for d in range(channel):
            value = _value(k[..., d, None], self.levels, mean)
            mean = mean + coefficients[..., first + d, :].tanh() * value
        return mean, log_scales[..., channel, :]


def softmax_distribution(spec: ImageSpec) -> PixelDistribution:
    """Return the law without assumptions: Bernoulli for two levels, else categorical."""
    if spec.levels == 2:
        return Bernoulli(spec.channels)
    return Categorical(spec.channels, spec.levels)


@torch.no_grad()
def draw(
    log_p: Float[Tensor, "*at levels"],
    u: Float[Tensor, "*at"],
    temperature: float = 1.0,
    top_p: float = 1.0,
) -> Int[Tensor, "*at"]:
    """Return the level at which the cumulative distribution passes u; never a level of probability
    0.

    Args:
        log_p: log-probabilities of the levels.
        u: uniform numbers in [0, 1).
        temperature: the levels are drawn from p^(1 / temperature), normalised; values below 1
            favour probable levels.
        top_p: only the most probable levels are drawn: the fewest that have this mass together.
            Holtzman et al. (2020), arXiv:1904.09751.
    """
    p = (log_p.double() / temperature).softmax(-1)
    if top_p < 1:
        ordered, order = torch.sort(p, dim=-1, descending=True, stable=True)
        is_beyond = ordered.cumsum(-1) - ordered >= top_p
        p = p.scatter(-1, order, ordered.masked_fill(is_beyond, 0))
    cumulative = p.cumsum(-1)
    target = u.double()[..., None] * cumulative[..., -1:]
    return (cumulative <= target).sum(-1)  # like searchsorted, which ONNX lacks


def _full_precision(theta: Float[Tensor, "*at p"]) -> Float[Tensor, "*at p"]:
    """Return theta as float32, or unchanged if it is float64: likelihoods need more digits than
    bfloat16."""
    return theta.to(torch.promote_types(theta.dtype, torch.float32))


def _value(
    k: Int[Tensor, "*at"] | Float[Tensor, "*at"], levels: int, like: Float[Tensor, "..."]
) -> Float[Tensor, "*at"]:
    """Return the value of level k in [-1, 1]."""
    return (2 * k.to(like.dtype) - (levels - 1)) / (levels - 1)


def _margins(
    mean: Float[Tensor, "*at"], log_scale: Float[Tensor, "*at"], levels: int
) -> Float[Tensor, "*at _"]:
    """Return (mu - end of the bin of k) / s for all levels k except the last."""
    edges = _value(torch.arange(levels - 1, device=mean.device) + 0.5, levels, mean)
    return (mean[..., None] - edges) * _per_unit(log_scale)[..., None]


def _per_unit(log_scale: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return 1 / s of a logistic or normal density."""
    return (-log_scale.clamp(_MIN_LOG_SCALE, -_MIN_LOG_SCALE)).exp()


def _log_logistic_bin(
    k: Int[Tensor, "..."],
    mean: Float[Tensor, "..."],
    log_scale: Float[Tensor, "..."],
    levels: int,
) -> Float[Tensor, "..."]:
    """Return the log of the mass of a logistic density in the bin of k; all arguments broadcast."""
    per_unit = _per_unit(log_scale)
    half = per_unit / (levels - 1)
    centre = (_value(k, levels, mean) - mean) * per_unit
    is_first, is_last = k == 0, k == levels - 1
    up_to_end = F.logsigmoid(centre + half).masked_fill(is_last, 0)
    from_start = F.logsigmoid(half - centre).masked_fill(is_first, 0)
    inside = (-torch.expm1(-2 * half)).log().masked_fill(is_first | is_last, 0)
    return up_to_end + from_start + inside


def _log_normal_bin(
    k: Int[Tensor, "..."],
    mean: Float[Tensor, "..."],
    log_deviation: Float[Tensor, "..."],
    levels: int,
) -> Float[Tensor, "..."]:
    """Return the log of the mass of a normal density in the bin of k; all arguments broadcast.

    It uses float64: if a bin is short compared with the deviation, its ends differ in few digits.
    """
    exact, dtype = mean.double(), mean.dtype
    per_unit = (-log_deviation.double().clamp(_MIN_LOG_SCALE, -_MIN_LOG_SCALE)).exp()
    half = per_unit / (levels - 1)
    centre = (_value(k, levels, exact) - exact) * per_unit
    below = torch.special.log_ndtr(half - centre.abs())  # the more accurate of the two tails
    above = torch.special.log_ndtr(-half - centre.abs())
    inside = below + (-torch.expm1(above - below)).log()
    first = torch.special.log_ndtr(centre + half)
    last = torch.special.log_ndtr(half - centre)
    return torch.where(k == 0, first, torch.where(k == levels - 1, last, inside)).to(dtype)
