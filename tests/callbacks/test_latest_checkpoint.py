"""Which checkpoint a guard goes back to."""

import os
from pathlib import Path
from types import SimpleNamespace

import torch

from pcgan_lightning.callbacks.running.restore import latest_checkpoint


def test_the_latest_checkpoint_is_that_of_the_highest_iteration(tmp_path):
    """Whatever the times of the files are, and what else is damaged."""
    for name, iteration, time in (("a", 8, 1e9), ("b", 4, 2e9), ("c", 12, 3e9)):
        torch.save({"state_dict": {}, "global_step": iteration}, tmp_path / name)
        os.utime(tmp_path / name, (time, time))
    (tmp_path / "c").write_bytes((tmp_path / "c").read_bytes()[:-100])
    a, b, c = (str(tmp_path / name) for name in "abc")
    saving = SimpleNamespace(best_model_path=a, last_model_path=c, _last_checkpoint_saved="")
    strategy = SimpleNamespace(broadcast=lambda path: path)
    trainer = SimpleNamespace(ckpt_path=b, callbacks=[saving], strategy=strategy, is_global_zero=True)
    assert latest_checkpoint(trainer) == Path(a)
    trainer.ckpt_path, saving.best_model_path = None, ""
    assert latest_checkpoint(trainer) is None  # and a warning says why
