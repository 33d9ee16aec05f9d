import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pcgan_lightning.networks import (
    CNNDiscriminator,
    CNNGenerator,
    DCGANDiscriminator,
    DCGANGenerator,
    ResNetDiscriminator,
    ResNetGenerator,
)

GENERATORS = [CNNGenerator, ResNetGenerator]
DISCRIMINATORS = [CNNDiscriminator, ResNetDiscriminator]
IMAGE_SIZES = [32, 48, 64, 128, 256]

# Every linear and convolutional layer, in the order in which it is called, at the default width: channels in
# and out and, of a convolution, kernel size, stride and the size of the map that it makes.
ARCHITECTURES = {
    (CNNGenerator, 32): """
        linear 128 8192
        transposed 512 256 k4 s2 @8, transposed 256 128 k4 s2 @16, transposed 128 64 k4 s2 @32
        conv 64 3 k3 s1 @32""",
    (CNNGenerator, 48): """
        linear 128 18432
        transposed 512 256 k4 s2 @12, transposed 256 128 k4 s2 @24, transposed 128 64 k4 s2 @48
        conv 64 3 k3 s1 @48""",
    (CNNGenerator, 64): """
        linear 128 16384
        transposed 1024 512 k4 s2 @8, transposed 512 256 k4 s2 @16, transposed 256 128 k4 s2 @32
        transposed 128 64 k4 s2 @64
        conv 64 3 k3 s1 @64""",
    (CNNGenerator, 128): """
        linear 128 8192
        transposed 512 256 k4 s2 @8, transposed 256 128 k4 s2 @16, transposed 128 64 k4 s2 @32
        transposed 64 32 k4 s2 @64, transposed 32 16 k4 s2 @128
        conv 16 16 k3 s1 @128, conv 16 3 k3 s1 @128""",
    (CNNGenerator, 256): """
        linear 128 8192
        transposed 512 256 k4 s2 @8, transposed 256 128 k4 s2 @16, transposed 128 64 k4 s2 @32
        transposed 64 32 k4 s2 @64, transposed 32 16 k4 s2 @128, transposed 16 8 k4 s2 @256
        conv 8 8 k3 s1 @256, conv 8 3 k3 s1 @256""",
    (CNNDiscriminator, 32): """
        conv 3 64 k3 s1 @32, conv 64 64 k4 s2 @16, conv 64 128 k3 s1 @16, conv 128 128 k4 s2 @8
        conv 128 256 k3 s1 @8, conv 256 256 k4 s2 @4, conv 256 512 k3 s1 @4
        linear 8192 1""",
    (CNNDiscriminator, 48): """
        conv 3 64 k3 s1 @48, conv 64 64 k4 s2 @24, conv 64 128 k3 s1 @24, conv 128 128 k4 s2 @12
        conv 128 256 k3 s1 @12, conv 256 256 k4 s2 @6, conv 256 512 k3 s1 @6
        linear 18432 1""",
    (CNNDiscriminator, 64): """
        conv 3 64 k3 s1 @64, conv 64 64 k4 s2 @32, conv 64 128 k3 s1 @32, conv 128 128 k4 s2 @16
        conv 128 256 k3 s1 @16, conv 256 256 k4 s2 @8, conv 256 512 k3 s1 @8, conv 512 512 k4 s2 @4
        conv 512 1024 k3 s1 @4
        linear 16384 1""",
    (CNNDiscriminator, 128): """
        conv 3 32 k4 s2 @64, conv 32 64 k4 s2 @32, conv 64 128 k4 s2 @16, conv 128 256 k4 s2 @8
        conv 256 512 k4 s2 @4
        linear 8192 1""",
    (CNNDiscriminator, 256): """
        conv 3 16 k4 s2 @128, conv 16 32 k4 s2 @64, conv 32 64 k4 s2 @32, conv 64 128 k4 s2 @16
        conv 128 256 k4 s2 @8, conv 256 512 k4 s2 @4
        linear 8192 1""",
    (ResNetGenerator, 32): """
        linear 128 4096
        conv 256 256 k3 s1 @8, conv 256 256 k3 s1 @8, conv 256 256 k1 s1 @4
        conv 256 256 k3 s1 @16, conv 256 256 k3 s1 @16, conv 256 256 k1 s1 @8
        conv 256 256 k3 s1 @32, conv 256 256 k3 s1 @32, conv 256 256 k1 s1 @16
        conv 256 3 k3 s1 @32""",
    (ResNetGenerator, 48): """
        linear 128 18432
        conv 512 256 k3 s1 @12, conv 256 256 k3 s1 @12, conv 512 256 k1 s1 @6
        conv 256 128 k3 s1 @24, conv 128 128 k3 s1 @24, conv 256 128 k1 s1 @12
        conv 128 64 k3 s1 @48, conv 64 64 k3 s1 @48, conv 128 64 k1 s1 @24
        conv 64 3 k3 s1 @48""",
    (ResNetGenerator, 64): """
        linear 128 16384
        conv 1024 512 k3 s1 @8, conv 512 512 k3 s1 @8, conv 1024 512 k1 s1 @4
        conv 512 256 k3 s1 @16, conv 256 256 k3 s1 @16, conv 512 256 k1 s1 @8
        conv 256 128 k3 s1 @32, conv 128 128 k3 s1 @32, conv 256 128 k1 s1 @16
        conv 128 64 k3 s1 @64, conv 64 64 k3 s1 @64, conv 128 64 k1 s1 @32
        conv 64 3 k3 s1 @64""",
    (ResNetGenerator, 128): """
        linear 128 16384
        conv 1024 512 k3 s1 @8, conv 512 512 k3 s1 @8, conv 1024 512 k1 s1 @4
        conv 512 256 k3 s1 @16, conv 256 256 k3 s1 @16, conv 512 256 k1 s1 @8
        conv 256 128 k3 s1 @32, conv 128 128 k3 s1 @32, conv 256 128 k1 s1 @16
        conv 128 64 k3 s1 @64, conv 64 64 k3 s1 @64, conv 128 64 k1 s1 @32
        conv 64 32 k3 s1 @128, conv 32 32 k3 s1 @128, conv 64 32 k1 s1 @64
        conv 32 3 k3 s1 @128""",
    (ResNetGenerator, 256): """
        linear 128 16384
        conv 1024 512 k3 s1 @8, conv 512 512 k3 s1 @8, conv 1024 512 k1 s1 @4
        conv 512 256 k3 s1 @16, conv 256 256 k3 s1 @16, conv 512 256 k1 s1 @8
        conv 256 128 k3 s1 @32, conv 128 128 k3 s1 @32, conv 256 128 k1 s1 @16
        conv 128 64 k3 s1 @64, conv 64 64 k3 s1 @64, conv 128 64 k1 s1 @32
        conv 64 32 k3 s1 @128, conv 32 32 k3 s1 @128, conv 64 32 k1 s1 @64
        conv 32 16 k3 s1 @256, conv 16 16 k3 s1 @256, conv 32 16 k1 s1 @128
        conv 16 3 k3 s1 @256""",
    (ResNetDiscriminator, 32): """
        conv 3 128 k3 s1 @32, conv 128 128 k3 s1 @32, conv 3 128 k1 s1 @16
        conv 128 128 k3 s1 @16, conv 128 128 k3 s1 @16, conv 128 128 k1 s1 @8
        conv 128 128 k3 s1 @8, conv 128 128 k3 s1 @8
        conv 128 128 k3 s1 @8, conv 128 128 k3 s1 @8
        linear 128 1""",
    (ResNetDiscriminator, 48): """
        conv 3 64 k3 s1 @48, conv 64 64 k3 s1 @48, conv 3 64 k1 s1 @24
        conv 64 64 k3 s1 @24, conv 64 128 k3 s1 @24, conv 64 128 k1 s1 @12
        conv 128 128 k3 s1 @12, conv 128 256 k3 s1 @12, conv 128 256 k1 s1 @6
        conv 256 256 k3 s1 @6, conv 256 512 k3 s1 @6, conv 256 512 k1 s1 @3
        conv 512 512 k3 s1 @3, conv 512 1024 k3 s1 @3, conv 512 1024 k1 s1 @1
        linear 1024 1""",
    (ResNetDiscriminator, 64): """
        conv 3 64 k3 s1 @64, conv 64 64 k3 s1 @64, conv 3 64 k1 s1 @32
        conv 64 64 k3 s1 @32, conv 64 128 k3 s1 @32, conv 64 128 k1 s1 @16
        conv 128 128 k3 s1 @16, conv 128 256 k3 s1 @16, conv 128 256 k1 s1 @8
        conv 256 256 k3 s1 @8, conv 256 512 k3 s1 @8, conv 256 512 k1 s1 @4
        conv 512 512 k3 s1 @4, conv 512 1024 k3 s1 @4, conv 512 1024 k1 s1 @4
        linear 1024 1""",
    (ResNetDiscriminator, 128): """
        conv 3 32 k3 s1 @128, conv 32 32 k3 s1 @128, conv 3 32 k1 s1 @64
        conv 32 32 k3 s1 @64, conv 32 64 k3 s1 @64, conv 32 64 k1 s1 @32
        conv 64 64 k3 s1 @32, conv 64 128 k3 s1 @32, conv 64 128 k1 s1 @16
        conv 128 128 k3 s1 @16, conv 128 256 k3 s1 @16, conv 128 256 k1 s1 @8
        conv 256 256 k3 s1 @8, conv 256 512 k3 s1 @8, conv 256 512 k1 s1 @4
        conv 512 512 k3 s1 @4, conv 512 1024 k3 s1 @4, conv 512 1024 k1 s1 @4
        linear 1024 1""",
    (ResNetDiscriminator, 256): """
        conv 3 16 k3 s1 @256, conv 16 16 k3 s1 @256, conv 3 16 k1 s1 @128
        conv 16 16 k3 s1 @128, conv 16 32 k3 s1 @128, conv 16 32 k1 s1 @64
        conv 32 32 k3 s1 @64, conv 32 64 k3 s1 @64, conv 32 64 k1 s1 @32
        conv 64 64 k3 s1 @32, conv 64 128 k3 s1 @32, conv 64 128 k1 s1 @16
        conv 128 128 k3 s1 @16, conv 128 256 k3 s1 @16, conv 128 256 k1 s1 @8
        conv 256 256 k3 s1 @8, conv 256 512 k3 s1 @8, conv 256 512 k1 s1 @4
        conv 512 512 k3 s1 @4, conv 512 1024 k3 s1 @4, conv 512 1024 k1 s1 @4
        linear 1024 1""",
}

