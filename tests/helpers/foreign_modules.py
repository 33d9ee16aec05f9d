"""LightningModules as others write them, for either name of the package."""

from types import ModuleType

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

# Earlier Trainers of pytorch_lightning take only callbacks that derive from their own class.
OLD = pytest.mark.skipif(pytorch_lightning.__version__ < "2.6", reason="pytorch_lightning is older than 2.6")
BOTH_NAMES = pytest.mark.parametrize(
    "pl", [lightning.pytorch, pytest.param(pytorch_lightning, marks=OLD)], ids=lambda m: m.__name__
)


def make_two_player_gan(pl: ModuleType) -> type:
    """Return a GAN in the manner of Lightning's example: two optimizers, manual optimization, one class."""

    class TwoPlayerGAN(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.automatic_optimization = False
            self.generator = nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Unflatten(1, (1, 8, 8)))
            self.discriminator = nn.Sequential(
                nn.Conv2d(1, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1)
            )

        def training_step(self, batch, batch_idx):
            (images, *_) = batch
            optimizer_g, optimizer_d = self.optimizers()
            z = torch.randn(len(images), 6, generator=torch.Generator().manual_seed(batch_idx))

            self.toggle_optimizer(optimizer_g)
            g_loss = F.softplus(-self.discriminator(self.generator(z))).mean()
            optimizer_g.zero_grad()
            self.manual_backward(g_loss)
            optimizer_g.step()
            self.untoggle_optimizer(optimizer_g)

            self.toggle_optimizer(optimizer_d)
            real, fake = self.discriminator(images), self.discriminator(self.generator(z).detach())
            d_loss = (F.softplus(-real) + F.softplus(fake)).mean()
            optimizer_d.zero_grad()
            self.manual_backward(d_loss)
            optimizer_d.step()
            self.untoggle_optimizer(optimizer_d)
            self.log_dict({"g_loss": g_loss, "d_loss": d_loss}, prog_bar=True)

        def configure_optimizers(self):
            networks = (self.generator, self.discriminator)
            return [torch.optim.Adam(n.parameters(), lr=1e-2, betas=(0.5, 0.999)) for n in networks], []

    return TwoPlayerGAN


def make_classifier(pl: ModuleType) -> type:
    """Return an ordinary classifier with automatic optimization and one optimizer."""

    class Classifier(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.backbone = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten())
            self.head = nn.Linear(6 * 36, 10)

        def training_step(self, batch, batch_idx):
            images, labels = batch
            return F.cross_entropy(self.head(self.backbone(images)), labels)

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    return Classifier


def image_loader() -> DataLoader:
    """Return 4 batches of 8 one-channel 8x8 images with labels."""
    source = torch.Generator().manual_seed(1)
    images = torch.rand(32, 1, 8, 8, generator=source)
    return DataLoader(TensorDataset(images, torch.randint(10, (32,), generator=source)), batch_size=8)
