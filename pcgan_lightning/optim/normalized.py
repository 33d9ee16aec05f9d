r"""Normalised and grafted optimizers of "Dissecting adaptive methods in GANs" (Sections 1.2 and 2).

With the gradient g and Adam's oracle A of a block of parameters, :math:`\|\cdot\|` its Euclidean norm, a step is

.. math::
    \text{SGDA: } \eta g \qquad
    \text{nSGDA: } \eta \frac{g}{\|g\|} \qquad
    \text{Ada-nSGDA: } \eta \|A\| \frac{g}{\|g\| + \varepsilon} \qquad
    \text{AdaDir: } \eta \|g\| \frac{A}{\|A\| + \varepsilon}

Each player of a game has an optimizer of its own, which minimises the loss that it is given, or maximises it with
``maximize=True``.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Optional, Union, get_args

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from pcgan_lightning.arguments import require_not_negative, require_one_of
from pcgan_lightning.optim.blocks import BlockwiseOptimizer, Scope, gradients_of, layer_name, like, quotient

Oracle = Literal["adam", "paper"]
Members = list[tuple[Tensor, dict[str, Any]]]


class NSGDA(BlockwiseOptimizer):
    r"""Normalised stochastic gradient descent-ascent: :math:`\eta\, s\, g / (\|g\| + \varepsilon)` (Equation 6).

    A gradient of zero makes a step of zero.

    Args:
        params: see :class:`BlockwiseOptimizer`.
        lr: :math:`\eta \ge 0`, the length of a block's step.
        scope: what one norm covers: "global" (all that the optimizer holds), "layer" (needs named parameters) or
            "tensor". None: "layer" with `layer_scales`, else "global".
        layer_scales: the constants s of the layers: a mapping of layer names, or a JSON file of one; needs named
            parameters. With scope "layer" a layer's step has the length :math:`\eta s`. Frozen layers need none. None:
            1 everywhere.
        eps: :math:`\varepsilon \ge 0`.
        maximize: go up.

    Raises:
        ValueError: for options out of range, an unknown scope, or scales that are malformed or of other layers.
        FileNotFoundError: for a file of scales that is missing.

    Example:
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
        >>> w.grad = torch.tensor([30.0, 40.0])
        >>> NSGDA([w], lr=0.5).step()
        >>> w.data
        tensor([0.7000, 0.6000])
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        scope: Optional[Scope] = None,
        layer_scales: Union[str, Path, dict[str, float], None] = None,
        eps: float = 0.0,
        maximize: bool = False,
    ) -> None:
        self._scale_of: Optional[dict[Tensor, float]] = None
        scope = scope or ("global" if layer_scales is None else "layer")
        super().__init__(params, {"lr": lr, "eps": eps, "maximize": maximize}, scope)
        if layer_scales is not None:
            self._scale_of = _match_scales(self.param_groups, layer_scales)

    kept_in_copies = (*BlockwiseOptimizer.kept_in_copies, "_scale_of")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; only the constructor does where layers have scales."""
        if self._scale_of is not None:
            raise NotImplementedError("NSGDA with `layer_scales` takes no further parameters once it is made")
        super().add_param_group(param_group)

    def direction(self, members: Members) -> tuple[list[Tensor], Tensor]:
        """Return the gradients and s / (norm + eps)."""
        gradients = gradients_of(p for p, _ in members)
        norms = self.block_norms(members, gradients)
        scales = norms.new_ones(())
        if self._scale_of is not None:
            scales = scales * like(norms, [self._scale_of[p] for p, _ in members])
        return gradients, quotient(scales, norms, [group["eps"] for _, group in members])


class _AdamOracle(BlockwiseOptimizer):
    """Base of the optimizers with Adam's oracle A in them."""

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.0, 0.999),
        eps: float = 1e-8,
        scope: Scope = "global",
        oracle: Oracle = "adam",
        maximize: bool = False,
    ) -> None:
        require_one_of(get_args(Oracle), oracle=oracle)
        self.oracle = oracle
        super().__init__(params, {"lr": lr, "betas": tuple(betas), "eps": eps, "maximize": maximize}, scope)

    kept_in_copies = (*BlockwiseOptimizer.kept_in_copies, "oracle")

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, and check its betas."""
        super().add_param_group(param_group)
        betas = self.param_groups[-1]["betas"]
        if len(betas) != 2:
            raise ValueError(f"argument `betas` must be two numbers, got {betas}")
        for number, beta in enumerate(betas):
            if not 0.0 <= beta < 1.0:
                raise ValueError(f"argument `betas[{number}]` must be in [0, 1), got {beta}")

    def adaptive(self, members: Members) -> list[Tensor]:
        """Update the moments and return A of each parameter."""
        found: list[Tensor] = []
        start = 0
        while start < len(members):  # one run for each group, whose members stand together
            group = members[start][1]
            end = next((i for i in range(start, len(members)) if members[i][1] is not group), len(members))
            found += self._adaptive([p for p, _ in members[start:end]], group["betas"], group["eps"])
            start = end
        return found

    def _adaptive(self, parameters: list[Tensor], betas: tuple[float, float], eps: float) -> Sequence[Tensor]:
        beta1, beta2 = betas
        states = [self.state[p] for p in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state["step"] = 0
                state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                if beta1:
                    state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["step"] += 1
        gradients, second = gradients_of(parameters), [s["exp_avg_sq"] for s in states]
        adam = self.oracle == "adam"
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2 if adam else 1.0)
        if beta1:
            first = [s["exp_avg"] for s in states]
            torch._foreach_mul_(first, beta1)
            torch._foreach_add_(first, gradients, alpha=1 - beta1 if adam else 1.0)
        return adam_oracle(parameters, states, betas, eps, self.oracle)


def adam_oracle(
    parameters: list[Tensor], states: list[dict[str, Any]], betas: tuple[float, float], eps: float, oracle: Oracle
) -> Sequence[Tensor]:
    """Return Adam's A of parameters whose moments are in `states`, with torch's names for them.

    Args:
        parameters: those with a gradient, which stands in for the first moment where that is not kept.
        states: the optimizer's state of each, after its step.
        betas: of the optimizer.
        eps: of the optimizer.
        oracle: "adam" or "paper", see :class:`AdaNSGDA`.
    """
    first = [s.get("exp_avg", g) for g, s in zip(gradients_of(parameters), states, strict=True)]
    second = [_wide(s.get("max_exp_avg_sq", s["exp_avg_sq"])) for s in states]
    if oracle == "adam":
        steps = [int(s["step"]) for s in states]
        denominators = torch._foreach_sqrt(second)
        torch._foreach_div_(denominators, [(1 - betas[1] ** k) ** 0.5 for k in steps])
        torch._foreach_add_(denominators, eps)
        if betas[0]:
            torch._foreach_mul_(denominators, [1 - betas[0] ** k for k in steps])
    else:
        denominators = torch._foreach_add(second, eps)
        torch._foreach_sqrt_(denominators)
    if not eps:  # a gradient that was always 0, or whose square is, makes a small A, not 0 / 0
        torch._foreach_clamp_min_(denominators, torch.finfo(denominators[0].dtype).tiny ** 0.5)
    torch._foreach_reciprocal_(denominators)
    torch._foreach_mul_(denominators, first)
    return denominators


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class AdaNSGDA(_AdamOracle):
    r"""Adam's magnitude along the gradient: :math:`\eta \|A\| g / (\|g\| + \varepsilon)` (Equation 3).

    Args:
        params: see :class:`BlockwiseOptimizer`.
        lr: :math:`\eta \ge 0`.
        betas: :math:`\beta_1, \beta_2` of A in [0, 1); the paper takes :math:`\beta_1 = 0`.
        eps: :math:`\varepsilon \ge 0`, of A and of the division.
        scope: what one norm covers: "global", "layer" (needs named parameters) or "tensor".
        oracle: how A is made of the moments. "adam": as torch's Adam does,
            :math:`\hat m / (\sqrt{\hat v} + \varepsilon)` with bias correction. "paper": Algorithm 1,
            :math:`M_1 = \beta_1 M_1 + g,\ M_2 = \beta_2 M_2 + g^2,\ A = M_1 / \sqrt{M_2 + \varepsilon}`, sums rather
            than averages, and no bias correction.
        maximize: go up.

    Raises:
        ValueError: for options out of range.
    """

    def direction(self, members: Members) -> tuple[list[Tensor], Tensor]:
        """Return the gradients and ||A|| / (||g|| + eps)."""
        gradients = gradients_of(p for p, _ in members)
        magnitude = self.block_norms(members, self.adaptive(members))
        norms = self.block_norms(members, gradients)
        return gradients, quotient(magnitude, norms, [group["eps"] for _, group in members])


class AdaDir(_AdamOracle):
    r"""The gradient's magnitude along Adam's direction: :math:`\eta \|g\| A / (\|A\| + \varepsilon)`.

    The opposite of :class:`AdaNSGDA`, with the same arguments; the paper reports that it diverges.

    Args:
        params: see :class:`AdaNSGDA`, as for the other arguments.
        lr: :math:`\eta \ge 0`.
        betas: of A.
        eps: of A and of the division.
        scope: what one norm covers.
        oracle: how A is made.
        maximize: go up.
    """

    def direction(self, members: Members) -> tuple[list[Tensor], Tensor]:
        """Return A and ||g|| / (||A|| + eps)."""
        adaptive = self.adaptive(members)
        magnitude = self.block_norms(members, gradients_of(p for p, _ in members))
        norms = self.block_norms(members, adaptive)
        return adaptive, quotient(magnitude, norms, [group["eps"] for _, group in members])


def _match_scales(groups: list[dict[str, Any]], source: Union[str, Path, dict[str, float]]) -> dict[Tensor, float]:
    """Return each parameter's scale, from a mapping of exactly the optimizer's layers."""
    scales = source if isinstance(source, dict) else _read_scales(Path(source))
    if not all(isinstance(s, (int, float)) and not isinstance(s, bool) for s in scales.values()):
        raise ValueError(f"argument `layer_scales` must map layers to numbers, got {source}")
    for layer, scale in scales.items():
        require_not_negative(**{f"layer_scales[{layer!r}]": scale})
    if any("param_names" not in group for group in groups):
        raise ValueError("argument `layer_scales` needs named parameters, such as module.named_parameters()")
    layer_of = {
        p: layer_name(n)
        for group in groups
        for p, n in zip(group["params"], group["param_names"], strict=True)
        if p.requires_grad or layer_name(n) in scales
    }
    missing, unknown = sorted({*layer_of.values()} - {*scales}), sorted({*scales} - {*layer_of.values()})
    if missing or unknown:
        raise ValueError(
            "argument `layer_scales` must name exactly the layers of the parameters, got none for "
            f"{missing or 'no layer'} and some for unknown {unknown or 'no layer'}"
        )
    return {parameter: float(scales[layer]) for parameter, layer in layer_of.items()}


def _read_scales(path: Path) -> dict[str, float]:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise FileNotFoundError(f"argument `layer_scales` must be a JSON file, got {path}, which {found}")
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"argument `layer_scales` must be a JSON file, got {path}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"argument `layer_scales` must be a JSON mapping of layers to numbers, got {path}")
    return content
