"""Progressive distillation: one step of the student equals several of its teacher."""

from dataclasses import replace

import pytest
import torch
from test_latent_diffusion import Identity
from torch import nn

from limner.commands.request import SamplingRequest
from limner.commands.sheets.sample import paint_sheet
from limner.contract.bundled import bundled_models
from limner.contract.checkpoint import digest, load, save_model, sha256, weight_files
from limner.contract.errors import LimnerError
from limner.contract.image import Batch, Condition, ImageSpec
from limner.contract.noise import Noise
from limner.contract.registry import build
from limner.contract.text import text_spec
from limner.diffusion.ddpm import DDPM
from limner.diffusion.edm import EDM
from limner.diffusion.flow_matching import FlowMatching
from limner.diffusion.latent_diffusion import LatentDiffusion
from limner.diffusion.progressive_distillation import Distilled
from limner.diffusion.sampling import Plan
from limner.maths.denoisers import Clipped, Conditional, Guided
from limner.maths.samplers.ddim import DDIM
from limner.maths.samplers.dpm_solver import DPMSolver
from limner.maths.samplers.sampler import State
from limner.nn.low_rank import LowRank

SPEC = ImageSpec(1, 4, 4, labels=("a", "b"), frequencies=(0.5, 0.5))
TEACHERS = {
    "ddpm": lambda: DDPM(SPEC, channels=(8,), schedule="cosine", prediction="x"),
    "learned": lambda: DDPM(SPEC, channels=(8,), variance="learned", prediction="v"),
    "edm": lambda: EDM(SPEC, channels=(8,)),
    "line": lambda: FlowMatching(SPEC, channels=(8,)),
}
every_teacher = pytest.mark.parametrize("make", TEACHERS.values(), ids=TEACHERS)


def randomised(network: nn.Module) -> nn.Module:
    """Add noise to all weights, so that no output is 0; return the network."""
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn_like(p)
    return network


def student(make=TEACHERS["line"], **options) -> Distilled:
    teacher = make().double()
    randomised(teacher.network)
    return Distilled(SPEC, teacher, **{"substeps": 3, "scale": 2.0} | options).double().eval()


def random_batch(n: int) -> Batch:
    return Batch(torch.rand(n, *SPEC.shape).double() - 0.5, Condition(torch.arange(n) % 2))


def teacher_end(model: Distilled, x_t, first: int, c: Condition):
    """Return the teacher's x at the student's next time, and the teacher's times."""
    times = model.schedule.times(model.steps * model.substeps)[first : first + model.substeps + 1]
    plan = Plan(DPMSolver(), Clipped(Guided(model.teacher, model.scale)), times)
    return plan.end(x_t, c, Noise.sampling(0, len(x_t))), times


@every_teacher
@pytest.mark.parametrize("step", [0, 1, 2, 3])
@torch.no_grad()
def test_the_loss_is_the_distance_between_the_ends_of_both(make, step):
    """In DDIM's step x_s = k x_t + (alpha_s - k alpha_t) x_hat, only x_hat is the student's."""
    model = student(make, steps=3, condition_dropout=0.0)
    randomised(model.change)
    batch = random_batch(6)
    keyed = Noise.keyed(0, step, range(6))
    (turn,) = model.turns(batch, step, keyed)
    first = step % 3 * 3
    t = model.schedule.times(9)[first]
    alpha_t, sigma_t = map(float, model.schedule(t))
    x_t = alpha_t * batch.x + sigma_t * Noise.keyed(0, step, range(6)).normal(*SPEC.shape)
    x_s, times = teacher_end(model, x_t, first, batch.c)
    s = times[-1]
    student_end = DDIM().step(Conditional(model, batch.c), State(x_t, x_t), t, s, keyed).x
    alpha_s, sigma_s = map(float, model.schedule(s))
    gain = alpha_s - sigma_s / sigma_t * alpha_t
    weight = max((alpha_t / sigma_t) ** 2, 1.0)
    expected = weight * (student_end - x_s).square().mean() / gain**2
    torch.testing.assert_close(turn.loss, expected, rtol=1e-6, atol=0)


