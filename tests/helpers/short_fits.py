"""Small games and short fits on digits, and what happens in them."""

import lightning.pytorch
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.modules import GAN, SimultaneousGAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator


def small_game(kind=GAN, channels=1, **kwargs):
    networks = {
        "generator": CNNGenerator(channels=channels, latent_dim=4, width=2, initialization="xavier_uniform"),
        "discriminator": CNNDiscriminator(channels=channels, width=2, initialization="xavier_uniform"),
    }
    return kind(**networks | kwargs)


def small_simultaneous_game(**kwargs):
    return small_game(SimultaneousGAN, **kwargs)


def sgd(rate=0.01):
    """Both players' optimizers."""
    make = lambda p: torch.optim.SGD(p, lr=rate)  # noqa: E731
    return {"generator_optimizer": make, "discriminator_optimizer": make}


def fit(folder, module, steps, *callbacks, data=None, pl=lightning.pytorch, ckpt_path=None, seed=1, **options):
    """Train silently on the CPU for so many iterations, and return the trainer."""
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    quiet["enable_checkpointing"] = any(isinstance(callback, ModelCheckpoint) for callback in callbacks)
    defaults = {"accelerator": "cpu", "default_root_dir": folder, **quiet}
    trainer = pl.Trainer(**defaults | options, max_steps=steps, callbacks=list(callbacks))
    data = data or ImageDataModule("digits", channels=1, batch_size=4, max_images=32, seed=0)
    kind = "datamodule" if isinstance(data, lightning.pytorch.LightningDataModule) else "train_dataloaders"
    torch.manual_seed(seed)
    trainer.fit(module, ckpt_path=ckpt_path, **{kind: data})
    return trainer


def recorded(gan):
    """Return lists that fill with the real images of each iteration and the latents of each update."""
    reals, latents = [], []
    real_images, draw = gan.real_images, gan.draw_latents
    gan.real_images = lambda batch: reals.append(real_images(batch)) or reals[-1]
    gan.draw_latents = lambda share: latents.append(draw(share)) or latents[-1]
    return reals, latents


class History(Callback):
    """The order of the updates, and after each iteration its number, a weight and the learning rates it had."""

    def __init__(self):
        self.order, self.iterations, self.weights, self.rates = "", [], [], []

    def on_fit_start(self, trainer, pl_module):
        for name, optimizer in zip("gd", trainer.optimizers, strict=True):
            optimizer.register_step_post_hook(lambda *_, name=name: self._note(name))

    def _note(self, name):
        self.order += name

    def on_train_batch_start(self, trainer, *_):
        self.rates.append([o.param_groups[0]["lr"] for o in trainer.optimizers])

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.iterations.append(trainer.global_step)
        self.weights.append(next(pl_module.generator.parameters()).detach().clone())


def assert_same(a, b, path=""):
    """Two trees of states are equal bit for bit; NaN is NaN."""
    assert type(a) is type(b), path
    if isinstance(a, (dict, list, tuple)):
        keys = list(a) if isinstance(a, dict) else range(len(a))
        assert keys == (list(b) if isinstance(b, dict) else range(len(b))), path
        for key in keys:
            assert_same(a[key], b[key], f"{path}/{key}")
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b or (a != a and b != b), path
