"""What every network needs besides its layers: its row of a table, checked inputs, initial weights."""

import math
from collections.abc import Collection, Mapping
from typing import Literal, TypeVar, get_args

from torch import Tensor, nn

from pcgan_lightning.arguments import require_one_of

Initialization = Literal["xavier_uniform", "xavier_normal", "orthogonal", "normal", "torch"]

Plan = TypeVar("Plan")


def select_plan(plans: Mapping[int, Plan], image_size: int) -> Plan:
    """Return the row of a family's table for ``image_size``, or say which sizes there are."""
    require_one_of(plans, image_size=image_size)
    return plans[image_size]


def require_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    """Refuse an input that is not a batch of ``shape``; the batch axis is free."""
    if tensor.shape[1:] != shape:
        expected = ", ".join(map(str, ("N", *shape)))
        raise ValueError(f"argument `{name}` must have shape [{expected}], got {list(tensor.shape)}")


def initialize(network: nn.Module, initialization: Initialization, boosted: Collection[nn.Module] = ()) -> None:
    """Draw the weights of every linear and convolutional layer anew and set their biases to zero; or leave them.

    Args:
        network: the network.
        initialization: "xavier_uniform" or "xavier_normal" (Glorot and Bengio, 2010), "orthogonal" (Saxe et al.,
            2014; all non-zero singular values of the weight, flattened to a matrix, are 1) or "normal" (mean 0,
            standard deviation 0.02; Radford et al., 2016). "torch" leaves everything as torch's layers begin, biases
            included.
        boosted: layers to which both kinds of "xavier" give a gain of sqrt(2), that of a ReLU, instead of 1.
    """
    require_one_of(get_args(Initialization), initialization=initialization)
    if initialization == "torch":
        return
    for layer in network.modules():
        if not isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            continue
        gain = math.sqrt(2) if layer in boosted else 1.0
        if initialization == "xavier_uniform":
            nn.init.xavier_uniform_(layer.weight, gain)
        elif initialization == "xavier_normal":
            nn.init.xavier_normal_(layer.weight, gain)
        elif initialization == "orthogonal":
            nn.init.orthogonal_(layer.weight)
        else:
            nn.init.normal_(layer.weight, std=0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
