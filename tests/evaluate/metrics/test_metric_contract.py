"""Every registered metric passes the metric checks on pictures of a known distribution."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch

from limner.evaluate import metric
from limner.evaluate.metric import Metric, Redrawn, metrics
from limner.evaluate.metrics.precision_recall import precision_recall
from limner.evaluate.picture_sets import RealPictures
from limner.evaluate.report import SUBJECT
from limner.evaluate.subject import Reference
from limner.testing.__main__ import main
from limner.testing.metric_checks import (
    CHECKS,
    ObservationsAtOnce,
    check_interval,
    is_checkable,
    setting_of_law,
)

TESTABLE = [name for name, each in metrics().items() if is_checkable(each)]
SLOW = ("mind", "fld")


@pytest.mark.parametrize("name", TESTABLE)
@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_metric_passes_its_check(check: Callable[[type[Metric]], None], name: str):
    if check is check_interval and name in SLOW:
        check_interval(metrics()[name], repeats=80)
    else:
        check(metrics()[name])


def test_means_of_one_picture_have_no_interval_and_of_two_a_wide_one():
    kid = metrics()["kid"](setting_of_law(metrics()["kid"], dict.fromkeys(get_args(Redrawn), 0)))
    one, two = (kid.mean("error", torch.tensor([0.1, 0.3][:n]), 0) for n in (1, 2))
    assert (one.n, one.low, one.high) == (1, None, None)
    assert (two.n, two.low) == (2, 0) and two.high is not None and two.high > 1


def test_a_frechet_distance_without_interval_states_the_required_n():
    law = setting_of_law(metrics()["fid"], dict.fromkeys(get_args(Redrawn), 0))
    few = metrics()["fid"](replace(law, subject=law.subject.first(8)))
    number = few.numbers(ObservationsAtOnce(few.needs()))[0]
    assert (number.low, number.protocol) == (None, "an interval and the limit need 9 pictures")


def test_the_accuracy_does_not_depend_on_the_order_of_the_classes():
    law = setting_of_law(metrics()["accuracy"], dict.fromkeys(get_args(Redrawn), 0))
    data = law.reference.dataset
    order = torch.randperm(len(data.spec.labels), generator=torch.Generator().manual_seed(0))
    renamed = copy.copy(data)
    renamed.spec = replace(data.spec, labels=tuple(data.spec.labels[i] for i in order.tolist()))
    renamed.labels = order.argsort()[data.labels]
    shares = []
    for real in (law.reference, RealPictures(renamed, name="renamed")):
        metric = metrics()["accuracy"](
            replace(law, against=Reference(real, None, real), subject=real)
        )
        shares.append(metric.numbers(ObservationsAtOnce(metric.needs()))[0].value)
    assert shares[0] == shares[1] > 0.5


def test_neighbours_are_compared_in_equally_many_pictures():
    law = setting_of_law(metrics()["precision-recall"], dict.fromkeys(get_args(Redrawn), 0))
    few = metrics()["precision-recall"](replace(law, subject=law.subject.first(20)))
    observations = ObservationsAtOnce(few.needs())
    subject, real = (
        observations.of(pictures, few.observer)["features"]
        for pictures in (few.setting.subject, law.reference)
    )
    precision, recall = precision_recall(real[:20], subject)
    values = {
        number.name: number.value for number in few.numbers(observations) if number.row == SUBJECT
    }
    assert len(real) > 20
    assert values == {"precision": precision.value, "recall": recall.value}


GUIDE = (Path(__file__).parents[3] / "examples" / "new_metric.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        ('    reads = ("features",)\n', "", "reads of Vendi is missing or of another type; write"),
        ('("features",)', '("features")', 'or of another type; write reads = ("features",)'),
        ('("features",)', '("feature",)', "did you mean 'features'? (in reads of Vendi)"),
        ('"higher"', '"more"', "unknown word 'more'; known: higher, lower (in better of Vendi)"),
        ("    def numbers", "    def number_of", "Vendi has no numbers; write def numbers(self"),
        ('@metric("vendi"', '@metric("Vendi score"', "write the metric's name in lower case, "),
        ('@metric("vendi"', '@metric("fid"', "is taken by FrechetDistance of limner.evaluate.met"),
        (
            "        return numbers\n",
            "",
            "numbers of Vendi returns NoneType; return a list, each",
        ),
        (
            "return numbers\n",
            "return numbers[0]\n",
            "numbers of Vendi returns Number; return a list",
        ),
        (
            "return numbers\n",
            "return []\n",
            "numbers of Vendi returns []; return a list",
        ),
        (
            "return numbers\n",
            "return [(1, 2)]\n",
            "numbers of Vendi returns a list of tuple; return a list, each",
        ),
        (
            "    def numbers",
            "    def needs(self):\n        return None\n\n    def numbers",
            "needs of Vendi does not return pairs of pictures and an observer; return a list such",
        ),
    ],
)
def test_a_mistake_in_a_metric_gives_one_line(
    right: str, wrong: str, said: str, tmp_path: Path, monkeypatch, capsys
):
    metrics()
    monkeypatch.setattr(metric, "_metrics", dict(metric._metrics))
    file = tmp_path / "own_metric.py"
    assert right in GUIDE
    file.write_text(GUIDE.replace(right, wrong), encoding="utf-8")
    assert main([str(file)]) in (1, 2)
    output = capsys.readouterr().err
    assert said in output
    assert "Traceback" not in output
