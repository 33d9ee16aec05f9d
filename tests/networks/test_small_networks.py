"""The networks of stacked digits: layer by layer, their depth, torch's own initial weights."""

import pytest
import torch
from torch import nn

from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator


def shapes(network):
    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
    return [tuple(layer.weight.shape) for layer in network.modules() if isinstance(layer, kinds)]


def test_networks_for_8_pixels():
    generator, discriminator = CNNGenerator(8, latent_dim=64), CNNDiscriminator(8)
    assert shapes(generator) == [(256, 64), (64, 32, 4, 4), (32, 16, 4, 4), (3, 16, 3, 3)]
    convolutions = [(16, 3, 3, 3), (16, 16, 4, 4), (32, 16, 3, 3), (32, 32, 4, 4), (64, 32, 3, 3)]
    assert shapes(discriminator) == [*convolutions, (1, 256)]
    assert discriminator(generator(torch.randn(5, 64))).shape == (5,)


@pytest.mark.parametrize(("extra", "further"), [(3, 6), (6, 12)])
def test_extra_convolutions_are_3x3_at_each_resolution_but_the_coarsest(extra, further):
    plain, deep = shapes(CNNDiscriminator(8)), shapes(CNNDiscriminator(8, extra_convolutions=extra))
    assert len(deep) == len(plain) + further
    assert deep == [plain[0], *extra * [(16, 16, 3, 3)], *plain[1:3], *extra * [(32, 32, 3, 3)], *plain[3:]]


def test_torch_initialization_is_that_of_torchs_layers():
    torch.manual_seed(0)
    network = CNNDiscriminator(8, initialization="torch")
    torch.manual_seed(0)
    first = nn.Conv2d(3, 16, 3, padding=1)
    assert torch.equal(network.convolutions[0].weight, first.weight)
    assert torch.equal(network.convolutions[0].bias, first.bias)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"extra_convolutions": -1}, "argument `extra_convolutions` must not be negative, got -1"),
        ({"image_size": 128, "extra_convolutions": 1}, "argument `extra_convolutions` must be 0 for 128 pixels, got 1"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(ValueError, match=message):
        CNNDiscriminator(**arguments)
