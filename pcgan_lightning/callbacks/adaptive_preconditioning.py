"""APC of PC-GAN, and APC with a goal, as a callback on any LightningModule."""

import bisect
import warnings
from collections.abc import Sequence
from typing import Any, Optional, Union

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.callbacks.loggers import log_scalars
from pcgan_lightning.callbacks.preconditioning import Preconditioning
from pcgan_lightning.callbacks.targets import Target, check_interval, completed_iterations, resolve_target
from pcgan_lightning.spectra import (
    LayerChoice,
    Polynomial,
    Scale,
    as_polynomial,
    chosen_layers,
    modified_condition_number,
    precondition,
    preconditioners,
    singular_values,
)

THRESHOLDS, HYSTERESIS = (5.0, 10.0, 20.0, 30.0), 0.1  # the thresholds are of the authors' code


class AdaptivePreconditioning(Preconditioning):
    r"""Adaptive preconditioning (APC): each layer's degree follows its condition number (Section 3.4).

    Every `every_n_steps` iterations, and once before the first, as in the authors' code, the modified condition number
    :math:`\tilde\kappa` of SN(W), before the polynomial, is measured for each layer. The mean of the last `history`
    measurements decides: ``degrees[0]`` up to ``thresholds[0]`` inclusive, ``degrees[1]`` up to ``thresholds[1]``,
    and so on; ``degrees[-1]`` above them all. Defaults are those of the authors' code.

    With a `goal` no thresholds are needed: from the singular values of SN(W) follows, exactly, what each polynomial
    would leave. A layer gets the first of `degrees` whose :math:`\tilde\kappa` after it, averaged like the other, is at
    most the goal. It goes back to an earlier one only where that one stays below the goal by a share of `hysteresis`,
    so that noise around the goal does not switch it at every measurement. Where none reaches it, the best is taken.

    The degrees and singular vectors live in the module's ``state_dict``, the history in the callback's. Each layer's
    degree is logged as ``degree/<layer>`` at every measurement.

    Args:
        thresholds: bounds of the mean :math:`\tilde\kappa`, positive and strictly increasing.
        every_n_steps: iterations (training batches) between measurements; the paper's 1,000.
        history: measurements averaged, at least 1.
        degrees: odd degrees up to 17 or Polynomials, the cheapest first; one more than thresholds.
        target: see :class:`Preconditioning`, as for the other arguments.
        layers: which layers adapt.
        normalize_rest: whether the other layers get spectral normalisation.
        goal: the largest :math:`\tilde\kappa` after the polynomial, at least 1; in the place of thresholds. None: the
            published rule.
        hysteresis: share of the goal, in [0, 1).
        scale: as of :class:`FixedPreconditioning`; condition numbers know nothing of it.

    Raises:
        ValueError: for arguments out of range; at setup, for a target that is missing or holds no weight matrix.
    """

    def __init__(
        self,
        thresholds: Sequence[float] = THRESHOLDS,
        every_n_steps: int = 1000,
        history: int = 5,
        degrees: Sequence[Union[int, Polynomial]] = (1, 3, 5, 7, 9),
        target: Target = "discriminator",
        layers: LayerChoice = "convolutions",
        normalize_rest: bool = True,
        goal: Optional[float] = None,
        hysteresis: float = HYSTERESIS,
        scale: Scale = "unit",
    ) -> None:
        super().__init__(target, layers, normalize_rest, scale)
        thresholds, degrees = tuple(thresholds), tuple(degrees)
        if goal is not None:
            _check_goal(goal, hysteresis, thresholds, degrees)
        elif hysteresis != HYSTERESIS:
            raise ValueError(f"argument `hysteresis` must come with a `goal`, got {hysteresis} alone")
        elif not all(a < b for a, b in zip((0.0, *thresholds), thresholds, strict=False)):
            raise ValueError(f"argument `thresholds` must be positive and strictly increasing, got {thresholds}")
        elif len(degrees) != len(thresholds) + 1:
            raise ValueError(
                f"argument `degrees` must be one more than the {len(thresholds)} thresholds {thresholds}, "
                f"got {len(degrees)}: {degrees}"
            )
        if history < 1:
            raise ValueError(f"argument `history` must be at least 1, got {history}")
        self.thresholds = thresholds
        self.every_n_steps = check_interval(every_n_steps)
        self.history = history
        self.polynomials = tuple(as_polynomial(d) for d in degrees)
        self.goal = goal
        self.hysteresis = hysteresis
        self.measurements: dict[str, list[float]] = {}
        self.outcomes: dict[str, list[list[float]]] = {}
        self._warned = False

    def attach(self, network: nn.Module) -> None:
        """Put the PC-layers on. Where all chosen layers have one, a test after a fit must not reset them."""
        chosen = chosen_layers(network, self.layers)
        if not chosen:
            warnings.warn(
                f"layers={self.layers!r} chooses no layer of the target, so that none adapts. For linear layers say "
                "layers='all'.",
                stacklevel=2,
            )
        found = {name for name, layer in preconditioners(network).items() if layer.scale_kind == self.scale}
        if not chosen or not set(chosen) <= found:
            precondition(network, self.polynomials[0], self.layers, self.normalize_rest, scale=self.scale)

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Measure the initial weights of a fresh run."""
        if not self.measurements:
            self.adapt(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure and adapt at the interval."""
        if completed_iterations(trainer) % self.every_n_steps == 0:
            self.adapt(trainer, pl_module)

    def adapt(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Measure every adaptive layer now and let it have the degree its history asks for."""
        target = resolve_target(pl_module, self.target)
        adaptive = chosen_layers(target, self.layers)
        if not adaptive:
            return
        layers = preconditioners(target)
        spectra = singular_values(target, after_polynomial=False)
        rows = [torch.stack(self._conditions(spectra[name])) for name in adaptive]
        # One transfer for all layers. The first process's numbers decide for all: on another device, or with other
        # libraries, the same weights may be found to lie on the other side of a bound.
        measured = trainer.strategy.broadcast(torch.stack(rows).tolist())
        for name, (value, *after) in zip(adaptive, measured, strict=True):
            recent = self.measurements[name] = [*self.measurements.get(name, ()), value][-self.history :]
            if self.goal is None:
                layers[name].polynomial = self.choose(sum(recent) / len(recent))
                continue
            outcomes = self.outcomes[name] = [*self.outcomes.get(name, ()), after][-self.history :]
            means = [sum(column) / len(column) for column in zip(*outcomes, strict=True)]
            layers[name].polynomial = self.choose_for_goal(means, layers[name].polynomial)
        log_scalars(trainer, {f"degree/{name}": float(layers[name].polynomial.degree) for name in adaptive})

    def choose(self, mean_condition: float) -> Polynomial:
        """Return the polynomial for a mean modified condition number; override to choose otherwise."""
        return self.polynomials[bisect.bisect_left(self.thresholds, mean_condition)]

    def choose_for_goal(self, conditions: Sequence[float], current: Polynomial) -> Polynomial:
        """Return the polynomial of a layer for the mean modified condition numbers after each one; or override."""
        goal = self.goal
        assert goal is not None
        reached = [index for index, condition in enumerate(conditions) if condition <= goal]
        if not reached:
            self._warn_of_goal(min(conditions))
            return self.polynomials[min(range(len(conditions)), key=conditions.__getitem__)]
        now = self.polynomials.index(current) if current in self.polynomials else 0
        settled = [i for i in reached if i >= now or conditions[i] <= (1 - self.hysteresis) * goal]
        return self.polynomials[(settled or reached)[0]]

    def _conditions(self, values: Tensor) -> list[Tensor]:
        """Return the modified condition number before the polynomial and, where there is a goal, after each one."""
        after = [] if self.goal is None else [polynomial(values).abs() for polynomial in self.polynomials]
        return [modified_condition_number(v).double() for v in (values, *after)]

    def _warn_of_goal(self, best: float) -> None:
        if not self._warned:
            warnings.warn(
                f"no polynomial reaches the goal of {self.goal:g} on every layer, the best one {best:.3g}: layers have "
                "the best one where that is so",
                stacklevel=2,
            )
        self._warned = True

    def state_dict(self) -> dict[str, Any]:
        """Return the history of measurements by layer."""
        state: dict[str, Any] = {"measurements": self.measurements}
        return state if self.goal is None else state | {"outcomes": self.outcomes, "candidates": self._candidates()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's history; of another choice of polynomials, that of SN(W) alone."""
        self.measurements = dict(state_dict["measurements"])
        same = state_dict.get("candidates") == self._candidates()
        self.outcomes = dict(state_dict["outcomes"]) if same else {}

    def _candidates(self) -> list[list[float]]:
        """Return the coefficients of the polynomials that the outcomes are of."""
        return [list(polynomial.coefficients) for polynomial in self.polynomials]


def _check_goal(goal: float, hysteresis: float, thresholds: tuple[float, ...], degrees: tuple[Any, ...]) -> None:
    require_at_least(1, goal=goal)
    if not 0 <= hysteresis < 1:
        raise ValueError(f"argument `hysteresis` must be in [0, 1), got {hysteresis}")
    if thresholds != THRESHOLDS:
        raise ValueError(f"argument `thresholds` must be left out where there is a `goal`, got {thresholds}")
    if not degrees:
        raise ValueError("argument `degrees` must name at least one polynomial, got ()")
