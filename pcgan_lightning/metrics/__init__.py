"""Scores of generated images, through torchmetrics and torch-fidelity."""

from pcgan_lightning.metrics.digit_classifier import DigitClassifier
from pcgan_lightning.metrics.features import ClassifierFeatures, Features, InceptionFeatures, ModuleFeatures
from pcgan_lightning.metrics.mixture import MixtureCoverage, mode_coverage
from pcgan_lightning.metrics.modes import ModeCoverage, expected_kl
from pcgan_lightning.metrics.reference import Reference, default_cache, reference_statistics
from pcgan_lightning.metrics.scores import GenerativeScores, score_generator, score_name

__all__ = [
    "ClassifierFeatures",
    "DigitClassifier",
    "Features",
    "GenerativeScores",
    "InceptionFeatures",
    "MixtureCoverage",
    "ModeCoverage",
    "ModuleFeatures",
    "Reference",
    "default_cache",
    "expected_kl",
    "mode_coverage",
    "reference_statistics",
    "score_generator",
    "score_name",
]
