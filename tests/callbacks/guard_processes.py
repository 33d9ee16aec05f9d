"""Two processes of which only the second one has a bad number, for test_guard.py; the argument is a folder."""

import contextlib
import sys
from pathlib import Path

from lightning.pytorch.callbacks import ModelCheckpoint
from test_guard import Injection, ReportingGuard, Weights, fit, gan

from pcgan_lightning.callbacks import NonFiniteGuard


def train(folder, kind, *callbacks):
    saving = ModelCheckpoint(every_n_train_steps=3, save_top_k=-1, filename="{step}")
    folder.mkdir()
    fit(folder, gan(), [Injection(kind, rank=1), *callbacks, saving], strategy="ddp_fork", devices=2)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    for kind in ("loss", "buffer"):
        with contextlib.suppress(Exception):
            train(root / kind, kind, ReportingGuard(every_n_steps=8))
    train(root / "restore", "loss", NonFiniteGuard("restore", every_n_steps=8), Weights())
