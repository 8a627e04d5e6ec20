"""The metric `retrieval`: ranks, ties, chance level and intervals."""

from typing import get_args

import pytest
import torch

from limner.contract.errors import LimnerError
from limner.evaluate.metric import Redrawn
from limner.evaluate.metrics.retrieval import Retrieval, gallery, nearest, ranks, retrieval
from limner.evaluate.metrics.statistics import wilson_interval
from limner.testing.metric_checks import ObservationsAtOnce, setting_of_law


def test_the_best_similarity_has_rank_1_and_the_worst_is_last():
    result = retrieval(torch.eye(30), torch.arange(30))
    assert result.r1 == result.r5 == (1, *wilson_interval(1, 30)) and result.r1.low < 0.9
    assert result.median_rank == (1, 1, 1)
    assert result.gallery == 30
    worst = retrieval(-torch.eye(30), torch.arange(30))
    assert worst.r1 == worst.r5 == (0, *wilson_interval(0, 30)) and worst.r1.high > 0.1
    assert worst.median_rank == (30, 30, 30)


def test_random_similarities_score_k_over_the_gallery_size():
    n, gallery = 4000, 50
    similarity = torch.rand(n, gallery, generator=torch.Generator().manual_seed(0))
    result = retrieval(similarity, torch.arange(n) % gallery)
    for share, k in ((result.r1, 1), (result.r5, 5)):
        p = k / gallery
        error = (p * (1 - p) / n) ** 0.5
        assert abs(share.value - p) < 3 * error
        assert share.low < share.value < share.high
        assert share.high - share.low == pytest.approx(2 * 1.96 * error, rel=0.2)
    assert result.median_rank.value == pytest.approx(25.5, abs=1.5)


def test_ties_worsen_the_rank():
    result = retrieval(torch.zeros(12, 6), torch.zeros(12, dtype=torch.int64))
    assert result.r1.value == result.r5.value == 0
    assert result.median_rank.value == 6
    similarity = torch.tensor([[0.5, 0.5, 0.1], [0.9, 0.5, 0.9], [0.1, 0.2, 0.2]])
    assert ranks(similarity, torch.tensor([0, 1, 0])).tolist() == [2, 3, 3]


def test_captions_may_be_in_any_column_and_be_shared():
    similarity = torch.rand(9, 7, generator=torch.Generator().manual_seed(0))
    best = similarity.argmax(1)
    assert retrieval(similarity, best).r1.value == 1
    shuffled = torch.tensor([3, 1, 4, 0, 6, 2, 5])
    permuted = retrieval(similarity[:, shuffled], shuffled.argsort()[(best + 1) % 7])
    assert permuted == retrieval(similarity, (best + 1) % 7)


def test_the_seed_changes_only_the_interval_of_the_median():
    similarity = torch.rand(60, 9, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(60) % 9
    first, other = retrieval(similarity, targets), retrieval(similarity, targets, seed=5000)
    assert first == retrieval(similarity, targets)
    assert (first.r1, first.r5) == (other.r1, other.r5)
    assert first.median_rank.value == other.median_rank.value
    assert first != other


def test_the_row_of_training_shows_pictures_with_the_captions_of_the_subject():
    law = setting_of_law(Retrieval, dict.fromkeys(get_args(Redrawn), 0))
    assert law.training is not None
    captions = [*gallery(law.subject).values()]
    assert len({*captions}) == len(captions) < len(law.subject)
    numbers = nearest(law.training, captions)
    known = law.training.captions(torch.arange(len(law.training)))
    found = zip(captions, law.training.captions(numbers) or ())
    assert all(caption == other for caption, other in found if caption in (known or ()))
    metric = Retrieval(law)
    rows = {
        n.row: n.value
        for n in metric.numbers(ObservationsAtOnce(metric.needs()))
        if n.name == "R@1"
    }
    similarity = metric.similarity(law.training.pictures(numbers), captions)
    expected = retrieval(similarity, torch.arange(len(captions))).r1.value
    assert rows["nearest in training"] == expected > 0.5 > rows["shuffled captions"]


def test_invalid_similarities_are_refused():
    targets = torch.arange(6)
    with pytest.raises(LimnerError, match="R@5 needs a gallery of more than 5 captions, not 5"):
        retrieval(torch.eye(6)[:, :5], targets)
    with pytest.raises(LimnerError, match="retrieval needs at least 1 image, not 0"):
        retrieval(torch.eye(6)[:0], targets[:0])
    for invalid in (targets + 1, targets - 1):
        with pytest.raises(LimnerError, match="has its own caption among the gallery's 6"):
            retrieval(torch.eye(6), invalid)
    with pytest.raises(LimnerError, match="of 1 of 6 images are NaN or infinite"):
        retrieval(torch.eye(6).index_fill(0, torch.tensor(2), torch.nan), targets)