def test_a_student_learns_to_end_where_its_teacher_does():
    torch.manual_seed(0)
    model = student(TEACHERS["ddpm"], steps=1, substeps=6, rank=8)
    c, x = Condition(torch.arange(64) % 2), torch.randn(64, *SPEC.shape).double()

    @torch.no_grad()
    def distance() -> float:
        model.eval()
        end, _ = teacher_end(model, x, 0, c)
        student_end = model.plan().end(x, c, Noise.sampling(0, 64))
        return float((student_end - end).square().mean())

    before = distance()
    optimizer = torch.optim.Adam(model.change.parameters(), lr=1e-2)
    weights = [p.clone() for p in model.teacher.parameters()]
    model.train()
    for step in range(30):
        (turn,) = model.turns(random_batch(32), step, Noise.keyed(0, step, range(32)))
        optimizer.zero_grad()
        turn.loss.backward()
        optimizer.step()
    assert distance() < 0.2 * before
    assert all(torch.equal(a, b) for a, b in zip(weights, model.teacher.parameters()))


@torch.no_grad()
def test_in_identity_latents_it_equals_pixel_distillation(monkeypatch):
    options = {"channels": (8,), "patch": 2}
    latent = LatentDiffusion(SPEC, Identity(SPEC), "flow-matching", options)
    plain = FlowMatching(SPEC, **options)
    randomised(latent.denoiser)
    plain.load_state_dict(latent.denoiser.state_dict())
    latent_student, pixel_student = (
        Distilled(SPEC, teacher, scale=3.0).eval() for teacher in (latent, plain)
    )
    randomised(latent_student.change)
    pixel_student.change.load_state_dict(latent_student.change.state_dict())
    x, c = torch.rand(4, *SPEC.shape) - 0.5, Condition(torch.tensor([0, 1, 0, 1]))
    monkeypatch.setattr("limner.diffusion.progressive_distillation.Clipped", lambda D: D)

    def results(model: Distilled):
        keyed = Noise.keyed(0, 3, range(4))
        return (
            next(model.turns(Batch(x, c), 3, keyed)).loss,
            model.sample(4, c, seed=1),
            [*model.edit(x, c, strength=0.5, seed=2)][-1],
        )

    for first, second in zip(results(latent_student), results(pixel_student)):
        torch.testing.assert_close(first, second, rtol=0, atol=1e-6)


def test_an_edit_in_one_step_names_no_option_that_a_student_lacks():
    student = Distilled(SPEC, FlowMatching(SPEC, channels=(8,)), steps=1).eval()
    with pytest.raises(LimnerError, match=r"a part of it; give strength=1$"):
        [*student.edit(torch.zeros(1, *SPEC.shape), strength=0.5)]


def test_a_latent_student_samples_and_has_attention_maps():
    spec = ImageSpec(3, 16, 16, text=text_spec(4))
    stage = build("kl-autoencoder", ImageSpec(3, 16, 16), channels=(4, 8), latent=2)
    options = {"channels": (8, 8), "attention": 2}
    teacher = LatentDiffusion(spec, stage, "flow-matching", options)
    model = Distilled(spec, teacher, rank=2)
    c = Condition(text=torch.tensor([[1, 2, 0, 0]]))
    assert model.sample(2, c.repeat(2)).shape == (2, 3, 16, 16)
    maps = model.attention_maps(torch.zeros(2, 3, 16, 16), c)
    assert maps.shape == (2, 4, 16, 16) and maps.any()
    with pytest.raises(LimnerError, match="give the same"):
        Distilled(replace(spec, text=None), teacher)
    with pytest.raises(LimnerError, match="shortcut models paint in few steps already"):
        Distilled(spec, LatentDiffusion(spec, stage, "shortcut", {"channels": (8,)}))


def test_sampling_takes_one_evaluation_per_step():
    model = student(steps=3).float()
    calls = []
    model.change.register_forward_hook(lambda *_: calls.append(1))
    frames = list(model.watch(2, Condition(torch.tensor([0, 1]))))
    assert len(calls) == 3
    assert len(frames) == model.frame_count() == 4


def test_an_untrained_student_equals_its_teacher():
    model, batch = student(), random_batch(3)
    t = torch.tensor(0.4).double()
    with torch.no_grad():
        x_hat, expected = (D(batch.x, t, batch.c).x_hat for D in (model, model.teacher))
    torch.testing.assert_close(x_hat, expected)


