"""The ring of modes, and what samples show of it."""

import math

import pytest
import torch

from pcgan_lightning.data import ring_of_modes
from pcgan_lightning.metrics import mode_coverage


def test_ring_by_hand():
    half = math.sqrt(2)
    expected = [(2, 0), (half, half), (0, 2), (-half, half), (-2, 0), (-half, -half), (0, -2), (half, -half)]
    # Rounding of float32, and of the sines of multiples of pi in float64.
    torch.testing.assert_close(ring_of_modes(), torch.tensor(expected, dtype=torch.float32), rtol=1e-7, atol=1e-15)
    assert ring_of_modes(1, 3.0).tolist() == [[3.0, 0.0]]
    assert ring_of_modes(5, 0.5).norm(dim=1).tolist() == pytest.approx([0.5] * 5)


CENTERS = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])


def test_coverage_of_samples_made_by_hand():
    """Ten samples: 4 near the first mode, 1 near the second, 5 near none, whatever the nearest one is."""
    near = [(0.0, 0.0), (2.9, 0.0), (0.0, -2.9), (2.1, 2.1), (10.0, 3.0)]
    far = [(3.1, 0.0), (2.2, 2.2), (5.0, 0.0), (0.0, 6.0), (-40.0, 10.0)]
    found = mode_coverage(torch.tensor(near + far), CENTERS, std=1.0, minimum_share=0.2)
    assert found.shares.tolist() == [0.4, 0.1, 0.0]
    assert found.high_quality_share == pytest.approx(0.5)
    assert found.modes_covered == 1
    # The least share covers; the radius is in standard deviations.
    assert mode_coverage(torch.tensor(near + far), CENTERS, std=1.0, minimum_share=0.1).modes_covered == 2
    assert mode_coverage(torch.tensor(near + far), CENTERS, std=2.0, deviations=1.5).shares.tolist() == [0.4, 0.1, 0.0]
    assert mode_coverage(torch.tensor(near + far), CENTERS, std=1.0, deviations=2.95).shares.tolist() == [0.3, 0.0, 0.0]
    # By default, twenty of 2,500 cover.
    samples = CENTERS[[0] * 2461 + [1] * 20 + [2] * 19]
    assert mode_coverage(samples, CENTERS, std=1.0).modes_covered == 2


def test_samples_of_the_mixture_itself():
    """A Rayleigh variable stays below 3 standard deviations with probability 1 - exp(-9 / 2)."""
    count = 100_000
    centers = ring_of_modes()
    samples = centers[torch.arange(count) % 8] + 0.06 * torch.randn(count, 2)
    found = mode_coverage(samples, centers, std=0.06)
    share = 1 - math.exp(-4.5)
    # 5 standard errors of a share.
    assert found.high_quality_share == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / count))
    assert found.modes_covered == 8
    torch.testing.assert_close(found.shares, torch.full((8,), share / 8, dtype=torch.float64), rtol=0, atol=5e-4)


def test_collapse_divergence_and_distance():
    one = mode_coverage(ring_of_modes()[[3]].expand(100, 2), ring_of_modes(), std=0.06)
    assert (one.modes_covered, one.high_quality_share) == (1, 1.0)
    lost = mode_coverage(torch.tensor([[math.nan, 0.0], [math.inf, 0.0], [2.0, 0.0]]), ring_of_modes(), std=0.06)
    assert lost.shares.tolist() == [1 / 3, 0, 0, 0, 0, 0, 0, 0]
    # Far from the origin, the expanded square of a distance would have lost all digits in float32.
    samples = torch.tensor([[4000.0, 4000.0], [4000.0, 4000.5]])
    assert mode_coverage(samples.repeat(30, 1), samples[:1], std=0.1).high_quality_share == 0.5


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (ring_of_modes, (0,), r"^argument `modes` must be at least 1, got 0$"),
        (ring_of_modes, (8, -1.0), r"^argument `radius` must be positive, got -1.0$"),
        (mode_coverage, (torch.zeros(3, 1), CENTERS, 1.0), r"must have shape \[N, d\] .* got \[3, 1\] and \[3, 2\]$"),
        (mode_coverage, (torch.zeros(0, 2), CENTERS, 1.0), r"with N at least 1, got \[0, 2\]"),
        (mode_coverage, (CENTERS, CENTERS, 0.0), r"^argument `std` must be positive, got 0.0$"),
        (mode_coverage, (CENTERS, CENTERS, 1.0, -3.0), r"^argument `deviations` must be positive, got -3.0$"),
        (mode_coverage, (CENTERS, CENTERS, 1.0, 3.0, 0.0), r"^argument `minimum_share` must be in \(0, 1\], got 0.0$"),
    ],
)
def test_wrong_arguments(function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(*arguments)
