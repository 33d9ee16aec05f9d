"""The command as a shell would run it, for tests in one process; and what one may do to its files."""

import sys

import torch

from helpers import ROOT
from pcgan_lightning.cli import main

TINY = [
    *("--data.max_images=64", "--data.batch_size=8", "--model.generator.width=2", "--model.discriminator.width=2"),
    *("--trainer.accelerator=cpu", "--trainer.enable_model_summary=false", "--progress.refresh_every_n_steps=1000"),
]


def pcgan(monkeypatch, *arguments):
    """Run the command as a shell would; return its exit status."""
    monkeypatch.setattr(sys, "argv", ["pcgan", *map(str, arguments)])
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0


def quickstart(monkeypatch, folder, *more):
    config = ROOT / "configs" / "quickstart.yaml"
    # Steps long enough for four of them to be seen.
    lively = ("--model.generator.initialization=xavier_uniform", "--model.generator_optimizer.lr=0.01")
    folder = ("--run_dir", folder)
    return pcgan(monkeypatch, "fit", "--config", config, *folder, *TINY, *lively, "--trainer.max_steps=4", *more)


def one_error(capsys):
    """Return the one line of stderr beside what Lightning says."""
    return one_error_of(capsys.readouterr().err)


def one_error_of(error):
    """The same of a text."""
    lines = [line for line in error.splitlines() if line.startswith("pcgan: error:")]
    assert len(lines) == 1, error
    assert "Traceback" not in error
    return lines[0]


def one_byte_altered(path, good):
    content = bytearray(good.read_bytes())
    weights = max(torch.load(good, weights_only=True)["state_dict"].values(), key=lambda tensor: tensor.numel())
    place = content.index(weights.numpy().tobytes())
    content[place + 5] ^= 1
    path.write_bytes(content)
