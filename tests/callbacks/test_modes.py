"""ModeLogger, and the other callbacks on points instead of images."""

import csv

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from pcgan_lightning.callbacks import FixedPreconditioning, ModeLogger, SampleGridLogger, SpectrumLogger
from pcgan_lightning.callbacks.monitors.samples import draw_samples
from pcgan_lightning.data import ImageDataModule, MixtureOfGaussians, ring_of_modes
from pcgan_lightning.metrics import mode_coverage
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator, MLPDiscriminator, MLPGenerator


def tiny_gan(**kwargs):
    generator = MLPGenerator(latent_dim=4, width=8, hidden_layers=2)
    return GAN(generator, MLPDiscriminator(width=8, hidden_layers=2), **kwargs)


def fit(tmp_path, module, callbacks, data=None, **kwargs):
    defaults = {
        "accelerator": "cpu",
        "max_steps": 5,
        "default_root_dir": tmp_path,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
    }
    trainer = pl.Trainer(**defaults | kwargs, callbacks=callbacks)
    trainer.fit(module, datamodule=data or MixtureOfGaussians(batch_size=8, std=0.5, seed=0))
    return trainer


def test_modes_are_those_of_the_averaged_generator(tmp_path):
    modes = ModeLogger(every_n_steps=2, count=300)
    gan = tiny_gan(ema_decay=0.5)
    trainer = fit(tmp_path, gan, [modes], logger=CSVLogger(tmp_path, name="run", version=""), log_every_n_steps=1)
    samples = gan.sample_images(gan.fixed_latents(300))
    expected = mode_coverage(samples, ring_of_modes(), 0.5)
    assert 0 < expected.high_quality_share < 1
    assert modes.series["iteration"] == [2, 4, 5]
    assert modes.series["modes_covered"][-1] == expected.modes_covered
    assert modes.series["high_quality_share"][-1] == expected.high_quality_share
    # A checkpoint can monitor the latest measurement at the interval.
    assert trainer.callback_metrics["metric/high_quality_share"].item() == pytest.approx(
        modes.series["high_quality_share"][1]
    )
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric/modes_covered"]]
    assert [int(float(row["step"])) for row in rows] == [2, 4, 5]
    assert [float(row["metric/high_quality_share"]) for row in rows] == modes.series["high_quality_share"]


def test_modes_can_be_told(tmp_path):
    """A circle of generated points, all of them near the origin's mode if it is wide."""
    modes = ModeLogger(every_n_steps=5, centers=[[0.0, 0.0], [900.0, 0.0]], std=100.0, deviations=2.0)
    fit(tmp_path, tiny_gan(), [modes])
    assert modes.series == {"iteration": [5], "modes_covered": [1], "high_quality_share": [1.0]}


def test_measuring_changes_no_training(tmp_path):
    weights = []
    for callbacks in ([], [ModeLogger(every_n_steps=1), SampleGridLogger(every_n_steps=1), SpectrumLogger(1)]):
        torch.manual_seed(0)
        gan = tiny_gan()
        fit(tmp_path, gan, callbacks)
        weights.append(torch.cat([p.flatten() for p in gan.parameters()]))
    assert torch.equal(*weights)


def test_series_survive_a_checkpoint(tmp_path):
    modes = ModeLogger(every_n_steps=2, count=50)
    trainer = fit(tmp_path, tiny_gan(), [modes], max_steps=4)
    trainer.save_checkpoint(tmp_path / "four.ckpt")
    resumed = ModeLogger(every_n_steps=2, count=50)
    trainer = pl.Trainer(
        accelerator="cpu", max_steps=6, logger=False, enable_progress_bar=False, callbacks=[resumed],
        enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(tiny_gan(), datamodule=MixtureOfGaussians(batch_size=8, std=0.5), ckpt_path=tmp_path / "four.ckpt")
    assert resumed.series["iteration"] == [2, 4, 6]
    assert resumed.series["high_quality_share"][:2] == modes.series["high_quality_share"]


def test_points_and_spectra_of_mlps_are_drawn(tmp_path):
    fit(tmp_path, tiny_gan(), [FixedPreconditioning(1), SampleGridLogger(5), SpectrumLogger(5)])
    found = sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png"))
    grids = [f"samples/iteration_{n:07d}.png" for n in (0, 5)]
    assert found == [*grids, "spectra/condition_numbers.png", "spectra/singular_values.png"]
    for file in found:
        assert np.asarray(Image.open(tmp_path / file)).std() > 5, "an empty picture"


def test_points_are_where_they_belong():
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


def test_wrong_arguments_and_modules(tmp_path):
    with pytest.raises(ValueError, match=r"^argument `count` must be at least 1, got 0$"):
        ModeLogger(count=0)
    with pytest.raises(ValueError, match=r"^argument `every_n_steps` must be at least 1, got 0$"):
        ModeLogger(every_n_steps=0)
    with pytest.raises(ValueError, match=r"^argument `minimum_share` must be in \(0, 1\], got 2$"):
        fit(tmp_path, tiny_gan(generator_optimizer=never), [ModeLogger(minimum_share=2)])
    images = GAN(CNNGenerator(channels=1, width=1), CNNDiscriminator(channels=1, width=1))
    message = r"^ModeLogger needs the argument `centers`, or a data module with it, got ImageDataModule$"
    with pytest.raises(TypeError, match=message):
        fit(tmp_path, images, [ModeLogger()], ImageDataModule(max_images=64, batch_size=8))
    message = r"^ModeLogger needs a module with `fixed_latents\(count\)` and `sample_images\(latents\)`, got Boring"
    with pytest.raises(TypeError, match=message):
        fit(tmp_path, BoringModel(), [ModeLogger()])


def test_data_and_networks_must_agree(tmp_path):
    gan = GAN(MLPGenerator((3,), width=8), MLPDiscriminator((3,), width=8))
    with pytest.raises(ValueError, match=r"data and discriminator must have the same image shape .* \(2,\) and \(3,\)"):
        fit(tmp_path, gan, [])
