"""ModeCoverage against counts by hand, its floor on real data, several processes; the classifier of digits."""

import importlib
import math
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from helpers.mode_coverage_processes import Rows, one_of_two, stripes_of
from torch import nn

from pcgan_lightning.data import StackedDigits
from pcgan_lightning.metrics import DigitClassifier, ModeCoverage, expected_kl, score_generator

COUNT = 25_600


def test_numbers_by_hand():
    """Two channels of three classes: nine modes, of which seven samples take four."""
    bright = torch.tensor([[0, 0], [0, 0], [0, 0], [1, 2], [2, 1], [2, 1], [2, 2]])
    images = torch.full((7, 2, 3, 2), -10.0)
    for image, rows in zip(images, bright, strict=True):
        for channel, row in zip(image, rows, strict=True):
            channel[row] = 10.0
    images[4, 0] = 0.0  # nothing to tell: class 0 at probability a third
    metric = ModeCoverage((2, 3, 2), Rows())
    metric.update(images[:3])
    metric.update(images[3:])
    found = metric.compute()
    # Modes (0, 0) three times, (1, 2), (0, 1), (2, 1), (2, 2) once each.
    assert found["modes_covered"] == 5
    divergence = 3 / 7 * math.log(9 * 3 / 7) + 4 * (1 / 7) * math.log(9 / 7)
    assert found["kl_to_uniform"] == pytest.approx(divergence, rel=1e-12)
    assert found["sure_share"] == pytest.approx(6 / 7)
    assert metric.modes == 9


def test_a_classifier_of_all_channels_has_its_classes_as_modes():
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(2 * 3 * 2, 4))
    metric = ModeCoverage((2, 3, 2), classifier)
    images = torch.randn(50, 2, 3, 2)
    metric.update(images)
    assert metric.modes == 4
    assert metric.counts.tolist() == torch.bincount(classifier(images).argmax(1), minlength=4).tolist()


@pytest.mark.parametrize("image_size", [8, pytest.param(32, marks=pytest.mark.slow)])
def test_the_floor_is_that_of_a_perfect_sample(image_size):
    """Real stacked digits: all modes, and the divergence that so many perfect samples have by chance."""
    real = StackedDigits(image_size=image_size).real_images(count=COUNT).load().float() / 127.5 - 1
    metric = ModeCoverage((3, image_size, image_size))
    metric.update(real)
    found = metric.compute()
    assert found["modes_covered"] == 1000
    expected = expected_kl(1000, COUNT)
    assert expected == pytest.approx(999 / 51_200)
    # 2 N KL is about chi squared of 999 degrees of freedom, of standard deviation 45: 0.0009. Unequal classes add less.
    assert expected - 4 * 0.0009 < found["kl_to_uniform"] < expected + 4 * 0.0009 < 0.03
    assert found["sure_share"] > 0.95


def test_one_digit_is_one_mode():
    metric = ModeCoverage((3, 8, 8))
    metric.update(StackedDigits().real_images(count=1).load().float().expand(2000, -1, -1, -1) / 127.5 - 1)
    found = metric.compute()
    assert found["modes_covered"] == 1
    assert found["kl_to_uniform"] == pytest.approx(math.log(1000))


def test_expected_divergence_is_the_mean_of_samples():
    """Of 200 perfect samples of 25 modes; 4 standard errors, of chi squared with 24 degrees of freedom."""
    counts = torch.distributions.Multinomial(500, torch.ones(25)).sample((200,)).double() / 500
    divergences = torch.special.xlogy(counts, counts * 25).sum(1)
    error = math.sqrt(2 * 24) / (2 * 500) / math.sqrt(200)
    # The next term of the expansion is of the order (M / N)^2, 0.0025 / 12.
    assert divergences.mean().item() == pytest.approx(expected_kl(25, 500), abs=4 * error + 0.0025 / 12)


@pytest.mark.ddp
def test_processes_agree_with_one(tmp_path):
    """Also where a process has one image less than another."""
    alone = score_generator(ModeCoverage((2, 3, 2), Rows()), stripes_of, 101, batch_size=8)
    mp.spawn(one_of_two, (101, str(tmp_path)), nprocs=2)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt") == alone


def test_measuring_leaves_the_classifier_as_it_was():
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4))
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    random = torch.get_rng_state()
    metric = ModeCoverage((2, 3, 2), classifier)
    metric.update(torch.ones(50, 2, 3, 2))
    ModeCoverage((3, 8, 8))
    assert classifier.training
    assert all(torch.equal(before[name], value) for name, value in classifier.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)


def test_shipped_classifier_tells_held_out_digits(monkeypatch):
    """Its stated accuracy is that on the digits it has not seen, and those are a sixth."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    script = importlib.import_module("digit_classifier")
    classifier = DigitClassifier()
    assert script.held_out(1797).sum() == 299
    assert script.accuracy(classifier) == pytest.approx(classifier.accuracy, abs=1e-6)
    assert classifier.accuracy >= 0.98
    assert DigitClassifier(pretrained=False).accuracy is None


class Two(Rows):
    image_shape = (2, 3, 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ModeCoverage((3, 8, 8), DigitClassifier(16)),
            r"argument `classifier` must take images of shape \(3, 8, 8\), or groups of their channels, got "
            r"DigitClassifier for \(1, 16, 16\)",
        ),
        (lambda: ModeCoverage((3, 3, 2), Two()), r"got Two for \(2, 3, 2\)"),
        (lambda: ModeCoverage((3, 8, 8), confidence=0), r"argument `confidence` must be in \(0, 1\], got 0"),
        (
            lambda: ModeCoverage((3, 8, 8)).check(999),
            "argument `count` must be at least the number of modes, 1,000, got",
        ),
        (lambda: ModeCoverage((3, 8, 8)).update(torch.zeros(2, 1, 8, 8)), r"of shape \[N, 3, 8, 8\], got .*\[2, 1, 8"),
        (lambda: ModeCoverage((3, 8, 8)).compute(), "argument `images` must have been given"),
        (lambda: DigitClassifier(7), "argument `image_size` must be at least 8, got 7"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
