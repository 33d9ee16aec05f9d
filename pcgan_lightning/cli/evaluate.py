"""`pcgan evaluate`: scores of a checkpoint's generator."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Optional, Union

from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from torch import nn

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.cli.generate import load_gan
from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.metrics import (
    Features,
    GenerativeScores,
    InceptionFeatures,
    ModeCoverage,
    Score,
    latent_sampler,
    reference_statistics,
    sampled_weights,
    score_generator,
    score_samples,
)
from pcgan_lightning.runs import (
    CONFIG_FILE,
    check_classes,
    evaluation_path,
    last_config,
    read_yaml,
    save_scores,
    unused_path,
)

SCORED_IMAGES, MODE_SAMPLES = 10_000, 25_600


def evaluate(
    checkpoint: Path,
    data: Optional[ImageDataModule] = None,
    features: Optional[Features] = None,
    scores: Union[Score, Sequence[Score], None] = None,
    count: Optional[int] = None,
    part: Literal["train", "validation"] = "train",
    real_count: Optional[int] = None,
    averaged: bool = True,
    seed: int = 0,
    batch_size: int = 100,
    device: str = "auto",
    cache: Optional[Path] = None,
    output: Optional[Path] = None,
    modes: bool = False,
    classifier: Optional[nn.Module] = None,
) -> None:
    """Score a checkpoint's generator: FID, inception score, KID, precision and recall; or count its modes.

    Args:
        checkpoint: a checkpoint file of a GAN of this package.
        data: the real images. None: those of the run whose folder the checkpoint is in.
        features: what to see in the images: InceptionFeatures, ClassifierFeatures (no download) or ModuleFeatures.
            None: InceptionFeatures.
        scores: some of "fid", "score", "kid", "precision_recall"; None: all that the features allow.
        count: generated images. None: 10,000, or 25,600 to count modes.
        part: compare with the images of "train" or of "validation".
        real_count: take the first so many real images. None: all.
        averaged: use the generator's moving average where the checkpoint has one.
        seed: seed of the latents.
        batch_size: images generated and seen at once.
        device: "auto", "cpu", "cuda", ...
        cache: folder of the real images' statistics. None: $PCGAN_CACHE, or the user's cache folder.
        output: JSON file to write. None: a new one in the folder ``evaluations`` of the run, where there is one.
        modes: instead of all this, count the modes of labelled data that the images cover; needs no real images.
        classifier: tells the mode of an image, or of each of its channels. None: that of scikit-learn's digits.
    """
    require_at_least(1, count=count, batch_size=batch_size, real_count=real_count)
    count = count or (MODE_SAMPLES if modes else SCORED_IMAGES)
    gan, iteration = load_gan(checkpoint, device)
    run = _run_of(checkpoint)
    sample = latent_sampler(gan, gan.fixed_latents(count, seed), averaged)
    made: Any = tuple(sample(range(1)).shape[1:])
    options: dict[str, Any] = {"batch_size": batch_size, "progress": True}
    started = time.perf_counter()
    if modes:
        coverage = ModeCoverage(made, classifier).to(gan.device)
        coverage.check(count)
        found, how, label = score_generator(coverage, sample, count, **options), coverage.protocol(count), "modes"
    else:
        features = features if features is not None else InceptionFeatures()
        metric = GenerativeScores(features, scores=scores).to(gan.device)
        real = (data if data is not None else _data_of(run, checkpoint)).real_images(part, real_count)
        if made != real.image_shape:
            raise ValueError(f"argument `data` must have images like the generator's, {made}, got {real.image_shape}")
        metric.check(count, real)
        metric.reference = reference_statistics(real, features, cache, batch_size, device=gan.device, progress=True)
        started = time.perf_counter()
        found, how = score_samples(metric, sample, count, part, **options), metric.protocol(count, real)
        label = features.label
    print(f"{count:,} images scored in {time.perf_counter() - started:.1f} s", file=sys.stderr)
    weights = sampled_weights(gan, averaged)
    protocol = f"Iteration {iteration:,}, {weights}, latents of seed {seed}: {how}"
    for name, value in found.items():
        print(f"{name.replace('_', ' '):24} {value:.6g}")
    print(protocol)
    if output is None and run is not None:
        output = unused_path(evaluation_path(run, checkpoint.stem, label, part))
    if output is not None:
        save_scores(output, found, protocol, iteration)
        print(f"written to {output}", file=sys.stderr)


def _run_of(checkpoint: Path) -> Optional[Path]:
    folder = checkpoint.resolve().parent.parent
    return folder if (folder / CONFIG_FILE).is_file() else None


def _data_of(run: Optional[Path], checkpoint: Path) -> ImageDataModule:
    if run is None:
        raise ValueError(
            "argument `data` must name the real images of a checkpoint outside its run folder, got none for "
            f"{checkpoint}"
        )
    # Each continuation of a run leaves the configuration that it was asked for.
    path = last_config(run)
    content = read_yaml(path, "checkpoint")
    config = content.get("data") if isinstance(content, dict) else None
    if config is None:
        raise ValueError(f"argument `data` must name the real images, for {path} names none")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(LightningDataModule, "data")
    parsed = parser.parse_object({"data": config})
    check_classes(parsed)
    data = parser.instantiate_classes(parsed).data
    if not hasattr(data, "real_images"):
        raise ValueError(f"argument `data` must be an ImageDataModule, got the run's {type(data).__name__}")
    return data
