"""Averages of other widths after training, against averages updated during the training."""

import pytest
import torch
from test_run import Ramps, recipe

from limner.contract.checkpoint import load, load_tensors
from limner.contract.errors import LimnerError
from limner.training.averages import PowerAverages, average_beta, gamma, lerp_
from limner.training.reconstruction import _product, reconstruct, solve, write_average
from limner.training.run import resume, train

UPDATES, EVERY = 400, 20


def test_the_product_of_profiles_equals_the_integral():
    times = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000 * 50

    def profile(exponent, end):
        height = (exponent + 1) * times**exponent / end ** (exponent + 1)
        return torch.where(times <= end, height, 0)

    for a, b in [((6.94, 50), (16.97, 50)), ((16.97, 20), (6.94, 50)), ((6.94, 31), (6.94, 20))]:
        summed = float((profile(*a) * profile(*b)).sum() * 50 / 200_000)
        assert _product(a, b) == pytest.approx(summed, rel=1e-3)
        assert _product(b, a) == _product(a, b)


def test_a_stored_profile_has_all_the_weight():
    profiles = [(6.94, 10.0), (16.97, 10.0), (6.94, 20.0), (16.97, 20.0)]
    for i, profile in enumerate(profiles):
        shares, error = solve(profiles, profile)
        assert shares == pytest.approx([float(j == i) for j in range(4)], abs=0.01)
        assert error < 2e-3


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """Return snapshots of two widths along a random walk, and the walk."""
    run = tmp_path_factory.mktemp("walk")
    weight = torch.zeros(40)
    averages = PowerAverages((0.05, 0.1), {"w": weight})
    generator, path = torch.Generator().manual_seed(0), []
    for t in range(UPDATES):
        weight += torch.randn(40, generator=generator) * 0.1
        path.append(weight.clone())
        averages.follow(t)
        if (t + 1) % EVERY == 0:
            averages.save(run, t + 1, t + 1, 4 * (t + 1))
    return sorted((run / "averages").iterdir()), path


@pytest.mark.parametrize("width, near", [(0.05, 2e-3), (0.1, 2e-3), (0.075, 0.01), (0.15, 0.03)])
def test_any_width_equals_an_average_updated_in_training(walk, width, near):
    files, path = walk
    average, beta = torch.zeros(40), average_beta("power", width)
    for t, weight in enumerate(path):
        lerp_([average], [weight], beta(t))
    weights, images, error = reconstruct(files, width)
    assert images == 4 * UPDATES and error < 0.1
    distance = (weights["w"] - average).norm() / (path[-1] - average).norm()
    assert distance < near
    # The nearer of the two stored widths has a larger error, unless it is the requested one.
    if width not in (0.05, 0.1):
        snapshot = load_tensors(files[-1])
        nearest = min((snapshot[f"{w:g}/w"].float() - average).norm() for w in (0.05, 0.1))
        assert (weights["w"] - average).norm() < 0.5 * nearest


@pytest.mark.parametrize("every, width", [(20, 0.12), (100, 0.2), (200, 0.25), (400, 0.02)])
def test_weights_of_snapshots_sum_to_one(every, width):
    """Also if so few states were kept that the profile is far from the wanted one."""
    profiles = [(gamma(w), float(t)) for t in range(every, 401, every) for w in (0.05, 0.1)]
    shares, _ = solve(profiles, (gamma(width), 400.0))
    assert shares.sum() == pytest.approx(1, abs=1e-9)


def test_rounding_to_half_precision_is_not_enlarged():
    """The average of a width beyond the kept ones is nearer than the nearest kept one."""
    widths, target = (0.05, 0.1, 0.2), 0.02
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(40, generator=generator)
    averages = PowerAverages((target, *widths), {"w": weight})
    profiles, snapshots, state = [], [], {}
    for t in range(1, UPDATES + 1):
        weight += 3e-3 * torch.randn(40, generator=generator)
        averages.follow(t - 1)
        if t % 5 == 0:
            state = averages.state()
            profiles += [(gamma(width), float(t)) for width in widths]
            snapshots += [state[f"{width:g}/w"].half().float() for width in widths]
    shares, error = solve(profiles, (gamma(target), float(UPDATES)))
    average = state["0.02/w"]
    result = torch.from_numpy(shares).float() @ torch.stack(snapshots)
    assert error < 0.1
    assert (result - average).norm() < 0.5 * (state["0.05/w"] - average).norm()


def test_a_resumed_run_has_the_same_averages(tmp_path):
    """Each width equals a run with that train.ema, and a resumed run is bit-identical."""
    options = {"widths": (0.05, 0.1), "average": "power", "ema": 0.1, "steps": 12}
    run = train(recipe("toy-gan", **options), tmp_path / "a", dataset=Ramps(), device="cpu").parent

    def on_step(loop, logs):
        return loop.step == 8

    train(
        recipe("toy-gan", **options), tmp_path / "b", dataset=Ramps(), device="cpu", on_step=on_step
    )
    resume(tmp_path / "b", dataset=Ramps(), device="cpu")
    names = [path.name for path in sorted((run / "averages").iterdir())]
    assert names[0] == "step-00000003.safetensors" and names[-1] == "step-00000012.safetensors"
    for name in names:
        assert (run / "averages" / name).read_bytes() == (
            tmp_path / "b/averages" / name
        ).read_bytes()

    folder, error = write_average(run, 0.1)
    assert error < 2e-3
    model, expected = load(folder), load(run)
    for (name, ours), theirs in zip(model.named_parameters(), expected.parameters()):
        torch.testing.assert_close(ours, theirs, atol=2e-3, rtol=2e-3, msg=name)
    early, _ = write_average(run, 0.1, step=6)
    assert early.name == "width-0.1-step-6"
    (run / "averages" / "width-0.2-step-6").touch()
    with pytest.raises(LimnerError, match=r"cannot write .*width-0\.2-step-6: .* is a file"):
        write_average(run, 0.2, step=6)

    with pytest.raises(LimnerError, match=r"no averages at step 7; the nearest is 6"):
        write_average(run, 0.1, step=7)
    with pytest.raises(LimnerError, match=r"--width=0\.4: .* below 0\.289"):
        write_average(run, 0.4)
    with pytest.raises(LimnerError, match=r"train\.widths cannot change"):
        resume(run, ["train.widths=0.02,0.1", "train.steps=14"], dataset=Ramps(), device="cpu")


def test_without_snapshots_the_error_states_how_to_store_them(tmp_path):
    with pytest.raises(LimnerError, match=r"kept no averages; train with train\.widths=0\.05,0\.1"):
        write_average(tmp_path, 0.1)
    with pytest.raises(LimnerError, match=r"train\.widths=0\.3"):
        recipe("toy-gan", widths=(0.3,)).options()
