"""Scoring a generator, as ``pcgan evaluate`` and ``ScoreLogger`` both do it."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from pcgan_lightning.data import to_uint8
from pcgan_lightning.metrics.scores import GenerativeScores, score_generator


def latent_sampler(module: nn.Module, latents: Tensor, averaged: bool = True) -> Callable[[range], Tensor]:
    """Return a function of latents' numbers that returns their images, ``[N, C, H, W]`` in [-1, 1].

    Args:
        module: has ``sample_images``, as the modules of this package.
        latents: all of them, ``[count, latent_dim]``.
        averaged: whether the moving average of the weights is used where the module has one.
    """
    options = {} if averaged else {"averaged": False}  # modules of others need not know of averages

    def sample(numbers: range) -> Tensor:
        wanted = latents[numbers.start : numbers.stop : numbers.step]
        return module.sample_images(wanted, **options)  # type: ignore[operator]  # of a module: Tensor or Module to torch

    return sample


def sampled_weights(module: nn.Module, averaged: bool = True) -> str:
    """Return in words which weights the images of :func:`latent_sampler` are made with."""
    has_average = getattr(module, "averaged_generator", None) is not None
    return "moving average of the weights" if averaged and has_average else "last weights"


def score_samples(
    metric: GenerativeScores, sample: Callable[[range], Tensor], count: int, part: str = "train", **options: Any
) -> dict[str, float]:
    """Score images in [-1, 1]; names of scores against other images than the training's begin with their part.

    Args:
        metric: the scores, with the statistics of the real images.
        sample: numbers -> images ``[N, C, H, W]`` in [-1, 1].
        count: images of all processes together.
        part: which images the real ones are.
        **options: of :func:`score_generator`.
    """
    found = score_generator(metric, lambda numbers: to_uint8(sample(numbers)), count, **options)
    prefix = "" if part == "train" else f"{part}_"
    return {f"{prefix}{name}": value for name, value in found.items()}
