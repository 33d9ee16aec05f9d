"""Grafting: the magnitude of one optimizer's step on the direction of another's (Agarwal et al., 2020)."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer, ParamsT
from typing_extensions import override

from pcgan_lightning.optim.blocks import BlockwiseOptimizer, Scope, quotient

MakeOptimizer = Callable[[Iterable], Optimizer]


class Grafted(BlockwiseOptimizer):
    r"""Any two optimizers grafted: :math:`\|M\| D / (\|D\| + \varepsilon)` with their steps M and D.

    Both see the same gradients and make their steps on tensors of zeros beside the parameters, so that the steps are
    known exactly; their memory is two more copies of the parameters. The learning rate is that of `magnitude`: a
    scheduler of this optimizer moves it. The length of D does not matter.

    Args:
        params: see :class:`BlockwiseOptimizer`. Groups may have an ``lr``, which is that of `magnitude`, and an
            ``eps``; other options belong to the two optimizers.
        magnitude: function of parameters that makes the optimizer of the steps' lengths.
        direction: the same of the steps' directions.
        eps: :math:`\varepsilon \ge 0`.
        scope: what one norm covers: "global", "layer" (needs named parameters) or "tensor".

    Raises:
        ValueError: for options out of range, or an optimizer that decays weights, which the steps on zeros leave out.
    """

    def __init__(
        self,
        params: ParamsT,
        magnitude: MakeOptimizer,
        direction: MakeOptimizer,
        eps: float = 0.0,
        scope: Scope = "global",
    ) -> None:
        self.inner: dict[str, Optimizer] = {}
        given: list[Any] = list(params)  # once, for it may be a generator
        groups: list[dict[str, Any]] = given if given and isinstance(given[0], dict) else [{}]
        unknown = sorted({key for group in groups for key in group} - {"params", "lr", "eps"})
        if unknown:
            raise ValueError(f"argument `params` must have groups with `lr` and `eps` alone, got {', '.join(unknown)}")
        rates = [group.get("lr") for group in groups]  # now, for torch fills in the defaults
        super().__init__(given, {"lr": 0.0, "eps": eps, "maximize": False}, scope)
        self._shadows: dict[str, dict[Tensor, Tensor]] = {}
        for role, make in (("magnitude", magnitude), ("direction", direction)):
            shadows = {p: torch.zeros_like(p) for group in self.param_groups for p in group["params"]}
            optimizer = make([{"params": [shadows[p] for p in group["params"]]} for group in self.param_groups])
            if any(group.get("weight_decay") for group in optimizer.param_groups):
                raise ValueError(f"argument `{role}` must not decay weights, got {type(optimizer).__name__} that does")
            self._shadows[role], self.inner[role] = shadows, optimizer
        for group, own, rate in zip(self.param_groups, self.inner["magnitude"].param_groups, rates, strict=True):
            group["lr"] = own["lr"] if rate is None else rate
        self.defaults["lr"] = self.inner["magnitude"].defaults["lr"]

    kept_in_copies = (*BlockwiseOptimizer.kept_in_copies, "inner", "_shadows")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; only the constructor does, which hands the groups to the two optimizers."""
        if self.inner:
            raise NotImplementedError("Grafted takes no further parameters once it is made")
        super().add_param_group(param_group)

    def direction(self, members: list[tuple[Tensor, dict[str, Any]]]) -> tuple[list[Tensor], Tensor]:
        """Return D and ||M|| / (||D|| + eps)."""
        for group, own in zip(self.param_groups, self.inner["magnitude"].param_groups, strict=True):
            own["lr"] = group["lr"]
        magnitude, direction = (self._steps(role, members) for role in ("magnitude", "direction"))
        eps = [group["eps"] for _, group in members]
        return direction, quotient(self.block_norms(members, magnitude), self.block_norms(members, direction), eps)

    def signed_rate(self, group: dict[str, Any]) -> float:
        """Return 1: the learning rate is in M already, as is the sign."""
        return 1.0

    def _steps(self, role: str, members: list[tuple[Tensor, dict[str, Any]]]) -> list[Tensor]:
        """Return the step of one of the optimizers for each parameter."""
        shadows = self._shadows[role]
        torch._foreach_zero_(list(shadows.values()))
        for parameter, shadow in shadows.items():
            shadow.grad = parameter.grad
        self.inner[role].step()
        return [shadows[p] for p, _ in members]

    def state_dict(self) -> dict[str, Any]:
        """Return the state, with those of the two optimizers."""
        return super().state_dict() | {role: optimizer.state_dict() for role, optimizer in self.inner.items()}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({key: value for key, value in state_dict.items() if key not in self.inner})
        for role, optimizer in self.inner.items():
            optimizer.load_state_dict(state_dict[role])
