"""Samplers: one step from x_t to x_s, s < t, given a denoiser; all have the same signature.

A sampler is an immutable value. The only state is the `State`, which a step returns and the next
one takes. With x_hat = D(x_t, t) and eps_hat = (x_t - alpha_t x_hat) / sigma_t, all of them work
with any schedule (variance-preserving, variance-exploding or flow matching's line). They never
divide by alpha, which may be 0 at the start.
"""

from limner.contract.registry import import_modules

import_modules("maths.samplers")
