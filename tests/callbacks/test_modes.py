"""ModeLogger, and the other callbacks on points instead of images."""

import numpy as np
import pytest
import torch
from PIL import Image

from pcgan_lightning.callbacks import FixedPreconditioning, ModeLogger, SampleGridLogger, SpectrumLogger
from pcgan_lightning.data import MixtureOfGaussians, draw_samples, ring_of_modes
from pcgan_lightning.metrics import mode_coverage
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator, MLPDiscriminator, MLPGenerator


def points():
    return MixtureOfGaussians(batch_size=8, std=0.5, seed=0)


def tiny_gan(**kwargs):
    generator = MLPGenerator(latent_dim=4, width=8, hidden_layers=2)
    return GAN(generator, MLPDiscriminator(width=8, hidden_layers=2), **kwargs)


def test_modes_are_those_of_the_averaged_generator(fit):
    modes = ModeLogger(every_n_steps=2, count=300)
    gan = tiny_gan(ema_decay=0.5)
    fit(gan, [modes], points(), max_steps=5)
    samples = gan.sample_images(gan.fixed_latents(300))
    expected = mode_coverage(samples, ring_of_modes(), 0.5)
    assert 0 < expected.high_quality_share < 1
    assert modes.series["iteration"] == [2, 4, 5]
    assert modes.series["modes_covered"][-1] == expected.modes_covered
    assert modes.series["high_quality_share"][-1] == expected.high_quality_share


def test_modes_can_be_told(fit):
    """A circle of generated points, all of them near the origin's mode if it is wide."""
    modes = ModeLogger(every_n_steps=5, centers=[[0.0, 0.0], [900.0, 0.0]], std=100.0, deviations=2.0)
    fit(tiny_gan(), [modes], points(), max_steps=5)
    assert modes.series == {"iteration": [5], "modes_covered": [1], "high_quality_share": [1.0]}


def test_points_and_spectra_of_mlps_are_drawn(tmp_path, fit, drawn):
    fit(tiny_gan(), [FixedPreconditioning(1), SampleGridLogger(5), SpectrumLogger(5)], points(), max_steps=5)
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    grids = [f"samples/iteration_{n:07d}.png" for n in (0, 5)]
    assert found == [*grids, "spectra/condition_numbers.png", "spectra/singular_values.png"]
    for file in found:
        assert np.asarray(Image.open(tmp_path / file)).std() > 5, "an empty picture"


def test_points_are_where_they_belong(drawn):
    """Blue to the left above, and a black cross to the right below."""
    points = torch.tensor([[-1.0, 1.0]]) + 0.02 * torch.randn(500, 2)
    pixels = np.asarray(draw_samples(points, torch.tensor([[1.0, -1.0]]))).astype(int)
    height, width = pixels.shape[:2]
    blue = np.argwhere(pixels[..., 2] - pixels[..., 0] > 60)
    assert len(blue) > 20
    assert (blue < [height / 2, width / 2]).all()
    without = np.asarray(draw_samples(points)).astype(int)
    assert np.argwhere(without[..., 2] - without[..., 0] > 60).mean(0) == pytest.approx(
        [height / 2, width / 2], rel=0.15
    )


def never(parameters):
    pytest.fail("a mistake must be told before the optimizers are made")


def test_mistakes_are_told_before_the_optimizers_are_made(fit):
    with pytest.raises(ValueError, match=r"^argument `minimum_share` must be in \(0, 1\], got 2$"):
        fit(tiny_gan(generator_optimizer=never), [ModeLogger(minimum_share=2)], points())
    images = GAN(CNNGenerator(channels=1, width=1), CNNDiscriminator(channels=1, width=1), generator_optimizer=never)
    message = r"^ModeLogger needs the argument `centers`, or a data module with it, got ImageDataModule$"
    with pytest.raises(TypeError, match=message):
        fit(images, [ModeLogger()])


def test_data_and_networks_must_agree(fit):
    gan = GAN(MLPGenerator((3,), width=8), MLPDiscriminator((3,), width=8))
    with pytest.raises(ValueError, match=r"data and discriminator must have the same image shape .* \(2,\) and \(3,\)"):
        fit(gan, data=points())
