"""One way to train a little with callbacks."""

import lightning.pytorch
import pytest
from helpers import short_fits

from pcgan_lightning.data import ImageDataModule


@pytest.fixture
def fit(tmp_path):
    """Train a module on digits, or on other data, in the test's folder; return the trainer."""

    def fit(module, callbacks=(), data=None, pl=lightning.pytorch, max_steps=7, **options):
        data = data or ImageDataModule(batch_size=8, max_images=64, seed=0)
        options = {"log_every_n_steps": 1} | options
        return short_fits.fit(tmp_path, module, max_steps, *callbacks, data=data, pl=pl, seed=2, **options)

    return fit
