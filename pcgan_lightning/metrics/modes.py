"""How many modes of labelled data generated images cover, and how evenly, as a classifier sees them."""

from typing import Any, NamedTuple, Optional

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from pcgan_lightning.metrics.digit_classifier import DigitClassifier
from pcgan_lightning.networks import evaluation_mode


class _Judged(NamedTuple):
    modes: Tensor  # int64, [N]
    sure: Tensor  # bool, [N]


class ModeCoverage(Metric):
    r"""Modes covered by generated images, KL divergence of their histogram to uniform, share of sure samples.

    A classifier of K classes says which mode an image shows. One that takes images of fewer channels, say one of
    three, judges each group of channels by itself, and the modes are all combinations: :math:`K^3` for three stacked
    digits. From N samples, :math:`n_m` of them in mode m of M:

    - ``modes_covered``: the modes with at least one sample, 0 to M;
    - ``kl_to_uniform``: :math:`\sum_m \frac{n_m}{N} \log \frac{M n_m}{N}`, from 0 to :math:`\log M`. N perfect samples
      give about :math:`(M - 1) / (2 N)`, see :func:`expected_kl`, not 0;
    - ``sure_share``: the share of samples in 0..1 of which the classifier gives its class at least the probability
      `confidence`, in every group of channels.

    Only counts are kept, and n processes give what one does.

    Args:
        image_shape: (channels, height, width) of the generated images.
        classifier: images -> logits ``[N, K]``; with an attribute ``image_shape``, as those of this package have, it is
            checked. It is used in evaluation mode. None: ``DigitClassifier`` of the images' size, for stacked digits.
        confidence: in (0, 1].
        **kwargs: of ``torchmetrics.Metric``.

    Attributes:
        modes: M.

    Raises:
        ValueError: for arguments out of range, or a classifier of images of another size; in :meth:`check`, for fewer
            samples than modes; in :meth:`update`, for images of another shape.

    Example:
        >>> metric = ModeCoverage(image_shape=(3, 8, 8))
        >>> metric.update(torch.full((5, 3, 8, 8), -1.0))
        >>> metric.compute()["modes_covered"]
        1.0
    """

    full_state_update = False
    counts: Tensor
    sure: Tensor
    classifier: nn.Module

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        classifier: Optional[nn.Module] = None,
        confidence: float = 0.9,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not 0.0 < confidence <= 1.0:
            raise ValueError(f"argument `confidence` must be in (0, 1], got {confidence}")
        self.image_shape = tuple(image_shape)
        self.classifier = classifier if classifier is not None else DigitClassifier(self.image_shape[1])
        self.confidence = confidence
        seen = tuple(getattr(self.classifier, "image_shape", self.image_shape))
        if seen[1:] != self.image_shape[1:] or self.image_shape[0] % seen[0]:
            raise ValueError(
                f"argument `classifier` must take images of shape {self.image_shape}, or groups of their channels, got "
                f"{type(self.classifier).__name__} for {seen}"
            )
        self._group_shape = seen
        self._groups = self.image_shape[0] // seen[0]
        probe = self._logits(torch.zeros(1, *self.image_shape))
        self._classes = probe.shape[-1]
        self.modes = self._classes**self._groups
        self.add_state("counts", default=torch.zeros(self.modes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("sure", default=torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def check(self, count: int) -> None:
        """Refuse a number of samples that cannot cover the modes."""
        if count < self.modes:
            raise ValueError(f"argument `count` must be at least the number of modes, {self.modes:,}, got {count:,}")

    def update(self, images: Tensor, numbers: Optional[Tensor] = None) -> None:
        """Take in generated images.

        Args:
            images: floating point in [-1, 1], ``[N, C, H, W]``.
            numbers: the images' numbers among all, which make no difference here.
        """
        if tuple(images.shape[1:]) != self.image_shape or not images.is_floating_point():
            expected = ", ".join(map(str, ("N", *self.image_shape)))
            raise ValueError(
                f"argument `images` must be floating point of shape [{expected}], got {images.dtype}, "
                f"{list(images.shape)}"
            )
        judged = self._judge(images)
        self.counts += torch.bincount(judged.modes, minlength=self.modes)
        self.sure += judged.sure.sum()

    def compute(self) -> dict[str, float]:
        """Return the three numbers by name."""
        total = self.counts.sum().item()
        if not total:
            raise ValueError("argument `images` must have been given by `update` before `compute`, got none")
        shares = self.counts.double() / total
        found = {
            "modes_covered": float(self.counts.count_nonzero()),
            "kl_to_uniform": torch.special.xlogy(shares, shares * self.modes).sum().item(),
            "sure_share": self.sure.item() / total,
        }
        return found

    def protocol(self, count: int) -> str:
        """Return in one sentence how the modes are counted."""
        accuracy = getattr(self.classifier, "accuracy", None)
        known = "" if accuracy is None else f" with {100 * accuracy:.1f}% test accuracy"
        return (
            f"{self.modes:,} modes told by {type(self.classifier).__name__}{known} in {count:,} samples, sure from "
            f"probability {self.confidence:g}; as many perfect ones would have KL {expected_kl(self.modes, count):.4f}."
        )

    @torch.no_grad()
    def _logits(self, images: Tensor) -> Tensor:
        with evaluation_mode(self.classifier):
            return self.classifier(images.reshape(-1, *self._group_shape))

    def _judge(self, images: Tensor) -> _Judged:
        top = self._logits(images.float()).softmax(dim=1).max(dim=1)
        classes, probabilities = (values.view(len(images), self._groups) for values in (top.indices, top.values))
        place_values = self._classes ** torch.arange(self._groups, device=classes.device)
        return _Judged((classes * place_values).sum(1), (probabilities >= self.confidence).all(1))


def expected_kl(modes: int, count: int) -> float:
    r"""Return what ``kl_to_uniform`` is expected to be for perfect samples: :math:`(M - 1) / (2 N)`, to first order.

    It is the bias of the entropy of a sample's histogram (Miller, 1955), good where N is several times M.
    """
    return (modes - 1) / (2 * count)
