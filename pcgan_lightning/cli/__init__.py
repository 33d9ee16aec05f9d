"""The command `pcgan`: fit, evaluate, generate, report and the classifier's training."""

from pcgan_lightning.cli.command import main

__all__ = ["main"]