@pytest.mark.filterwarnings("error")
def test_a_teacher_with_a_learned_schedule_causes_no_warning():
    spec = ImageSpec(1, 4, 4)
    student = Distilled(spec, build("vdm", spec, channels=(8,), hidden=4))
    assert student.sample(1).isfinite().all()


def test_unsuitable_teachers_and_options_are_refused():
    with pytest.raises(LimnerError, match="only denoising models can teach, not vae"):
        Distilled(SPEC, build("vae", SPEC))
    with pytest.raises(LimnerError, match="shortcut models paint in few steps already"):
        Distilled(SPEC, build("shortcut", SPEC, channels=(8,)))
    with pytest.raises(LimnerError, match="give the same"):
        Distilled(ImageSpec(1, 8, 8), TEACHERS["line"]())
    with pytest.raises(LimnerError, match=r"distil a teacher with model\.prediction=v or x"):
        Distilled(SPEC, DDPM(SPEC, channels=(8,)))
    with pytest.raises(LimnerError, match=r"should be 'ddim', 'euler', 'heun', 'dpm\+\+' or"):
        student(sampler="ancestral")
    with pytest.raises(LimnerError, match="--negative has no effect"):
        student()(random_batch(1).x, torch.tensor(1.0), Condition(avoid=torch.zeros(1, 2).long()))
    with pytest.raises(LimnerError, match=r"train.init.teacher=runs/NAME"):
        build("distilled", SPEC)


def test_the_bundled_student_paints_like_its_teacher():
    """Its picture is nearer to the teacher's of the same prompt and seed than to the others."""
    prompts = "a red apple", "a dog", "keycap: 2"
    slow, fast = (
        paint_sheet(SamplingRequest(name, prompts))[0].images.float().flatten(1)
        for name in ("emoji", "emoji-fast")
    )
    distances = torch.cdist(fast, slow)
    others = distances + 1e9 * torch.eye(3)
    assert (2 * distances.diag() < others.amin(1)).all()


def test_a_low_rank_change_equals_changed_weights():
    """It equals a copy of the network with the weights W + B A, before and after a step."""
    network = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(20, 3)).double()
    change = LowRank(network, 2).double().eval()
    x = torch.randn(4, 2, 4, 4).double()
    torch.testing.assert_close(change(network, x), network(x))
    for _ in range(2):
        randomised(change.train())
        weights = {k: v.clone() for k, v in network.state_dict().items()}
        for name, A, B in zip(("0.weight", "2.weight"), change.A, change.B):
            weights[name] = weights[name] + (B @ A).reshape(weights[name].shape)
        copy = nn.Sequential(nn.Conv2d(2, 5, 3), nn.Flatten(), nn.Linear(20, 3)).double()
        copy.load_state_dict(weights)
        change.eval()
        with torch.no_grad():
            for _ in range(2):  # first computed, then cached
                torch.testing.assert_close(change(network, x), copy(x))
    loss = change(network, x).square().sum()
    grads = torch.autograd.grad(loss, list(change.parameters()))
    assert all(float(grad.abs().max()) > 0 for grad in grads)


def test_a_file_may_omit_weights_of_a_bundled_model(tmp_path):
    """The whole model is loaded, and the file is smaller."""
    model = load(bundled_models()["lenet"])
    key = next(iter(model.state_dict())).split(".")[0] + "."
    shared = {key: f"lenet:{key}"}
    save_model(model, tmp_path / "part.safetensors", shared=shared)
    save_model(model, tmp_path / "whole.safetensors")
    weights = load(tmp_path / "part.safetensors").state_dict()
    assert all(torch.equal(t, weights[name]) for name, t in model.state_dict().items())
    part, full = ((tmp_path / f"{n}.safetensors").stat().st_size for n in ("part", "whole"))
    assert part < full
    base_file, file = bundled_models()["lenet"] / "model.safetensors", tmp_path / "part.safetensors"
    assert weight_files(file) == [file, base_file]
    before = digest(file)
    assert before != sha256(file), "the digest must cover the whole model, not only its own file"
    save_model(model, file)
    assert digest(file) == sha256(file)
    save_model(model, tmp_path / "other.safetensors", shared={key: f"nobody:{key}"})
    with pytest.raises(LimnerError, match="shares weights with 'nobody'"):
        load(tmp_path / "other.safetensors")


def test_losses_of_different_steps_are_not_compared():
    assert not student().loss_compares
