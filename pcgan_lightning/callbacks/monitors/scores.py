"""FID, inception score, KID, precision and recall over training."""

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Optional, Union

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from pcgan_lightning.callbacks.loggers import log_scalars, run_folder
from pcgan_lightning.callbacks.targets import check_interval, completed_iterations
from pcgan_lightning.data import RealImages, digest_pixels, to_uint8
from pcgan_lightning.metrics import Features, GenerativeScores, InceptionFeatures, reference_statistics, score_generator
from pcgan_lightning.metrics.scores import Score, check_scores
from pcgan_lightning.networks import evaluation_mode

log = logging.getLogger("lightning.pytorch")


class ScoreLogger(Callback):
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
        for name, value in (("count", count), ("batch_size", batch_size), ("real_count", real_count)):
            if value is not None and value < 1:
                raise ValueError(f"argument `{name}` must be at least 1, got {value}")
        self.every_n_steps = check_interval(every_n_steps)
        self.count = count
        self.features = features if features is not None else InceptionFeatures()
        self.scores = check_scores(scores)
        self.metric: Optional[GenerativeScores] = None
        self.part = part
        self.real_count = real_count
        self.sample = sample
        self.batch_size = batch_size
        self.cache = cache
        self.series: dict[str, list] = {"iteration": [], "scores": []}
        self._protocol = ""

    @property
    def state_key(self) -> str:
        """Tells the states of two of these with different features apart."""
        return self._generate_state_key(label=self.features.label, part=self.part)

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Refuse a module that cannot sample, and get the features' weights: one process of a machine downloads."""
        if self.sample is None and not (hasattr(pl_module, "fixed_latents") and hasattr(pl_module, "sample_images")):
            raise TypeError(
                "ScoreLogger needs the argument `sample`, or a module with `fixed_latents(count)` and "
                f"`sample_images(latents)`, got {type(pl_module).__name__}"
            )
        if stage == "fit":
            for _ in _in_turn(trainer):
                self.metric = GenerativeScores(self.features, scores=self.scores)

    def on_fit_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Compute the real images' statistics, or read them, where a data module knows the images by itself."""
        self.metric.reference = None
        if hasattr(trainer.datamodule, "real_images"):
            self._prepare(trainer, trainer.datamodule.real_images(self.part, self.real_count), progress=True)

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """The same where the images come from a loader."""
        if self.metric.reference is None:
            self._prepare(trainer, _from_loader(trainer, self.part, self.real_count))

    def _prepare(self, trainer: "pl.Trainer", real: RealImages, progress: bool = False) -> None:
        device = trainer.strategy.root_device
        self.metric.to(device)
        self.metric.check(self.count, real, trainer.world_size)
        self._protocol = self.metric.protocol(self.count, real)
        if trainer.fast_dev_run:  # nothing is scored
            return
        for first in _in_turn(trainer):  # the others find it in the cache
            self.metric.reference = reference_statistics(
                real, self.features, self.cache, self.batch_size, device, progress and first
            )

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Score at the interval."""
        if completed_iterations(trainer) % self.every_n_steps == 0 and not trainer.fast_dev_run:
            scores = self.score(trainer, pl_module)
            # For callbacks that monitor a value; the loggers have it already.
            pl_module.log_dict({f"metric/{name}": value for name, value in scores.items()}, logger=False)

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Score the final generator."""
        if not trainer.fast_dev_run and self.series["iteration"][-1:] != [completed_iterations(trainer)]:
            self.score(trainer, pl_module)

    def score(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> dict[str, float]:
        """Score now, extend the series, write to the loggers and the run folder, and return the scores."""
        rank, world_size = trainer.global_rank, trainer.world_size
        if world_size > 1:
            # Each process has running statistics of its own, and the checkpoint those of the first.
            for buffer in pl_module.buffers():
                torch.distributed.broadcast(buffer, 0)
        generate = self._generator(pl_module)
        with _undisturbed(pl_module):
            found = score_generator(self.metric, generate, self.count, self.batch_size, rank, world_size)
        prefix = "" if self.part == "train" else f"{self.part}_"
        scores = {f"{prefix}{name}": value for name, value in found.items()}
        iteration = completed_iterations(trainer)
        self.series["iteration"].append(iteration)
        self.series["scores"].append(scores)
        log_scalars(trainer, {f"metric/{name}": value for name, value in scores.items()})
        if trainer.is_global_zero:
            values = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in scores.items())
            protocol = f"{self._weights(pl_module)}{self._protocol}"
            log.info(f"iteration {iteration:,}: {values} ({protocol})")
            file = f"iteration_{iteration:07d}_{self.features.label or 'inception'}_{self.part}.json"
            save_scores(run_folder(trainer) / "evaluations" / file, scores, protocol, iteration)
        return scores

    def _weights(self, pl_module: "pl.LightningModule") -> str:
        if self.sample is not None:
            return ""
        averaged = getattr(pl_module, "averaged_generator", None) is not None
        return f"{'Moving average of the weights' if averaged else 'Last weights'}, latents of seed 0: "

    def _generator(self, pl_module: "pl.LightningModule") -> Callable[[range], Tensor]:
        if self.sample is not None:
            return lambda numbers: to_uint8(self.sample(pl_module, numbers))
        latents = pl_module.fixed_latents(self.count)
        return lambda numbers: to_uint8(pl_module.sample_images(latents[numbers.start : numbers.stop : numbers.step]))

    def state_dict(self) -> dict[str, Any]:
        """Return the scores so far."""
        return {"series": self.series}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's scores."""
        self.series = state_dict["series"]


def save_scores(path: Path, scores: dict[str, float], protocol: str, iteration: int) -> None:
    """Write scores with what is needed to read them later."""
    path.parent.mkdir(parents=True, exist_ok=True)
    date = datetime.now().isoformat(timespec="seconds")
    content = {"iteration": iteration, "scores": scores, "protocol": protocol, "date": date}
    path.write_text(json.dumps(content, indent=2) + "\n")


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
    size = f"{images.shape[-2]}x{images.shape[-1]}"
    return RealImages(
        f"the {part} loader ({size})", len(images), tuple(images.shape[1:]), digest_pixels(images), lambda: images
    )


def _in_turn(trainer: "pl.Trainer") -> Iterator[bool]:
    """Yield once in every process, first in the first one of each machine: True there, False in the others."""
    for turn in (True, False):
        if (trainer.local_rank == 0) is turn:
            yield turn
        trainer.strategy.barrier()


@contextmanager
def _undisturbed(pl_module: nn.Module) -> Iterator[None]:
    """Let a function of others sample: without gradients, in evaluation mode, with random numbers of its own."""
    devices = [pl_module.device] if pl_module.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices), evaluation_mode(pl_module):
        yield


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
