"""Seven runs whose checkpoints follow seven monitors, each killed at a random iteration; a folder and a seed."""

import json
import os
import random
import signal
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback

from helpers.guarded_runs import fit, gan
from pcgan_lightning.callbacks import RunCheckpoint

MONITORS = (
    *({"monitor": None}, {"monitor": "step"}, {"monitor": "step", "mode": "max", "save_top_k": 2}),
    *({"monitor": "epoch"}, {"monitor": "loss/generator"}, {"monitor": "loss/generatr"}),
    {"monitor": "val/loss/generator", "save_last": True},
)


class Kill(Callback):
    """Ends the process within the iteration after `iteration`."""

    def __init__(self, iteration):
        self.iteration = iteration

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == self.iteration:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    root, numbers, killed = Path(sys.argv[1]), random.Random(int(sys.argv[2])), {}
    for number, monitor in enumerate(MONITORS):
        folder, iteration = root / str(number), numbers.randrange(1, 19)
        killed[folder.name] = iteration
        if (process := os.fork()) == 0:
            every = {"filename": "{step}", "every_n_train_steps": 4, "enable_version_counter": False}
            checkpoint = RunCheckpoint(dirpath=folder / "checkpoints", **every, **monitor)
            fit(folder, gan(), [Kill(iteration), checkpoint], max_steps=20)
            os._exit(1)  # it was not killed
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    (root / "killed.json").write_text(json.dumps(killed))
