"""FID, inception score, KID, precision and recall over training."""

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Optional, Union

import lightning.pytorch as pl
import torch
from torch import Tensor
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.callbacks.loggers import run_folder
from pcgan_lightning.callbacks.monitors.monitor import Monitor
from pcgan_lightning.callbacks.targets import completed_iterations, connected
from pcgan_lightning.data import RealImages, digest_pixels, to_uint8
from pcgan_lightning.metrics import (
    Features,
    GenerativeScores,
    InceptionFeatures,
    Score,
    check_scores,
    latent_sampler,
    reference_statistics,
    sampled_weights,
    score_samples,
)
from pcgan_lightning.runs import evaluation_path, save_scores

log = logging.getLogger("lightning.pytorch")


class ScoreLogger(Monitor):
    r"""Score generated images against real ones: FID, inception score, KID, precision and recall.

    Every `every_n_steps` iterations and after the last, as ``metric/fid``, ``metric/inception_score``, ``metric/kid``,
    ``metric/precision``, ``metric/recall``, in the loggers, in ``trainer.callback_metrics`` (so that a
    ``ModelCheckpoint`` can monitor them) and with their protocol as
    ``evaluations/iteration_<n>_<features>_<part>.json`` in the run folder. With other features than Inception-v3 the
    names begin with the features' label, as ``metric/classifier_fid``; against validation images all begin with
    ``validation_``. The generator's moving average is scored where the run has one. The images are made from latents
    that stay the same over a run, and training is not disturbed: scoring moves no random state.

    The real images' statistics are computed before training and kept in a cache on disk.

    Args:
        every_n_steps: iterations (training batches) between scores.
        count: generated images of one scoring, of all processes together.
        features: what to see in the images. None: Inception-v3, downloaded on first use.
        scores: some of "fid", "score", "kid", "precision_recall"; None: all that the features allow.
        part: the real images: those of "train" or of "validation".
        real_count: take the first so many real images. None: all.
        sample: function of the LightningModule and latents' numbers (a ``range``) that returns images in [-1, 1],
            ``[N, C, H, W]``; called without gradients and in evaluation mode. None: ``module.sample_images`` of
            ``module.fixed_latents``, as the modules of this package have them.
        batch_size: images generated and seen at once.
        cache: folder of the real images' statistics. None: ``$PCGAN_CACHE``, or the user's cache folder.

    Attributes:
        metric: the scores and the real images' statistics, from setup on.
        series: ``{"iteration": [...], "scores": [{...}, ...]}``, one entry a scoring.

    Raises:
        ValueError: for arguments out of range; before training, for too few images.
        TypeError: at setup, for a module that cannot sample where `sample` is None.
    """

    prefix = "metric/"

    def __init__(
        self,
        every_n_steps: int = 5000,
        count: int = 10_000,
        features: Optional[Features] = None,
        scores: Union[Score, Sequence[Score], None] = None,
        part: Literal["train", "validation"] = "train",
        real_count: Optional[int] = None,
        sample: Optional[Callable[["pl.LightningModule", range], Tensor]] = None,
        batch_size: int = 100,
        cache: Optional[Path] = None,
    ) -> None:
        super().__init__(every_n_steps)
        require_at_least(1, count=count, batch_size=batch_size, real_count=real_count)
        self.count = count
        self.features = features if features is not None else InceptionFeatures()
        self.scores = check_scores(scores)
        self.metric: GenerativeScores = None  # type: ignore[assignment]  # made at setup
        self.part = part
        self.real_count = real_count
        self.sample = sample
        self.batch_size = batch_size
        self.cache = cache
        self.series["scores"] = []
        self._protocol = ""

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(label=self.features.label, part=self.part)

    @override
    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        if self.sample is None:
            self.check_samples(pl_module, alternative="the argument `sample`, or ")
        if stage == "fit":
            for _ in _in_turn(trainer):  # one process of a machine downloads
                self.metric = GenerativeScores(self.features, scores=self.scores)

    @override
    def on_fit_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        self.metric.reference = None
        data = connected(trainer).datamodule
        if hasattr(data, "real_images"):
            self._prepare(trainer, data.real_images(self.part, self.real_count), progress=True)

    @override
    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        super().on_train_start(trainer, pl_module)
        if self.metric.reference is None:  # the images are known by a loader alone
            self._prepare(trainer, _from_loader(trainer, self.part, self.real_count))

    def _prepare(self, trainer: "pl.Trainer", real: RealImages, progress: bool = False) -> None:
        device = trainer.strategy.root_device
        self.metric.to(device)
        self.metric.check(self.count, real, trainer.world_size)
        self._protocol = self.metric.protocol(self.count, real)
        if connected(trainer).fast_dev_run:  # nothing is scored
            return
        for first in _in_turn(trainer):  # the others find it in the cache
            self.metric.reference = reference_statistics(
                real, self.features, self.cache, self.batch_size, device, progress and first
            )

    @override
    def measure_now(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any = None) -> None:
        if not connected(trainer).fast_dev_run:  # which has no statistics of the real images
            super().measure_now(trainer, pl_module, batch)

    @override
    def measure(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", batch: Any) -> dict[str, float]:
        rank, world_size = trainer.global_rank, trainer.world_size
        if world_size > 1:
            # Each process has running statistics of its own, and the checkpoint those of the first.
            for buffer in pl_module.buffers():
                torch.distributed.broadcast(buffer, 0)
        options = {"batch_size": self.batch_size, "rank": rank, "world_size": world_size}
        if self.sample is not None:
            sample: Callable[[range], Tensor] = partial(self.sample, pl_module)
        else:
            sampler: Any = pl_module  # `setup` has looked
            sample = latent_sampler(sampler, sampler.fixed_latents(self.count))
        return score_samples(self.metric, sample, self.count, self.part, **options)

    @override
    def record(self, iteration: int, found: dict[str, float]) -> dict[str, float]:
        super().record(iteration, {"scores": found})
        return found

    @override
    def show(self, trainer: "pl.Trainer", found: dict[str, float]) -> None:
        iteration, protocol = completed_iterations(trainer), self._protocol
        if self.sample is None:
            protocol = f"{sampled_weights(trainer.lightning_module).capitalize()}, latents of seed 0: {protocol}"
        values = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in found.items())
        log.info(f"iteration {iteration:,}: {values} ({protocol})")
        path = evaluation_path(run_folder(trainer), f"iteration_{iteration:07d}", self.features.label, self.part)
        save_scores(path, found, protocol, iteration)


