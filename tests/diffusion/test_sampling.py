"""Whatever walks from noise to picture takes every option of the walk."""

from dataclasses import replace
from typing import get_type_hints

import pytest
import torch
from toy import SPEC

from limner.contract.image import Condition, Images
from limner.contract.model import GenerativeModel
from limner.contract.registry import build, models
from limner.diffusion.progressive_distillation import Distilled
from limner.diffusion.sampling import Repaints, WalkOptions

TINY = {"channels": (4,)}
LABELS = Condition(label=torch.tensor([0, 1]))
WALKING = [
    of.model
    for of in models().values()
    if issubclass(of.model, Repaints) and not issubclass(of.model, Distilled)
]


@pytest.mark.parametrize("model", [*WALKING, models()["cascade"].model], ids=lambda of: of.name)
def test_every_option_of_the_walk_is_in_the_schema(model: type[GenerativeModel]):
    properties = model.sample_schema()["properties"]
    assert set(get_type_hints(WalkOptions)) < set(properties)
    assert properties["order"] == models()["ddpm"].model.sample_schema()["properties"]["order"]


def latent() -> GenerativeModel:
    plain = replace(SPEC, labels=(), frequencies=())
    stage = build("kl-autoencoder", plain, channels=(4,))
    assert isinstance(stage, GenerativeModel)
    return _generator("latent-diffusion", first_stage=stage, denoiser="edm", options=TINY)


def classifier() -> GenerativeModel:
    return _generator("classifier", base=build("edm", SPEC, **TINY), **TINY)


def cascade() -> GenerativeModel:
    base = build("edm", SPEC.resized(4, 4), patch=1, **TINY)
    return _generator("cascade", base=base, options=TINY)


def _generator(name: str, **options: object) -> GenerativeModel:
    model = build(name, SPEC, **options)
    assert isinstance(model, GenerativeModel)
    return model


@pytest.mark.parametrize("make", [latent, classifier, cascade])
def test_edm_within_another_model_churns_and_guides_as_it_does_alone(make):
    """An option that reached nobody would change no picture."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for p in model.parameters():
            p += 0.1 * torch.randn_like(p)
    guidance = "base_scale" if make is classifier else "scale"

    def painted(**options: object) -> Images:
        return model.sample(2, LABELS, seed=1, steps=3, **{guidance: 3.0}, **options)

    plain = painted()
    assert torch.equal(plain, painted(interval=None, churn=None))
    churned = painted(churn=2.0)
    for changed in (
        churned,
        painted(interval=(1.0, 50.0)),
        painted(rescale=0.7),
    ):
        assert not torch.equal(changed, plain)
    assert torch.equal(plain, painted(churn=2.0, churn_interval=(100.0, 200.0)))
    assert not torch.equal(churned, painted(churn=2.0, churn_noise=1.3))
