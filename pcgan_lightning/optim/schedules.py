"""Learning-rate schedules counted in iterations."""

from typing import Any, Optional, Union

from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from torch.optim.optimizer import Optimizer
from typing_extensions import override

from pcgan_lightning.arguments import require_at_least


class LinearDecay(LRScheduler):
    r"""Constant learning rate, then a linear decay to 0.

    .. math:: \eta_t = \eta_0 \min\Big(1, \frac{T - t}{(1 - s) T}\Big)

    for iteration :math:`t \le T` and 0 after. The authors of PC-GAN use s = 0.5 on CIFAR-10 and 0.75 on STL-10.

    Args:
        optimizer: the wrapped optimizer.
        total_iterations: T, at least 1. None: the modules of this package fill in the trainer's ``max_steps``.
        start: s in [0, 1), the share of the run before the decay.

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(self, optimizer: Optimizer, total_iterations: Optional[int] = None, start: float = 0.5) -> None:
        require_at_least(1, total_iterations=total_iterations)
        if not 0.0 <= start < 1.0:
            raise ValueError(f"argument `start` must be in [0, 1), got {start}")
        self.total_iterations = total_iterations
        self.start = start
        super().__init__(optimizer)

    @override
    def get_lr(self) -> list[Union[float, Tensor]]:
        if self.last_epoch == 0:
            return list(self.base_lrs)
        if self.total_iterations is None:
            raise ValueError("argument `total_iterations` must be given outside of this package's modules, got None")
        remaining = max(0.0, self.total_iterations - self.last_epoch)
        factor = min(1.0, remaining / ((1.0 - self.start) * self.total_iterations))
        return [base * factor for base in self.base_lrs]

    def state_dict(self) -> dict[str, Any]:
        """Return the state without the run's length: a resumed run may be longer."""
        state = super().state_dict()
        del state["total_iterations"]
        return state