def _from_loader(trainer: "pl.Trainer", part: str, count: Optional[int]) -> RealImages:
    """Return the images of any loader as the real ones."""
    if trainer.world_size > 1:
        raise ValueError(
            "ScoreLogger needs a data module with `real_images`, as ImageDataModule is, on several processes: their "
            f"loaders hold different images, got {trainer.world_size} processes"
        )
    loader = trainer.train_dataloader if part == "train" else trainer.val_dataloaders
    if not loader:
        raise ValueError(f"argument `part` must name a loader that the trainer has, got {part!r}")
    images = _gather(loader[0] if isinstance(loader, list) else loader, count)
    shape: Any = tuple(images.shape[1:])  # of three numbers
    size = f"{images.shape[-2]}x{images.shape[-1]}"
    return RealImages(f"the {part} loader ({size})", len(images), shape, digest_pixels(images), lambda: images)


def _in_turn(trainer: "pl.Trainer") -> Iterator[bool]:
    """Yield once in every process, first in the first one of each machine: True there, False in the others."""
    for turn in (True, False):
        if (trainer.local_rank == 0) is turn:
            yield turn
        trainer.strategy.barrier()


def _gather(loader: Any, count: Optional[int]) -> Tensor:
    """Return a loader's images as uint8, and leave its place and the random state as they were."""
    place = loader.state_dict() if hasattr(loader, "load_state_dict") else None
    found, total = [], 0
    with torch.random.fork_rng(devices=[]):
        for batch in loader:
            while not isinstance(batch, Tensor):
                batch = next(iter(batch.values() if isinstance(batch, dict) else batch))
            found.append((batch if batch.dtype == torch.uint8 else to_uint8(batch)).cpu())
            total += len(batch)
            if count is not None and total >= count:
                break
    if place is not None:
        loader.load_state_dict(place)
    return torch.cat(found)[:count]
