"""Points of a mixture: their distribution, and what is refused."""

import math

import pytest
import torch

from pcgan_lightning.data import MixtureLoader, MixtureOfGaussians, ring_of_modes


def batches(count, **settings):
    arguments = {"batch_size": 8, "seed": 3} | settings
    loader = MixtureLoader(ring_of_modes(), 0.06, 1000, **arguments)
    return [batch for _, batch in zip(range(count), loader, strict=False)]


def test_points_are_the_mixture():
    (points,) = batches(1, batch_size=80_000)
    assert points.dtype == torch.float32
    centers = ring_of_modes()
    nearest = (points[:, None] - centers).norm(dim=2).argmin(1)
    # 2 sin(pi / 8) * 2 apart: 12 standard deviations to the border, so that none is nearer to a wrong mode.
    assert nearest.bincount().tolist() == [10_000] * 8
    noise = (points - centers[nearest]).double() / 0.06
    # 5 standard errors of means, variances and a covariance of 80,000 standard normal pairs.
    assert noise.mean(0).abs().max() < 5 / math.sqrt(80_000)
    covariance = noise.T @ noise / 80_000
    torch.testing.assert_close(
        covariance, torch.eye(2, dtype=torch.float64), rtol=0, atol=5 * math.sqrt(2) / math.sqrt(80_000)
    )
    assert (noise**4).mean().item() == pytest.approx(3, abs=5 * math.sqrt(96 / 160_000))  # normal, not anything else


def test_modes_take_turns_where_a_batch_does_not_hold_all():
    points = torch.cat(batches(8, batch_size=3))
    nearest = (points[:, None] - ring_of_modes()).norm(dim=2).argmin(1)
    assert nearest.tolist() == [n % 8 for n in range(24)]


def test_settings_arrive():
    data = MixtureOfGaussians(modes=3, radius=5.0, std=0.1, batch_size=30, iterations_per_epoch=2, seed=0)
    data.setup("fit")
    points = list(data.train_dataloader())
    assert [batch.shape for batch in points] == [(30, 2)] * 2
    distances = (torch.cat(points)[:, None] - ring_of_modes(3, 5.0)).norm(dim=2).amin(1)
    assert 0.05 < distances.mean() < 0.2
    assert data.image_shape == (2,)
    assert torch.equal(data.centers, ring_of_modes(3, 5.0))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"modes": 0}, r"^argument `modes` must be at least 1, got 0$"),
        ({"radius": 0.0}, r"^argument `radius` must be positive, got 0.0$"),
        ({"std": -1.0}, r"^argument `std` must be positive, got -1.0$"),
        ({"batch_size": 0}, r"^argument `batch_size` must be at least 1, got 0$"),
        ({"iterations_per_epoch": 0}, r"^argument `iterations_per_epoch` must be at least 1, got 0$"),
        ({"seed": -1}, r"^argument `seed` must not be negative, got -1$"),
    ],
)
def test_wrong_arguments(settings, message):
    with pytest.raises(ValueError, match=message):
        MixtureOfGaussians(**settings)


def test_nothing_to_evaluate_on():
    with pytest.raises(ValueError, match=r"^argument `data` must have held-out data to test on, got MixtureOf"):
        MixtureOfGaussians().setup("test")
