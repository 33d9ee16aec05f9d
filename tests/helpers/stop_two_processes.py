"""Two processes train together; in the third batch the second gets SIGTERM, the first one fails, or one is killed."""

import os
import signal
import sys
import warnings
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.demos.boring_classes import BoringModel

from pcgan_lightning.callbacks import LostProcessError, StopOnSignal


class Disturb(Callback):
    def __init__(self, folder, what):
        self.folder, self.what, self.batches = folder, what, 0

    def on_train_batch_start(self, trainer, *_):
        if self.batches == 2 and self.what == "signal" and trainer.global_rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        if self.batches == 2 and self.what == f"kill {trainer.global_rank}":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.batches == 2 and self.what == "error" and trainer.global_rank == 0:
            raise RuntimeError("out of luck")

    def on_train_batch_end(self, trainer, *_):
        self.batches += 1
        (self.folder / f"batches_{trainer.global_rank}").write_text(str(self.batches))
        (self.folder / f"pid_{trainer.global_rank}").write_text(str(os.getpid()))


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    folder = Path(sys.argv[1])
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=2,
        strategy="ddp",
        max_epochs=1,
        limit_train_batches=8,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[StopOnSignal(advice="go on from there"), Disturb(folder, sys.argv[2])],
    )
    try:
        trainer.fit(BoringModel())
    except LostProcessError as error:
        sys.exit(str(error))
