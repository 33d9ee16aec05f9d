"""Scores of generated images, through torchmetrics and torch-fidelity."""

from pcgan_lightning.metrics.features import ClassifierFeatures, Features, InceptionFeatures, ModuleFeatures
from pcgan_lightning.metrics.mixture import MixtureCoverage, mode_coverage
from pcgan_lightning.metrics.reference import Reference, default_cache, reference_statistics
from pcgan_lightning.metrics.scores import GenerativeScores, score_generator, score_name

__all__ = [
    "ClassifierFeatures",
    "Features",
    "GenerativeScores",
    "InceptionFeatures",
    "MixtureCoverage",
    "ModuleFeatures",
    "Reference",
    "default_cache",
    "mode_coverage",
    "reference_statistics",
    "score_generator",
    "score_name",
]
