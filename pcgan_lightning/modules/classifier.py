"""Training of the classifier whose features score generated images."""

import json
import sys
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Optional

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, pad
from torch.optim.lr_scheduler import OneCycleLR
from torchmetrics.classification import MulticlassAccuracy
from typing_extensions import override

from pcgan_lightning.modules.strategies import check_strategy
from pcgan_lightning.networks import ImageClassifier


class Classifier(pl.LightningModule):
    """Cross entropy on flipped and shifted images, accuracy on held-out ones.

    The learning rate rises and falls once over the run, and the momentum falls and rises against it (``OneCycleLR``).

    Logged: ``loss`` and, on the validation images, ``accuracy`` in 0..1.

    Args:
        network: the classifier. Default: ``ImageClassifier()``, for CIFAR-10.
        optimizer: function of the parameters; its learning rate is the cycle's peak.
        label_smoothing: in [0, 1).
        shift: images are shifted by up to so many pixels, mirrored at the borders.
        warmup: share of the run in which the learning rate rises, in (0, 1).
    """

    def __init__(
        self,
        network: Optional[ImageClassifier] = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(
            p, lr=0.2, momentum=0.9, weight_decay=5e-4, nesterov=True
        ),
        label_smoothing: float = 0.1,
        shift: int = 4,
        warmup: float = 0.2,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(f"argument `label_smoothing` must be in [0, 1), got {label_smoothing}")
        if not 0.0 < warmup < 1.0:
            raise ValueError(f"argument `warmup` must be in (0, 1), got {warmup}")
        if shift < 0:
            raise ValueError(f"argument `shift` must not be negative, got {shift}")
        # Convolutions of this size are fastest in this order of memory, on CPUs as on GPUs.
        self.network = (network if network is not None else ImageClassifier()).to(memory_format=torch.channels_last)
        self.optimizer = optimizer
        self.label_smoothing = label_smoothing
        self.shift = shift
        self.warmup = warmup
        self.accuracy = MulticlassAccuracy(self.network.linear.out_features, average="micro")

    @override
    def setup(self, stage: str) -> None:
        check_strategy(self.trainer)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``[N, classes]``."""
        return self.network(images.contiguous(memory_format=torch.channels_last))

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch of images ``[N, C, H, W]`` and labels ``[N]``."""
        images, labels = batch
        loss = cross_entropy(self(augment(images, self.shift)), labels, label_smoothing=self.label_smoothing)
        self.log("loss", loss, prog_bar=True)
        return loss

    @override
    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, labels = batch
        self.accuracy(self(images), labels)
        self.log("accuracy", self.accuracy, prog_bar=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimizer and its cycle over the whole run."""
        optimizer = self.optimizer(self.parameters())
        cycle = OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=int(self.trainer.estimated_stepping_batches),
            pct_start=self.warmup,
            anneal_strategy="linear",
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": cycle, "interval": "step"}}


class ExportClassifier(Callback):
    """Write the trained network with its accuracy, its arguments and the command that made it, as safetensors.

    Args:
        path: the file to write.
    """

    def __init__(self, path: Path = Path("classifier.safetensors")) -> None:
        self.path = path

    @override
    def on_fit_end(
        self,
        trainer: "pl.Trainer",
        pl_module: Classifier,  # type: ignore[override]  # the callback is of this module alone
    ) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]  # Lightning sets it later
            return
        tensors = {name: value.contiguous() for name, value in pl_module.network.state_dict().items()}
        accuracy = trainer.callback_metrics["accuracy"].item()
        metadata = {
            "init_args": json.dumps(pl_module.network.init_args),
            "accuracy": f"{accuracy:.4f}",
            "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "date": date.today().isoformat(),
            "versions": ", ".join(f"{package} {version(package)}" for package in ("torch", "lightning")),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, self.path, metadata)
        print(f"accuracy {accuracy:.4f}, written to {self.path}", file=sys.stderr)


def augment(images: Tensor, shift: int) -> Tensor:
    """Return images ``[N, C, H, W]``, each shifted by up to `shift` pixels and half of them mirrored."""
    count, _, height, width = images.shape
    padded = pad(images, [shift] * 4, mode="reflect")
    top, left = torch.randint(2 * shift + 1, (2, count, 1), device=images.device)
    rows = top + torch.arange(height, device=images.device)  # [N, H]
    columns = left + torch.arange(width, device=images.device)  # [N, W]
    mirrored = torch.rand(count, 1, device=images.device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    every = torch.arange(count, device=images.device)[:, None, None]
    # Indices apart from the channels' make them the last axis.
    return padded.permute(0, 2, 3, 1)[every, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
