"""Scores of generated images: FID, inception score, KID, precision and recall, from one pass over the images."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Optional, Union

import torch
from rich.progress import track
from torch import Tensor
from torch_fidelity.metric_fid import fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torchmetrics import Metric

from pcgan_lightning.data import RealImages
from pcgan_lightning.metrics.features import Features
from pcgan_lightning.metrics.reference import KEPT_FEATURES, Reference, statistics

Score = Literal["fid", "score", "kid", "precision_recall"]
SCORES: tuple[Score, ...] = ("fid", "score", "kid", "precision_recall")


class GenerativeScores(Metric):
    r"""FID, inception score, KID, improved precision and recall of generated images.

    Features of all images are kept, gathered over processes by torchmetrics, put in the order of the images' numbers
    and handed to torch-fidelity, so that n processes give what one does:

    - ``fid``: :math:`\|\mu_1-\mu_2\|^2 + \operatorname{tr}(\Sigma_1+\Sigma_2-2(\Sigma_1\Sigma_2)^{1/2})`, 0 at best;
    - ``inception_score``: :math:`\exp\mathbb{E}\,\mathrm{KL}(p(y|x)\,\|\,p(y))`, mean over `splits`, from 1 to the
      number of classes;
    - ``kid``: unbiased squared MMD with the kernel :math:`(x^\top y/d+1)^3`, mean over subsets, 0 at best, may be
      slightly negative;
    - ``precision``, ``recall``: shares in 0..1 of the generated images in the real manifold and the reverse, with
      balls to the third nearest neighbour, on equally many images of both, 10,000 at most.

    With features other than Inception-v3 all names begin with the features' label: ``classifier_fid``,
    ``classifier_score`` and so on.

    Args:
        features: what to see in the images.
        reference: statistics of the real images with the same features; may be set later, as an attribute.
        scores: which of "fid", "score", "kid", "precision_recall"; None: all that the features allow.
        splits: of the inception score.
        kid_subsets: random subsets of KID.
        kid_subset_size: images of each.
        neighbours: of precision and recall.
        **kwargs: of ``torchmetrics.Metric``.

    Raises:
        ValueError: for unknown scores; in :meth:`check`, for too few images, or a score that needs logits of features
            that have none.
    """

    full_state_update = False
    numbers: list[Tensor]
    features: list[Tensor]
    logits: list[Tensor]

    def __init__(
        self,
        features: Features,
        reference: Optional[Reference] = None,
        scores: Union[Score, Sequence[Score], None] = None,
        splits: int = 10,
        kid_subsets: int = 100,
        kid_subset_size: int = 1000,
        neighbours: int = 3,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.scores = check_scores(scores)
        with torch.random.fork_rng(devices=[]):  # the weights of a network are drawn before they are read
            features.load()
        self.extractor = features
        self.reference = reference
        self.splits = splits
        self.kid_subsets = kid_subsets
        self.kid_subset_size = kid_subset_size
        self.neighbours = neighbours
        for state in ("numbers", "features", "logits"):
            self.add_state(state, default=[], dist_reduce_fx="cat")

    def update(self, images: Tensor, numbers: Tensor) -> None:
        """Take in generated images.

        Args:
            images: uint8 in 0..255, ``[N, C, H, W]``.
            numbers: int64 ``[N]``, the images' numbers among all.
        """
        features, logits = self.extractor(images)
        self.numbers.append(numbers.to(features.device))
        self.features.append(features)
        if logits is not None:
            self.logits.append(logits)

    def compute(self) -> dict[str, float]:
        """Return the scores by name."""
        if self.reference is None or len(self.reference.mean) != _joined(self.features).shape[1]:
            found = "none" if self.reference is None else f"statistics of {len(self.reference.mean)}"
            raise ValueError(f"argument `reference` must be statistics of the same features, got {found}")
        order = _joined(self.numbers).argsort().cpu()
        features = _joined(self.features).cpu()[order]
        logits = _joined(self.logits).cpu()[order] if len(self.logits) else None
        scores = self.scores or possible_scores(logits is not None)
        real = self.reference.features
        values: dict[str, float] = {}
        equally_many = min(len(features), len(real), KEPT_FEATURES)
        for score in scores:
            if score == "fid":
                values["fid"] = frechet_distance(statistics(features), self.reference)
            elif score == "score":
                values["score"] = isc_features_to_metric(logits, self.splits)["inception_score_mean"]
            elif score == "kid":
                subsets = {"kid_subsets": self.kid_subsets, "kid_subset_size": self.kid_subset_size, "verbose": False}
                values["kid"] = kid_features_to_metric(features, real, **subsets)["kernel_inception_distance_mean"]
            else:
                shares = prc_features_to_metric(
                    features[:equally_many],
                    real[:equally_many],
                    prc_neighborhood=self.neighbours,
                    save_cpu_ram=True,
                    verbose=False,
                )
                values |= {"precision": shares["precision"], "recall": shares["recall"]}
        return {score_name(self.extractor.label, key): value for key, value in values.items()}

    def check(self, count: int, real: RealImages, world_size: int = 1) -> None:
        """Refuse what cannot be scored, before anything is generated, or seen in the real images.

        Args:
            count: of images to generate.
            real: the real images.
            world_size: number of processes that share the work.
        """
        probe, logits = self.extractor(torch.zeros(1, *real.image_shape, dtype=torch.uint8, device=self.device))
        size, scores = probe.shape[1], self.scores or possible_scores(logits is not None)
        if "score" in scores and logits is None:
            raise ValueError(
                f"argument `scores` must not contain 'score' for {self.extractor.description}, got {scores}"
            )
        self.scores = scores
        if count < world_size:
            raise ValueError(f"argument `count` must be at least the number of processes, {world_size}, got {count}")
        for kind, found in (("generated", count), ("real", real.count)):
            needed = {
                # With fewer, the covariance is singular and the distance biased beyond use.
                "fid": ("the number of features, for FID", size + 1),
                "kid": ("the images of a subset, for KID", self.kid_subset_size),
                "precision_recall": ("the neighbours, for precision and recall", self.neighbours + 1),
                "score": ("the number of splits, for the inception score", self.splits),
            }
            for score in scores:
                reason, least = needed[score]
                if found < least and not (score == "score" and kind == "real"):
                    name = "count" if kind == "generated" else "real_count"
                    raise ValueError(
                        f"argument `{name}` must give at least {least:,} {kind} images ({reason}), got {found:,}"
                    )

    def protocol(self, count: int, real: RealImages) -> str:
        """Return in one sentence what is compared with what; call :meth:`check` first."""
        equally_many = min(count, real.count, KEPT_FEATURES)
        details = {
            "score": f"score over {self.splits} splits",
            "kid": f"KID over {self.kid_subsets} subsets of {self.kid_subset_size:,}",
            "precision_recall": f"precision and recall with {self.neighbours} neighbours on {equally_many:,} of each",
        }
        compared = f"{count:,} generated images against {real.count:,} of {real.description}"
        parts = [compared, self.extractor.description]
        parts += [", ".join(text for score, text in details.items() if score in (self.scores or SCORES))]
        return "; ".join(part for part in parts if part) + "."


def score_name(label: str, score: str) -> str:
    """Return a score's name with the label of its features; only Inception's bear the plain names."""
    plain = "inception_score" if score == "score" else score
    return f"{label}_{score}" if label else plain


def possible_scores(has_logits: bool) -> tuple[Score, ...]:
    """Return the scores that features with or without logits allow."""
    return tuple(score for score in SCORES if score != "score" or has_logits)


def check_scores(scores: Union[Score, Sequence[Score], None]) -> Optional[tuple[Score, ...]]:
    """Return the scores asked for as a tuple; refuse unknown ones, or none."""
    if scores is None:
        return None
    asked = (scores,) if isinstance(scores, str) else tuple(scores)
    if not asked or not set(asked) <= set(SCORES):
        raise ValueError(f"argument `scores` must be some of {', '.join(SCORES)}, got {list(asked)}")
    return asked


def frechet_distance(first: Reference, second: Reference) -> float:
    """Return the squared Fréchet distance of two normal distributions with these means and covariances."""
    a, b = ({"mu": s.mean.numpy(), "sigma": s.covariance.numpy()} for s in (first, second))
    return fid_statistics_to_metric(a, b, verbose=False)["frechet_inception_distance"]


def score_generator(
    metric: Metric,
    generate: Callable[[range], Tensor],
    count: int,
    batch_size: int = 100,
    rank: int = 0,
    world_size: int = 1,
    progress: bool = False,
) -> dict[str, float]:
    """Generate images, take them in and return their scores.

    Args:
        metric: the scores; it is reset before and after.
        generate: numbers -> uint8 images ``[N, C, H, W]`` of these numbers.
        count: images of all processes together.
        batch_size: images generated and seen at once.
        rank: number of this process, which generates every `world_size`-th image.
        world_size: number of processes.
        progress: show a bar.
    """
    metric.reset()
    starts = range(rank, count, world_size * batch_size)
    for start in track(starts, "generated images", disable=not progress):
        numbers = range(start, min(count, start + world_size * batch_size), world_size)
        metric.update(generate(numbers), torch.tensor(numbers))
    scores = metric.compute()
    metric.reset()
    return scores


def _joined(state: Any) -> Tensor:
    return torch.cat(list(state)) if isinstance(state, (list, tuple)) else state