PARAMETERS_AT_32 = {
    CNNGenerator: """
        linear.weight linear.bias
        convolutions.0.weight convolutions.1.weight convolutions.1.bias
        convolutions.3.weight convolutions.4.weight convolutions.4.bias
        convolutions.6.weight convolutions.7.weight convolutions.7.bias
        to_image.weight to_image.bias""",
    CNNDiscriminator: """
        convolutions.0.weight convolutions.0.bias convolutions.1.weight convolutions.1.bias
        convolutions.2.weight convolutions.2.bias convolutions.3.weight convolutions.3.bias
        convolutions.4.weight convolutions.4.bias convolutions.5.weight convolutions.5.bias
        convolutions.6.weight convolutions.6.bias linear.weight linear.bias""",
    ResNetGenerator: """
        linear.weight linear.bias
        blocks.0.norm1.weight blocks.0.norm1.bias blocks.0.conv1.weight
        blocks.0.norm2.weight blocks.0.norm2.bias
        blocks.0.conv2.weight blocks.0.shortcut.weight
        blocks.1.norm1.weight blocks.1.norm1.bias blocks.1.conv1.weight
        blocks.1.norm2.weight blocks.1.norm2.bias
        blocks.1.conv2.weight blocks.1.shortcut.weight
        blocks.2.norm1.weight blocks.2.norm1.bias blocks.2.conv1.weight
        blocks.2.norm2.weight blocks.2.norm2.bias
        blocks.2.conv2.weight blocks.2.shortcut.weight
        norm.weight norm.bias to_image.weight to_image.bias""",
    ResNetDiscriminator: """
        blocks.0.conv1.weight blocks.0.conv1.bias blocks.0.conv2.weight blocks.0.conv2.bias
        blocks.0.shortcut.weight blocks.0.shortcut.bias
        blocks.1.conv1.weight blocks.1.conv1.bias blocks.1.conv2.weight blocks.1.conv2.bias
        blocks.1.shortcut.weight blocks.1.shortcut.bias
        blocks.2.conv1.weight blocks.2.conv1.bias blocks.2.conv2.weight blocks.2.conv2.bias
        blocks.3.conv1.weight blocks.3.conv1.bias blocks.3.conv2.weight blocks.3.conv2.bias
        linear.weight linear.bias""",
}


