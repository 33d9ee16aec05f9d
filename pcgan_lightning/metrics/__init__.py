"""Scores of generated images, through torchmetrics and torch-fidelity."""

from pcgan_lightning.data import default_cache
from pcgan_lightning.metrics.digit_classifier import DigitClassifier
from pcgan_lightning.metrics.evaluation import latent_sampler, sampled_weights, score_samples
from pcgan_lightning.metrics.features import (
    ClassifierFeatures,
    DigitFeatures,
    Features,
    InceptionFeatures,
    ModuleFeatures,
)
from pcgan_lightning.metrics.mixture import MixtureCoverage, mode_coverage
from pcgan_lightning.metrics.modes import ModeCoverage, expected_kl
from pcgan_lightning.metrics.reference import Reference, reference_statistics
from pcgan_lightning.metrics.scores import GenerativeScores, Score, check_scores, score_generator, score_name

__all__ = [
    "ClassifierFeatures",
    "DigitClassifier",
    "DigitFeatures",
    "Features",
    "GenerativeScores",
    "InceptionFeatures",
    "MixtureCoverage",
    "ModeCoverage",
    "ModuleFeatures",
    "Reference",
    "Score",
    "check_scores",
    "default_cache",
    "expected_kl",
    "latent_sampler",
    "mode_coverage",
    "reference_statistics",
    "sampled_weights",
    "score_generator",
    "score_name",
    "score_samples",
]
