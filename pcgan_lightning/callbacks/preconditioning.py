"""FPC and APC of PC-GAN as callbacks on any LightningModule."""

import bisect
import warnings
from collections.abc import Sequence
from typing import Any, Optional, Union

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn

from pcgan_lightning.arguments import require_at_least, require_one_of
from pcgan_lightning.callbacks.loggers import log_scalars
from pcgan_lightning.callbacks.targets import Target, check_interval, completed_iterations, resolve_target, target_name
from pcgan_lightning.modules import check_optimizers, check_strategy
from pcgan_lightning.spectra import (
    LayerChoice,
    Norm,
    Polynomial,
    as_polynomial,
    chosen_layers,
    modified_condition_number,
    precondition,
    preconditioners,
    singular_values,
)

THRESHOLDS, HYSTERESIS = (5.0, 10.0, 20.0, 30.0), 0.1  # the thresholds are of the authors' code


class Preconditioning(Callback):
    """Base of FPC and APC: keeps PC-layers on one network of a LightningModule.

    Args:
        target: the network: a dotted name in the LightningModule, or a function of it.
        layers: which layers get the polynomial: ``"convolutions"``, ``"all"``, or a collection of names.
        normalize_rest: whether the other layers get spectral normalisation or stay plain.
    """

    def __init__(
        self,
        target: Target = "discriminator",
        layers: LayerChoice = "convolutions",
        normalize_rest: bool = True,
    ) -> None:
        self.target = target
        self.layers = layers
        self.normalize_rest = normalize_rest

    @property
    def state_key(self) -> str:
        """Tells the states of two callbacks with different targets apart."""
        return self._generate_state_key(target=target_name(self.target))

    def setup(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", stage: str) -> None:
        """Put the PC-layers on, before a checkpoint is loaded and the optimizers are made.

        Raises:
            ValueError: for a strategy that divides the networks, or leaves them in another process.
        """
        check_strategy(trainer)
        self.attach(resolve_target(pl_module, self.target))

    def on_fit_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Attach again: a loaded checkpoint may have been made with other PC-layers, or none.

        Raises:
            ValueError: for an optimizer that is divided among processes.
        """
        check_optimizers(trainer.optimizers)
        self.attach(resolve_target(pl_module, self.target))

    def attach(self, network: nn.Module) -> None:
        """Put the PC-layers on the target; called again on a network that has them."""
        raise NotImplementedError


class FixedPreconditioning(Preconditioning):
    r"""Fixed preconditioning (FPC): the target's weights become :math:`g(SN(W))` with one polynomial (Section 3.4).

    With degree 1 this is SN-GAN. The module's optimizers, losses and Parameter objects stay as they are. The
    polynomials and singular vectors live in the module's ``state_dict``.

    Args:
        degree: odd, up to 9 published and up to 17 fitted, or a :class:`~pcgan_lightning.spectra.Polynomial`.
        target: see :class:`Preconditioning`, as for the other arguments.
        layers: which layers get the polynomial.
        normalize_rest: whether the other layers get spectral normalisation.
        norm: what convolutions are divided by: ``"matrix"``, the norm of the reshaped weight, or ``"operator"``, that
            of the convolution on images; see :func:`~pcgan_lightning.spectra.precondition`.
        input_shape: for ``norm="operator"``, the shape of one input of the target, e.g. ``(3, 32, 32)``.
        hold_norm: for ``norm="operator"``, whether the norm is a constant for the gradient.

    Raises:
        ValueError: for an unknown degree or norm, or ``norm="operator"`` without a shape; at setup, for a target that
            is missing or holds no weight matrix.

    Example:
        ``Trainer(callbacks=[FixedPreconditioning(degree=3)]).fit(your_gan)``
    """

    def __init__(
        self,
        degree: Union[int, Polynomial] = 3,
        target: Target = "discriminator",
        layers: LayerChoice = "convolutions",
        normalize_rest: bool = True,
        norm: Norm = "matrix",
        input_shape: Optional[Sequence[int]] = None,
        hold_norm: bool = False,
    ) -> None:
        as_polynomial(degree)  # an unknown degree is refused here, before anything runs
        require_one_of(("matrix", "operator"), norm=norm)
        if norm == "operator" and input_shape is None:
            raise ValueError("argument `input_shape` must be given for norm='operator', e.g. (3, 32, 32), got None")
        super().__init__(target, layers, normalize_rest)
        self.degree = degree
        self.norm = norm
        self.input_shape = input_shape
        self.hold_norm = hold_norm

    def attach(self, network: nn.Module) -> None:
        """Put the PC-layers on; the configured degree wins over that of a loaded checkpoint."""
        chosen = network, self.degree, self.layers, self.normalize_rest
        precondition(*chosen, norm=self.norm, input_shape=self.input_shape, hold_norm=self.hold_norm)


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
    ) -> None:
        super().__init__(target, layers, normalize_rest)
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
        if not chosen or not set(chosen) <= set(preconditioners(network)):
            precondition(network, self.polynomials[0], self.layers, self.normalize_rest)

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