def describe(layer, output):
    """One entry of ARCHITECTURES."""
    if isinstance(layer, nn.Linear):
        return f"linear {layer.in_features} {layer.out_features}"
    kind = "transposed" if isinstance(layer, nn.ConvTranspose2d) else "conv"
    (kernel,), (stride,), (size,) = set(layer.kernel_size), set(layer.stride), set(output.shape[2:])
    return f"{kind} {layer.in_channels} {layer.out_channels} k{kernel} s{stride} @{size}"


def example_input(network, batch=2, **kwargs):
    """Latents for a generator, images for a discriminator."""
    shape = (network.latent_dim,) if hasattr(network, "latent_dim") else network.image_shape
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(**kwargs)


def randomize(network):
    """Move every parameter off its initial value, so that no zero bias or unit scale hides a mistake."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize(("family", "image_size"), ARCHITECTURES)
def test_layers_are_the_papers(family, image_size):
    # The meta device computes shapes only, so the full widths cost nothing.
    with torch.device("meta"):
        network = family(image_size)
        calls = []
        for layer in network.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                layer.register_forward_hook(lambda layer, _, output: calls.append(describe(layer, output)))
        network(torch.empty(2, *((128,) if family in GENERATORS else (3, image_size, image_size))))
    table = ARCHITECTURES[family, image_size].strip().replace("\n", ",")
    assert calls == [entry.strip() for entry in table.split(",")]


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
@pytest.mark.parametrize("family", GENERATORS)
def test_generators_make_images(family, image_size):
    network = family(image_size, channels=2, latent_dim=5, width=1)
    assert network.latent_dim == 5
    assert network.image_shape == (2, image_size, image_size)
    pixels = []
    network.to_image.register_forward_hook(lambda _, inputs, output: pixels.append((inputs[0], output)))
    images = network(example_input(network, batch=3))
    features, logits = pixels[0]
    assert images.shape == (3, 2, image_size, image_size)
    assert features.shape == (3, 1, image_size, image_size)  # width channels at full size
    torch.testing.assert_close(images, logits.tanh(), rtol=0, atol=0)


@pytest.mark.parametrize("image_size", IMAGE_SIZES)
@pytest.mark.parametrize("family", DISCRIMINATORS)
def test_discriminators_make_one_score_per_image(family, image_size):
    network = family(image_size, channels=2, width=1)
    assert network.image_shape == (2, image_size, image_size)
    images = example_input(network, batch=3)
    scores = network(images)
    assert scores.shape == (3,)
    # No image's score depends on the others in its batch: there is no normalisation in here.
    torch.testing.assert_close(scores, torch.cat([network(image[None]) for image in images]))
    assert not list(network.buffers())
    assert {type(layer) for layer in network.modules() if list(layer.parameters(recurse=False))} == {
        nn.Conv2d,
        nn.Linear,
    }


@pytest.mark.parametrize("family", GENERATORS + DISCRIMINATORS)
def test_parameter_names_are_stable(family):
    with torch.device("meta"):
        network = family()
    assert [name for name, _ in network.named_parameters()] == PARAMETERS_AT_32[family].split()


@pytest.mark.parametrize("image_size", [32, 128])
def test_cnn_generator_is_its_formula(image_size):
    # 32 pixels: no convolution at full size; 128: one.
    network = randomize(CNNGenerator(image_size, latent_dim=5, width=2)).double()
    latents = example_input(network, dtype=torch.float64)
    layers = network.convolutions
    x = (latents @ network.linear.weight.T + network.linear.bias).reshape(2, -1, 4, 4)
    for convolution, norm in zip(layers[0::3], layers[1::3], strict=True):
        if isinstance(convolution, nn.ConvTranspose2d):
            x = F.conv_transpose2d(x, convolution.weight, stride=2, padding=1)
        else:
            x = F.conv2d(x, convolution.weight, padding=1)
        x = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True).clamp(min=0)
    x = F.conv2d(x, network.to_image.weight, network.to_image.bias, padding=1)
    torch.testing.assert_close(network(latents), x.tanh())


@pytest.mark.parametrize("image_size", [32, 128])
def test_cnn_discriminator_is_its_formula(image_size):
    network = randomize(CNNDiscriminator(image_size, width=2)).double()
    images = example_input(network, dtype=torch.float64)
    x = images
    for convolution in network.convolutions:
        # A 4x4 kernel halves the resolution, a 3x3 one keeps it.
        stride = {4: 2, 3: 1}[convolution.weight.shape[-1]]
        x = F.conv2d(x, convolution.weight, convolution.bias, stride=stride, padding=1)
        x = torch.maximum(x, x / 10)
    scores = x.reshape(2, -1) @ network.linear.weight[0] + network.linear.bias
    torch.testing.assert_close(network(images), scores)


@pytest.mark.parametrize("image_size", [32, 48])
def test_resnet_generator_is_its_formula(image_size):
    # 32 pixels: constant width; 48: halving.
    network = randomize(ResNetGenerator(image_size, latent_dim=5, width=2)).double()
    latents = example_input(network, dtype=torch.float64)

    def norm_relu(x, norm):
        return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True).clamp(min=0)

    def nearest(x):
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    coarsest = image_size // 8
    x = (latents @ network.linear.weight.T + network.linear.bias).reshape(2, -1, coarsest, coarsest)
    for block in network.blocks:
        residual = F.conv2d(nearest(norm_relu(x, block.norm1)), block.conv1.weight, padding=1)
        residual = F.conv2d(norm_relu(residual, block.norm2), block.conv2.weight, padding=1)
        x = residual + F.conv2d(nearest(x), block.shortcut.weight)
    x = F.conv2d(norm_relu(x, network.norm), network.to_image.weight, network.to_image.bias, padding=1)
    torch.testing.assert_close(network(latents), x.tanh())


@pytest.mark.parametrize(
    ("image_size", "halving", "identity"),
    [
        (32, [True, True, False, False], [False, False, True, True]),
        (48, [True, True, True, True, True], [False] * 5),
        (64, [True, True, True, True, False], [False] * 5),
    ],
)
def test_resnet_discriminator_is_its_formula(image_size, halving, identity):
    network = randomize(ResNetDiscriminator(image_size, width=2)).double()
    images = example_input(network, dtype=torch.float64)

    def convolve(x, layer):
        return F.conv2d(x, layer.weight, layer.bias, padding=layer.kernel_size[0] // 2)

    x = images
    for index, block in enumerate(network.blocks):
        # Pre-activation, but not on the image itself.
        residual = convolve(x if index == 0 else x.clamp(min=0), block.conv1)
        residual = convolve(residual.clamp(min=0), block.conv2)
        shortcut = x if identity[index] else convolve(x, block.shortcut)
        x = residual + shortcut
        if halving[index]:  # the mean of each 2x2 square; an odd last row and column are dropped
            size = x.shape[2] // 2
            x = x[:, :, : 2 * size, : 2 * size].unflatten(3, (size, 2)).unflatten(2, (size, 2)).mean((3, 5))
    pooled = torch.einsum("nchw->nc", x.clamp(min=0))
    torch.testing.assert_close(network(images), pooled @ network.linear.weight[0] + network.linear.bias)


@pytest.mark.parametrize("image_size", [32, 128])
@pytest.mark.parametrize("family", GENERATORS + DISCRIMINATORS)
def test_gradients_reach_every_parameter(family, image_size):
    # A bias that batch normalisation cancels would have a gradient of rounding noise, 1e-16 of the others.
    torch.manual_seed(0)
    network = family(image_size, width=2, initialization="xavier_uniform").double()
    outputs = network(example_input(network, batch=4, dtype=torch.float64))
    outputs.square().sum().backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in network.named_parameters()}
    assert min(norms.values()) > 1e-6 * max(norms.values()), norms


@pytest.mark.parametrize("family", GENERATORS + DISCRIMINATORS)
def test_initial_weights(family):
    gains = {}
    torch.manual_seed(0)
    network = family(width=32, initialization="xavier_uniform")
    for name, layer in network.named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)) and layer.weight.numel() > 500:
            kernel = layer.weight[0, 0].numel() if layer.weight.ndim == 4 else 1
            bound = math.sqrt(6 / (kernel * (layer.weight.shape[0] + layer.weight.shape[1])))
            gains[name] = layer.weight.abs().max().item() / bound
    # The largest of more than 500 uniform draws is within 2% of the bound, except in 4 of 100,000 cases.
    for name, gain in gains.items():
        expected = math.sqrt(2) if name.endswith(("conv1", "conv2")) else 1.0
        assert 0.98 * expected < gain < expected * (1 + 1e-6), name
    if family in (ResNetGenerator, ResNetDiscriminator):
        assert {"blocks.0.conv2", "blocks.1.conv1", "blocks.1.shortcut"} <= gains.keys()

    for name, layer in family(width=8, initialization="orthogonal").named_modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            singular_values = torch.linalg.svdvals(layer.weight.flatten(1))
            # A QR decomposition in float32 is orthogonal to a few eps times the square root of its size.
            torch.testing.assert_close(singular_values, torch.ones_like(singular_values), rtol=0, atol=1e-5, msg=name)

    weights = torch.cat(
        [
            layer.weight.flatten()
            for layer in family(width=8, initialization="normal").modules()
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))
        ]
    )
    # 5 standard errors of a standard deviation, and of a mean, of that many independent draws.
    assert abs(weights.std().item() - 0.02) < 5 * 0.02 / math.sqrt(2 * weights.numel())
    assert abs(weights.mean().item()) < 5 * 0.02 / math.sqrt(weights.numel())


@pytest.mark.parametrize("initialization", ["xavier_uniform", "orthogonal", "normal"])
@pytest.mark.parametrize("family", GENERATORS + DISCRIMINATORS)
def test_biases_start_at_zero(family, initialization):
    network = family(width=1, initialization=initialization)
    biases = [parameter for name, parameter in network.named_parameters() if name.endswith("bias")]
    assert biases
    assert all(bias.count_nonzero() == 0 for bias in biases)


@pytest.mark.parametrize(
    ("family", "default"),
    [
        (CNNGenerator, "normal"),
        (CNNDiscriminator, "normal"),
        (ResNetGenerator, "xavier_uniform"),
        (ResNetDiscriminator, "xavier_uniform"),
    ],
)
def test_default_initialization_of_the_family(family, default):
    torch.manual_seed(0)
    network = family(width=2)
    torch.manual_seed(0)
    expected = family(width=2, initialization=default)
    for (name, parameter), other in zip(network.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(parameter, other), name


@pytest.mark.parametrize("family", GENERATORS + DISCRIMINATORS)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 40}, r"^argument `image_size` must be one of 32, 48, 64, 128, 256, got 40$"),
        ({"channels": 0}, r"^argument `channels` must be at least 1, got 0$"),
        ({"width": 0}, r"^argument `width` must be at least 1, got 0$"),
        (
            {"initialization": "xavier"},
            r"^argument `initialization` must be one of xavier_uniform, orthogonal, normal, got 'xavier'$",
        ),
    ],
)
def test_wrong_arguments(family, arguments, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        family(**arguments)


@pytest.mark.parametrize("family", GENERATORS)
def test_wrong_latents(family):
    with pytest.raises(ValueError, match=r"^argument `latent_dim` must be at least 1, got -1$"):
        family(latent_dim=-1)
    network = family(latent_dim=5, width=1)
    for shape in [(2, 4), (5,), (2, 5, 1), (2, 5, 1, 1)]:
        found = ", ".join(map(str, shape))
        message = rf"^argument `latents` must have shape \[N, 5\], got \[{found}\]$"
        with pytest.raises(ValueError, match=message):
            network(torch.zeros(shape))


@pytest.mark.parametrize("family", DISCRIMINATORS)
def test_wrong_images(family):
    network = family(channels=1, width=1)
    for shape in [(2, 3, 32, 32), (1, 32, 32), (2, 1, 48, 48), (2, 1, 32, 31)]:
        found = ", ".join(map(str, shape))
        message = rf"^argument `images` must have shape \[N, 1, 32, 32\], got \[{found}\]$"
        with pytest.raises(ValueError, match=message):
            network(torch.zeros(shape))


@pytest.mark.parametrize("family", GENERATORS + DISCRIMINATORS)
def test_half_precision_and_channels_last(family):
    network = randomize(family(width=2)).eval()
    inputs = example_input(network)
    expected = network(inputs)
    # Other memory layouts may sum in another order: float32 rounding, relative to the largest output.
    close = {"rtol": 0, "atol": 1e-4 * expected.abs().max().item()}
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(inputs), expected, **close)
    outputs = network.to(torch.bfloat16)(inputs.bfloat16())
    assert outputs.dtype == torch.bfloat16
    assert outputs.isfinite().all()


@pytest.mark.parametrize("family", GENERATORS + DISCRIMINATORS)
def test_compiles_into_one_graph(family):
    network = family(width=1)
    inputs = example_input(network)
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs), network(inputs))


@pytest.mark.parametrize(("size", "halvings"), [(32, 3), (48, 3), (64, 4)])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_dcgan(size, halvings, batch_norm):
    """Strided 4x4 convolutions only, twice as wide at each halving, normalised as in the paper."""
    generator = DCGANGenerator(size, latent_dim=7, width=2)
    discriminator = DCGANDiscriminator(size, width=2, batch_norm=batch_norm)
    images = generator(torch.randn(3, 7))
    assert images.shape == (3, 3, size, size)
    assert images.abs().max() <= 1
    assert discriminator(images).shape == (3,)
    widths = [2 * 2**level for level in range(halvings)]
    down = [m for m in discriminator.modules() if isinstance(m, nn.Conv2d)]
    up = [m for m in generator.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert [m.out_channels for m in down] == widths
    assert [m.out_channels for m in up] == [*widths[-2::-1], 3]
    assert {(m.kernel_size, m.stride) for m in down + up} == {((4, 4), (2, 2))}
    assert sum(isinstance(m, nn.BatchNorm2d) for m in discriminator.modules()) == (halvings - 1) * batch_norm
    assert sum(isinstance(m, nn.BatchNorm2d) for m in generator.modules()) == halvings
    for network in (generator, discriminator):
        twin = type(network)(**network.init_args)
        twin.load_state_dict(network.state_dict())


def test_mean_pooling_divides_the_sum():
    """By the 64 positions of the last map at 32 pixels."""
    network = ResNetDiscriminator(width=2)
    images = torch.randn(3, 3, 32, 32)
    scores = network(images)
    network.pooling = "mean"
    torch.testing.assert_close(network(images) - network.linear.bias, (scores - network.linear.bias) / 64)
    assert ResNetDiscriminator(width=2, pooling="mean").pooling == "mean"
    with pytest.raises(ValueError, match="argument `pooling` must be one of sum, mean, got 'max'"):
        ResNetDiscriminator(pooling="max")
