"""Layers and a discriminator to put PC-layers on, and what numpy makes of their matrices."""

import numpy as np
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from pcgan_lightning.spectra import original_weight, preconditioners

SPECTRAL_NORMS = {"parametrization": parametrizations.spectral_norm, "hook": spectral_norm}

# Transposed convolutions are padded so that they too map an input of the kernel's size to one pixel.
LAYERS = {
    "wide linear": lambda: nn.Linear(7, 4, bias=False),
    "tall linear": lambda: nn.Linear(4, 7, bias=False),
    "square linear": lambda: nn.Linear(5, 5, bias=False),
    "one row": lambda: nn.Linear(6, 1, bias=False),
    "one column": lambda: nn.Linear(1, 6, bias=False),
    "conv1d": lambda: nn.Conv1d(2, 5, 3, bias=False),
    "conv2d": lambda: nn.Conv2d(3, 4, (2, 3), bias=False),
    "tall conv2d": lambda: nn.Conv2d(2, 16, 2, bias=False),
    "conv3d": lambda: nn.Conv3d(2, 3, (2, 1, 2), bias=False),
    "grouped conv2d": lambda: nn.Conv2d(4, 6, (2, 3), groups=2, bias=False),
    "depthwise conv1d": lambda: nn.Conv1d(3, 6, 2, groups=3, bias=False),
    "transposed1d": lambda: nn.ConvTranspose1d(3, 5, 3, padding=2, bias=False),
    "transposed2d": lambda: nn.ConvTranspose2d(3, 4, (2, 3), padding=(1, 2), bias=False),
    "tall transposed2d": lambda: nn.ConvTranspose2d(2, 16, 2, padding=1, bias=False),
    "transposed3d": lambda: nn.ConvTranspose3d(2, 3, (2, 1, 2), padding=(1, 0, 1), bias=False),
    "grouped transposed2d": lambda: nn.ConvTranspose2d(4, 6, (2, 3), padding=(1, 2), groups=2, bias=False),
}


def input_shape(layer):
    """The shape of an input that gives one pixel."""
    return (layer.in_features,) if isinstance(layer, nn.Linear) else (layer.in_channels, *layer.kernel_size)


def numpy_matrices(layer, weight=None):
    """[groups, outputs, inputs * kernel] in float64, block by block; a transposed convolution stores inputs first."""
    weight = (layer.weight if weight is None else weight).detach().double().numpy()
    blocks = np.split(weight, getattr(layer, "groups", 1))
    if "Transpose" in type(layer).__name__:
        blocks = [block.swapaxes(0, 1) for block in blocks]
    return np.stack([block.reshape(len(block), -1) for block in blocks])


def numpy_singular_values(layer, weight=None):
    """In descending order; a block-diagonal matrix has those of its blocks."""
    return np.sort(np.linalg.svd(numpy_matrices(layer, weight), compute_uv=False).flatten())[::-1]


def iterated(layer, vectors, iterations=1):
    """u and v of a layer's matrices after power iterations, by numpy, one matrix at a time."""
    new_u, new_v = (x.copy() for x in vectors)
    for m, u, v in zip(numpy_matrices(layer, original_weight(layer)), new_u, new_v, strict=True):
        for _ in range(iterations):
            u[:] = m @ v / np.linalg.norm(m @ v)
            v[:] = m.T @ u / np.linalg.norm(m.T @ u)
    return new_u, new_v


def vectors(network):
    """A copy of u and v of every PC-layer."""
    return {name: (p.u.numpy().copy(), p.v.numpy().copy()) for name, p in preconditioners(network).items()}


def assert_vectors_equal(first, second, atol=0):
    for name in first:
        for a, b in zip(first[name], second[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=name)


def assert_one_iteration(network, before, names=None):
    """Whether u and v of the layers `names` (default: all) made one power iteration, and the others none."""
    for name, found in vectors(network).items():
        expected = before[name]
        if names is None or name in names:
            none, one, two = (iterated(network.get_submodule(name), before[name], i) for i in (0, 1, 2))
            # Far enough from a fixed point to be told apart; a single row has converged after one.
            assert np.abs(none[1] - one[1]).max() > 1e-9
            assert np.abs(one[1] - two[1]).max() > 1e-9 or name == "9"
            expected = one
        assert_vectors_equal({name: found}, {name: expected}, atol=1e-12)


def degrees(network):
    return {name: p.polynomial.degree for name, p in preconditioners(network).items()}


def state(network):
    """A copy of the state."""
    return {key: value.clone() for key, value in network.state_dict().items()}


def assert_states_equal(first, second):
    assert list(first) == list(second)
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def discriminator():
    """[N, 3, 4, 4] -> [N, 1], smooth, with two equal shapes, groups and a transposed convolution."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 6, 2, stride=2, groups=2),
        nn.Tanh(),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(64, 1),
    ).double()


CONVOLUTIONS = ["0", "2", "4", "5", "7"]  # of the discriminator, whose linear layer is "9"
IMAGES = torch.linspace(-1, 1, 2 * 3 * 4 * 4, dtype=torch.float64).view(2, 3, 4, 4)


def train(network, optimizer, updates=1):
    """A few updates of any optimizer; by a closure, as LBFGS wants one."""

    def closure():
        optimizer.zero_grad()
        loss = network(IMAGES).square().mean()
        loss.backward()
        return loss

    for _ in range(updates):
        optimizer.step(closure)


def sgd(network, rate=0.5):
    return torch.optim.SGD(network.parameters(), lr=rate)
