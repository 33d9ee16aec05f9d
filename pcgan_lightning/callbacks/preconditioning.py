"""What callbacks that change a network's weights share, and FPC of PC-GAN, on any LightningModule."""

from collections.abc import Iterable, Sequence
from typing import Optional, Union, get_args

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.optim import Optimizer

from pcgan_lightning.arguments import require_one_of
from pcgan_lightning.callbacks.targets import Target, resolve_target, target_name
from pcgan_lightning.modules import check_optimizers, check_strategy
from pcgan_lightning.spectra import (
    LayerChoice,
    Norm,
    Polynomial,
    Scale,
    as_polynomial,
    chosen_layers,
    original_weight,
    precondition,
    preconditioners,
    weight_layers,
)


class Preconditioning(Callback):
    """Base of FPC and APC: keeps PC-layers on one network of a LightningModule.

    Args:
        target: the network: a dotted name in the LightningModule, or a function of it.
        layers: which layers get the polynomial: ``"convolutions"``, ``"all"``, or a collection of names.
        normalize_rest: whether the other layers get spectral normalisation or stay plain.
        scale: what the preconditioned weights are multiplied by, see :func:`~pcgan_lightning.spectra.precondition`.
    """

    def __init__(
        self,
        target: Target = "discriminator",
        layers: LayerChoice = "convolutions",
        normalize_rest: bool = True,
        scale: Scale = "unit",
    ) -> None:
        require_one_of(get_args(Scale), scale=scale)
        self.target = target
        self.layers = layers
        self.normalize_rest = normalize_rest
        self.scale = scale

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
            ValueError: for an optimizer that is divided among processes, another `scale` than the checkpoint's, or
                trainable scales that the optimizers do not hold.
        """
        check_optimizers(trainer.optimizers)
        network = resolve_target(pl_module, self.target)
        self._check_scale(network)
        self.attach(network)
        _check_scales_are_held(network, trainer.optimizers)

    def _check_scale(self, network: nn.Module) -> None:
        """Refuse to go on with another scale: trainable ones belong to the optimizers, which are made by now."""
        affected = weight_layers(network) if self.normalize_rest else chosen_layers(network, self.layers)
        for name, pc_layer in preconditioners(network).items():
            if name in affected and pc_layer.scale_kind != self.scale:
                raise ValueError(
                    f"argument `scale` must be that of the checkpoint, {pc_layer.scale_kind!r} at layer {name!r}, "
                    f"got {self.scale!r}"
                )

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
        scale: ``"unit"``, ``"norm"`` or ``"learnable"``: what g(SN(W)) is multiplied by, nothing, the norm that W was
            divided by, or a trainable number of each layer that starts there.

    Raises:
        ValueError: for an unknown degree, norm or scale, or ``norm="operator"`` without a shape; at setup, for a target
            that is missing or holds no weight matrix; before training, for a `scale` other than the checkpoint's.

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
        scale: Scale = "unit",
    ) -> None:
        as_polynomial(degree)  # an unknown degree is refused here, before anything runs
        require_one_of(("matrix", "operator"), norm=norm)
        if norm == "operator" and input_shape is None:
            raise ValueError("argument `input_shape` must be given for norm='operator', e.g. (3, 32, 32), got None")
        super().__init__(target, layers, normalize_rest, scale)
        self.degree = degree
        self.norm = norm
        self.input_shape = input_shape
        self.hold_norm = hold_norm

    def attach(self, network: nn.Module) -> None:
        """Put the PC-layers on; the configured degree wins over that of a loaded checkpoint."""
        chosen = network, self.degree, self.layers, self.normalize_rest
        precondition(*chosen, self.norm, self.input_shape, self.hold_norm, self.scale)


def _check_scales_are_held(network: nn.Module, optimizers: Iterable[Optimizer]) -> None:
    """Refuse trainable scales that no optimizer trains beside the weights of their layers."""
    held = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
    layers = weight_layers(network)
    for name, pc_layer in preconditioners(network).items():
        scale, weight = pc_layer.scale, original_weight(layers[name])
        if scale is not None and id(weight) in held and id(scale) not in held:
            raise ValueError(
                f"argument `scale` must not be 'learnable' where the optimizers were made before the PC-layers, "
                f"got none that holds the scale of layer {name!r}"
            )
