"""Every architecture against recorded numbers: its layers, the names of its parameters, and what it computes.

All were recorded at commit 2048c21, whose tests held the papers' layers written out and every forward as a formula of
its own. They change with the architecture only; a failing test shows what there is now.
"""

import zlib

import pytest
import torch
from torch import nn

from pcgan_lightning.networks import (
    CNNDiscriminator,
    CNNGenerator,
    ConstantWidthDiscriminator,
    ConstantWidthGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    MLPDiscriminator,
    MLPGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
)

C, E, F = {}, {"residual": True}, {"residual": True, "final_convolution": True}  # networks of the JARE paper

# Digests of all layers at the default width, by the size of the images.
LAYERS = [
    (CNNGenerator, {}, {32: "6f3dcce8", 48: "082c7ae6", 64: "7d0bed1f", 128: "f62edf15", 256: "e2c5a175"}),
    (CNNDiscriminator, {}, {32: "6c0760d5", 48: "631e1921", 64: "77d4eed4", 128: "73dad276", 256: "74718353"}),
    (ResNetGenerator, {}, {32: "8e607858", 48: "d0d8bc22", 64: "73ebb741", 128: "a207b04a", 256: "bc04debb"}),
    (ResNetDiscriminator, {}, {32: "ccbce375", 48: "20273cbe", 64: "9d84cb75", 128: "1f66dfa7", 256: "76cd513d"}),
    (DCGANGenerator, {}, {32: "8eb51b1f", 48: "22cdbdf5", 64: "81967f0f"}),
    (DCGANDiscriminator, {}, {32: "2aeed126", 48: "9cae32e2", 64: "1f83aa8f"}),
    (DCGANDiscriminator, {"batch_norm": False}, {32: "ed2feba3"}),
    (CNNGenerator, {"batch_norm": False}, {32: "18473bb3", 128: "f8c9dd33"}),
    (ConstantWidthGenerator, C, {32: "d1965db0", 48: "8cefdcac"}),
    (ConstantWidthGenerator, E, {32: "1e6c27f5", 48: "2efa12cf"}),
    (ConstantWidthGenerator, F, {32: "02ce5493", 48: "3c84fbd6"}),
    (ConstantWidthDiscriminator, C, {32: "e8e01df3", 48: "70a04830"}),
    (ConstantWidthDiscriminator, E, {32: "e2a51ae0", 48: "9009204a"}),
    (MLPGenerator, {}, {None: "bafd22dd"}),
    (MLPDiscriminator, {}, {None: "d95cbf52"}),
]

# The digest of the parameters' names, by which checkpoints know them, and the projection of a small network's output.
OUTPUTS = [
    (CNNGenerator, {"image_size": 32}, "3f86bee0", 4.034567),
    (CNNGenerator, {"image_size": 128}, "912847fa", 2.858451),
    (CNNGenerator, {"image_size": 32, "batch_norm": False}, "e725fec8", -16.17751),
    (CNNGenerator, {"image_size": 128, "batch_norm": False}, "3ddc6901", 3.671886),
    (CNNDiscriminator, {"image_size": 32}, "f62f2d63", 5.746464),
    (CNNDiscriminator, {"image_size": 128}, "df761277", -11.4352),
    (ResNetGenerator, {"image_size": 32}, "4672546c", 1.529829),
    (ResNetGenerator, {"image_size": 48}, "4672546c", -1.395656),
    (ResNetDiscriminator, {"image_size": 32}, "794bb6f6", 7.318063),
    (ResNetDiscriminator, {"image_size": 48}, "b4ca3c62", -1.268031),
    (ResNetDiscriminator, {"image_size": 64}, "b4ca3c62", -21.7998),
    (ResNetDiscriminator, {"image_size": 32, "pooling": "mean"}, "794bb6f6", 0.7129232),
    (DCGANGenerator, {}, "7311d797", -2.103002),
    (DCGANDiscriminator, {}, "d74109eb", 0.8916254),
    (DCGANDiscriminator, {"batch_norm": False}, "10bae0ef", 17.82778),
    (ConstantWidthGenerator, C, "b9503662", -1.259602),
    (ConstantWidthGenerator, E, "8d28ed04", 0.1636298),
    (ConstantWidthGenerator, F, "8d28ed04", 1.971131),
    (ConstantWidthDiscriminator, C, "2b38156f", 2.224595),
    (ConstantWidthDiscriminator, E, "a55ecceb", -1.239417),
    (MLPGenerator, {"image_shape": (3, 2), "width": 7, "hidden_layers": 1, "latent_scale": 1.5}, "3da70cb7", -1.29577),
    (MLPGenerator, {"image_shape": (3, 2), "width": 7, "hidden_layers": 3}, "a5eaa7d8", 0.9708901),
    (MLPDiscriminator, {"image_shape": (3, 2), "width": 7, "hidden_layers": 1}, "3da70cb7", 0.5274684),
    (MLPDiscriminator, {"image_shape": (3, 2), "width": 7, "hidden_layers": 3}, "a5eaa7d8", 0.9979596),
]


def input_shape(network):
    return (network.latent_dim,) if hasattr(network, "latent_dim") else network.image_shape


def digest(texts):
    return f"{zlib.crc32(' '.join(texts).encode()):08x}"


def describe(layer, output):
    if isinstance(layer, nn.Linear):
        return f"linear {layer.in_features} {layer.out_features} {layer.bias is not None}"
    channels = f"{layer.in_channels} {layer.out_channels} {layer.bias is not None}"
    return f"{type(layer).__name__} {channels} {layer.kernel_size} {layer.stride} {tuple(output.shape[1:])}"


def layers_of(network):
    """Linear and convolutional layers in the order in which they are called; the device computes shapes only."""
    calls = []
    for layer in network.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            layer.register_forward_hook(lambda layer, _, output: calls.append(describe(layer, output)))
    network(torch.empty(2, *input_shape(network), device="meta"))
    return calls


def projection(network):
    """Of the output along a fixed direction, for weights and inputs that need no random numbers."""
    with torch.no_grad():
        for phase, parameter in enumerate(network.double().parameters()):
            wave = torch.arange(parameter.numel(), dtype=torch.float64).mul(1.7).add(phase).sin()
            parameter.copy_(0.5 * wave.view_as(parameter))
        inputs = torch.arange(2 * torch.Size(input_shape(network)).numel(), dtype=torch.float64).mul(0.9).cos()
        output = network(inputs.view(2, *input_shape(network))).flatten()
    return (output * torch.arange(len(output), dtype=torch.float64).mul(1.1).cos()).sum().item()


@pytest.mark.parametrize(("family", "arguments", "recorded"), LAYERS)
def test_layers(family, arguments, recorded):
    for size, expected in recorded.items():
        with torch.device("meta"):
            network = family(**arguments, **({} if size is None else {"image_size": size}))
        found = layers_of(network)
        assert digest(found) == expected, (size, found)


@pytest.mark.parametrize(("family", "arguments", "names", "value"), OUTPUTS)
def test_names_and_outputs(family, arguments, names, value):
    latent = {"latent_dim": 5} if family.__name__.endswith("Generator") else {}
    network = family(**{"width": 2} | latent | arguments)
    found = [name for name, _ in network.named_parameters()]
    assert digest(found) == names, found
    assert projection(network) == pytest.approx(value, rel=1e-6)  # float64, and seven digits recorded
