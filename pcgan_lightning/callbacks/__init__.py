"""Lightning callbacks: preconditioning and its monitors, for any LightningModule."""

from pcgan_lightning.callbacks.adaptive_preconditioning import AdaptivePreconditioning
from pcgan_lightning.callbacks.monitors import (
    AdaptiveMagnitudeLogger,
    BalanceLogger,
    CollapseMonitor,
    JacobianSpectrumLogger,
    LearningSpeedLogger,
    ModeCoverageLogger,
    ModeLogger,
    Monitor,
    SampleGridLogger,
    ScoreLogger,
    SpectralNormLogger,
    SpectrumLogger,
)
from pcgan_lightning.callbacks.preconditioning import FixedPreconditioning, Preconditioning
from pcgan_lightning.callbacks.running import (
    Acceleration,
    GANProgressBar,
    LostProcessError,
    NonFiniteError,
    NonFiniteGuard,
    RunCheckpoint,
    RunRecord,
    StopOnSignal,
)
from pcgan_lightning.callbacks.svd import SVDParametrization

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
    "LostProcessError",
    "ModeCoverageLogger",
    "ModeLogger",
    "Monitor",
    "NonFiniteError",
    "NonFiniteGuard",
    "Preconditioning",
    "RunCheckpoint",
    "RunRecord",
    "SVDParametrization",
    "SampleGridLogger",
    "ScoreLogger",
    "SpectralNormLogger",
    "SpectrumLogger",
    "StopOnSignal",
]
