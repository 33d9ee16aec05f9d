"""Lightning callbacks: preconditioning and its monitors, for any LightningModule."""

from pcgan_lightning.callbacks.acceleration import Acceleration
from pcgan_lightning.callbacks.balance import BalanceLogger
from pcgan_lightning.callbacks.checkpoint import RunCheckpoint
from pcgan_lightning.callbacks.collapse import CollapseMonitor
from pcgan_lightning.callbacks.guard import NonFiniteError, NonFiniteGuard
from pcgan_lightning.callbacks.jacobian import JacobianSpectrumLogger
from pcgan_lightning.callbacks.learning_speed import LearningSpeedLogger
from pcgan_lightning.callbacks.magnitudes import AdaptiveMagnitudeLogger
from pcgan_lightning.callbacks.mode_coverage import ModeCoverageLogger
from pcgan_lightning.callbacks.modes import ModeLogger
from pcgan_lightning.callbacks.preconditioning import (
    AdaptivePreconditioning,
    FixedPreconditioning,
    Preconditioning,
)
from pcgan_lightning.callbacks.progress import GANProgressBar
from pcgan_lightning.callbacks.samples import SampleGridLogger
from pcgan_lightning.callbacks.scores import ScoreLogger
from pcgan_lightning.callbacks.spectrum import SpectrumLogger
from pcgan_lightning.callbacks.stop import StopOnSignal

__all__ = [
    "Acceleration",
    "AdaptiveMagnitudeLogger",
    "AdaptivePreconditioning",
    "BalanceLogger",
    "CollapseMonitor",
    "FixedPreconditioning",
    "GANProgressBar",
    "JacobianSpectrumLogger",
    "LearningSpeedLogger",
    "ModeCoverageLogger",
    "ModeLogger",
    "NonFiniteError",
    "NonFiniteGuard",
    "Preconditioning",
    "RunCheckpoint",
    "SampleGridLogger",
    "ScoreLogger",
    "SpectrumLogger",
    "StopOnSignal",
]
