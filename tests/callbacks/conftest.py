"""One way to train a little with callbacks."""

import lightning.pytorch
import pytest
import torch

from pcgan_lightning.data import ImageDataModule

OPTIONS = {
    "accelerator": "cpu",
    "max_steps": 7,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
    "logger": False,
}


@pytest.fixture
def fit(tmp_path):
    """Train a module on digits, or on other data, in the test's folder; return the trainer."""

    def fit(module, callbacks=(), data=None, pl=lightning.pytorch, ckpt_path=None, **options):
        data = data or ImageDataModule(batch_size=8, max_images=64, seed=0)
        kind = "datamodule" if isinstance(data, lightning.pytorch.LightningDataModule) else "train_dataloaders"
        trainer = pl.Trainer(**OPTIONS | {"default_root_dir": tmp_path} | options, callbacks=list(callbacks))
        torch.manual_seed(2)
        trainer.fit(module, ckpt_path=ckpt_path, **{kind: data})
        return trainer

    return fit
