"""Lightning callbacks: preconditioning and its monitors, for any LightningModule."""

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
    SpectrumLogger,
)
from pcgan_lightning.callbacks.preconditioning import (
    AdaptivePreconditioning,
    FixedPreconditioning,
    Preconditioning,
    SVDParametrization,
)
from pcgan_lightning.callbacks.running import (
    Acceleration,
    GANProgressBar,
    NonFiniteError,
    NonFiniteGuard,
    RunCheckpoint,
    RunRecord,
    StopOnSignal,
)

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
    "Monitor",
    "NonFiniteError",
    "NonFiniteGuard",
    "Preconditioning",
    "RunCheckpoint",
    "RunRecord",
    "SVDParametrization",
    "SampleGridLogger",
    "ScoreLogger",
    "SpectrumLogger",
    "StopOnSignal",
]
