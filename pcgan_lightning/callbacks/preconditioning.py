"""FPC and APC of PC-GAN as callbacks on any LightningModule."""

import bisect
import warnings
from collections.abc import Sequence
from typing import Any, Optional, Union

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from pcgan_lightning.arguments import require_one_of
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
)


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
        precondition(
            network,
            self.degree,
            self.layers,
            self.normalize_rest,
            norm=self.norm,
            input_shape=self.input_shape,
            hold_norm=self.hold_norm,
        )


class AdaptivePreconditioning(Preconditioning):
    r"""Adaptive preconditioning (APC): each layer's degree follows its condition number (Section 3.4).

    Every `every_n_steps` iterations, and once before the first, as in the authors' code, the modified condition number
    :math:`\tilde\kappa` of SN(W), before the polynomial, is measured for each layer. The mean of the last `history`
    measurements decides: ``degrees[0]`` up to ``thresholds[0]`` inclusive, ``degrees[1]`` up to ``thresholds[1]``,
    and so on; ``degrees[-1]`` above them all. Defaults are those of the authors' code.

    The degrees and singular vectors live in the module's ``state_dict``, the history in the callback's. Each layer's
    degree is logged as ``degree/<layer>`` at every measurement.

    Args:
        thresholds: bounds of the mean :math:`\tilde\kappa`, positive and strictly increasing.
        every_n_steps: iterations (training batches) between measurements; the paper's 1,000.
        history: measurements averaged, at least 1.
        degrees: odd degrees up to 17 or Polynomials, one more than thresholds.
        target: see :class:`Preconditioning`, as for the other arguments.
        layers: which layers adapt.
        normalize_rest: whether the other layers get spectral normalisation.

    Raises:
        ValueError: for arguments out of range; at setup, for a target that is missing or holds no weight matrix.
    """

    def __init__(
        self,
        thresholds: Sequence[float] = (5.0, 10.0, 20.0, 30.0),
        every_n_steps: int = 1000,
        history: int = 5,
        degrees: Sequence[Union[int, Polynomial]] = (1, 3, 5, 7, 9),
        target: Target = "discriminator",
        layers: LayerChoice = "convolutions",
        normalize_rest: bool = True,
    ) -> None:
        super().__init__(target, layers, normalize_rest)
        thresholds, degrees = tuple(thresholds), tuple(degrees)
        if not all(a < b for a, b in zip((0.0, *thresholds), thresholds, strict=False)):
            raise ValueError(f"argument `thresholds` must be positive and strictly increasing, got {thresholds}")
        if len(degrees) != len(thresholds) + 1:
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
        self.measurements: dict[str, list[float]] = {}

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
        values = modified_condition_number(target, after_polynomial=False)
        # One transfer for all layers. The first process's numbers decide for all: on another device, or with other
        # libraries, the same weights may be found to lie on the other side of a threshold.
        measured = trainer.strategy.broadcast(torch.stack([values[name].double() for name in adaptive]).tolist())
        for name, value in zip(adaptive, measured, strict=True):
            recent = [*self.measurements.get(name, ()), value][-self.history :]
            self.measurements[name] = recent
            layers[name].polynomial = self.choose(sum(recent) / len(recent))
        log_scalars(trainer, {f"degree/{name}": float(layers[name].polynomial.degree) for name in adaptive})

    def choose(self, mean_condition: float) -> Polynomial:
        """Return the polynomial for a mean modified condition number; override to choose otherwise."""
        return self.polynomials[bisect.bisect_left(self.thresholds, mean_condition)]

    def state_dict(self) -> dict[str, Any]:
        """Return the history of measurements by layer."""
        return {"measurements": self.measurements}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over a checkpoint's history."""
        self.measurements = dict(state_dict["measurements"])
