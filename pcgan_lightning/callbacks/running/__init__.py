"""How a run goes: checkpoints, signals, guards, the progress bar, acceleration, records."""

from pcgan_lightning.callbacks.running.acceleration import Acceleration
from pcgan_lightning.callbacks.running.checkpoint import RunCheckpoint
from pcgan_lightning.callbacks.running.guard import NonFiniteError, NonFiniteGuard
from pcgan_lightning.callbacks.running.progress import GANProgressBar
from pcgan_lightning.callbacks.running.record import RunRecord
from pcgan_lightning.callbacks.running.stop import LostProcessError, StopOnSignal

__all__ = [
    "Acceleration",
    "GANProgressBar",
    "LostProcessError",
    "NonFiniteError",
    "NonFiniteGuard",
    "RunCheckpoint",
    "RunRecord",
    "StopOnSignal",
]
