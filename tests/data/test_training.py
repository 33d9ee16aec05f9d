"""Data modules in a Trainer: a resumed run sees what an uninterrupted one does, and the next run what the first did."""

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

from pcgan_lightning.data import ImageDataModule, MixtureOfGaussians


class Recorder(LightningModule):
    """Trains nothing much; remembers every batch."""

    discriminator_steps = 2

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen, self.validated = [], 0

    def training_step(self, batch, batch_index):
        self.seen.append(batch.tolist())
        return self.weight * batch.mean()

    def validation_step(self, batch, batch_index):
        self.validated += len(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    def __init__(self, hook, batches, path):
        self.hook, self.batches, self.path, self.count = hook, batches, path, 0

    def on_train_batch_end(self, trainer, *args):
        self.count += 1
        self._save(trainer, "batch")

    def on_train_epoch_end(self, trainer, *args):
        self._save(trainer, "epoch")

    def _save(self, trainer, hook):
        if (self.hook, self.batches) == (hook, self.count):
            trainer.save_checkpoint(self.path)


def fit(data, *callbacks, ckpt_path=None, **limits):
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    recorder = Recorder()
    Trainer(accelerator="cpu", callbacks=list(callbacks), **quiet, **limits).fit(recorder, data, ckpt_path=ckpt_path)
    return recorder


@pytest.fixture
def make(parquet_folder):
    """40 images, 2 updates of 6: an epoch of 3 iterations, in memory with 4 images left over; or points."""

    def make(kind, seed=4, **settings):
        if kind == "mixture":
            return MixtureOfGaussians(batch_size=4, iterations_per_epoch=3, seed=seed)
        settings = {"image_size": 4, "batch_size": 6, "iterations_per_epoch": 3, "shuffle_buffer": 20, **settings}
        return ImageDataModule(str(parquet_folder), seed=seed, streaming=kind == "stream", **settings)

    return make


@pytest.mark.parametrize(
    ("kind", "hook", "batches", "limits"),
    [
        ("stream", "batch", 2, {"max_steps": 8}),
        ("memory", "batch", 4, {"max_epochs": 3}),
        ("memory", "batch", 3, {"max_steps": 8}),
        ("stream", "batch", 3, {"max_epochs": 3}),
        ("memory", "epoch", 3, {"max_steps": 8}),
        ("stream", "epoch", 3, {"max_epochs": 3}),
        ("mixture", "batch", 2, {"max_steps": 8}),
        ("mixture", "batch", 3, {"max_epochs": 3}),
    ],
)
def test_a_resumed_run_sees_what_an_uninterrupted_one_does(make, tmp_path, kind, hook, batches, limits):
    path = tmp_path / "run.ckpt"
    whole = fit(make(kind), SaveAt(hook, batches, path), **limits).seen
    assert [len(batch) for batch in whole] == [8 if kind == "mixture" else 12] * (8 if "max_steps" in limits else 9)
    assert fit(make(kind, seed=None), ckpt_path=path, **limits).seen == whole[batches:]


def test_reloading_the_loader_goes_on_in_the_order(make):
    plain = fit(make("memory"), max_epochs=2).seen
    assert plain[:3] != plain[3:]
    assert fit(make("memory"), max_epochs=2, reload_dataloaders_every_n_epochs=1).seen == plain


def test_validation_is_run_or_skipped(make):
    for split, count in (("test", 10), (None, 0)):
        data = make("memory", validation_split=split)
        assert fit(data, max_epochs=1, num_sanity_val_steps=0).validated == count


@pytest.mark.parametrize("kind", ["memory", "mixture"])
def test_the_next_run_begins_at_the_beginning(make, kind):
    data = make(kind)
    assert fit(data, max_steps=2).seen == fit(data, max_steps=2).seen


def test_the_seed_is_torchs(make):
    torch.manual_seed(11)
    assert fit(make("mixture", seed=None), max_steps=2).seen == fit(make("mixture", seed=11), max_steps=2).seen
