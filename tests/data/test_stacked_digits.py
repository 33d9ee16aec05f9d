"""Stacked digits: what they are, resuming, other sizes."""

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.datasets import load_digits

from pcgan_lightning.data import StackedDigits


@pytest.fixture(scope="module")
def digits():
    """Scikit-learn's digits in [-1, 1], 17 levels rounded to 256."""
    return torch.from_numpy(np.rint(load_digits().images * 255 / 16)).float() / 127.5 - 1


def test_every_channel_is_a_digit_of_its_own(digits):
    data = StackedDigits(batch_size=300, seed=0)
    data.setup("fit")
    images = next(iter(data.train_dataloader()))
    assert images.dtype == torch.float32
    assert images.shape == (300, *data.image_shape) == (300, 3, 8, 8)
    exact = {"compute_mode": "donot_use_mm_for_euclid_dist"}
    distances = torch.cdist(images.flatten(0, 1).flatten(1), digits.flatten(1), **exact)
    nearest = distances.min(1)
    assert nearest.values.max() < 1e-5
    drawn = nearest.indices.view(300, 3)
    # 900 draws from 1797 with replacement: 707 different ones expected, 10 is one standard deviation.
    assert abs(len(drawn.unique()) - 1797 * (1 - (1 - 1 / 1797) ** 900)) < 50
    assert len(drawn.unique(dim=0)) == 300  # channels do not go together


class Recorder(LightningModule):
    """Trains nothing much; remembers every batch."""

    discriminator_steps = 2

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = []

    def training_step(self, batch, batch_index):
        self.seen.append(batch)
        return self.weight * batch.mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(max_steps, callbacks=(), ckpt_path=None, **settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    checkpointing = {"enable_checkpointing": bool(callbacks), "callbacks": list(callbacks)}
    data, recorder = StackedDigits(batch_size=4, iterations_per_epoch=3, **settings), Recorder()
    Trainer(accelerator="cpu", max_steps=max_steps, **quiet, **checkpointing).fit(recorder, data, ckpt_path=ckpt_path)
    return recorder.seen


def test_a_resumed_run_sees_what_an_uninterrupted_one_does(tmp_path):
    """Within an epoch, and at its end; the seed is that of the checkpoint."""
    save = ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=1, save_top_k=-1)
    whole = fit(7, [save], seed=4)
    assert [batch.shape for batch in whole] == [(8, 3, 8, 8)] * 7
    for step in (2, 3):
        resumed = fit(7, ckpt_path=tmp_path / f"step={step}.ckpt", seed=None)
        assert all(torch.equal(a, b) for a, b in zip(resumed, whole[step:], strict=True))


def test_larger_digits_are_the_same_ones(digits):
    """Averaged back to 8x8 they are near what they came from; the same digits are drawn whatever the size."""
    small, large = (StackedDigits(image_size=size).real_images(count=50).load() for size in (8, 32))
    assert large.shape == (50, 3, 32, 32)
    back = torch.nn.functional.avg_pool2d(large.float(), 4)
    # Bicubic resampling smooths edges: a tenth of the range on average, where other digits are three tenths away.
    assert (back - small).abs().mean() < 0.1 * 255
    assert (back - small.roll(1, 0)).abs().mean() > 0.2 * 255


def test_real_images_are_the_same_in_every_run():
    first, again = (StackedDigits(seed=seed).real_images(count=20) for seed in (1, 2))
    assert torch.equal(first.load(), again.load())
    assert first.digest == again.digest != StackedDigits().real_images(count=21).digest
    assert (first.count, first.image_shape) == (20, (3, 8, 8))
    assert StackedDigits().real_images().count == 25_600


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StackedDigits(image_size=0), "argument `image_size` must be at least 1, got 0"),
        (lambda: StackedDigits().real_images("validation"), "argument `part` must be 'train' for StackedDigits, got"),
        (
            lambda: StackedDigits().setup("test"),
            "argument `data` must have held-out data to test on, got Stacked",
        ),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
