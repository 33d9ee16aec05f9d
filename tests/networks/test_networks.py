"""What holds for every network: shapes, initial weights, gradients, number formats, one graph, refused arguments."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

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

RESIDUAL = {"residual": True}
SMALL = {
    "CNN generator": lambda **kw: CNNGenerator(latent_dim=5, **{"width": 2} | kw),
    "CNN discriminator": lambda **kw: CNNDiscriminator(**{"width": 2} | kw),
    "ResNet generator": lambda **kw: ResNetGenerator(latent_dim=5, **{"width": 2} | kw),
    "ResNet discriminator": lambda **kw: ResNetDiscriminator(**{"width": 2} | kw),
    "DCGAN generator": lambda **kw: DCGANGenerator(latent_dim=5, **{"width": 2} | kw),
    "DCGAN discriminator": lambda **kw: DCGANDiscriminator(**{"width": 2} | kw),
    "network C, generator": lambda **kw: ConstantWidthGenerator(latent_dim=5, **{"width": 2} | kw),
    "network C, discriminator": lambda **kw: ConstantWidthDiscriminator(**{"width": 2} | kw),
    "network F, generator": lambda **kw: ConstantWidthGenerator(
        latent_dim=5, **RESIDUAL, final_convolution=True, **{"width": 2} | kw
    ),
    "network E, discriminator": lambda **kw: ConstantWidthDiscriminator(**RESIDUAL, **{"width": 2} | kw),
    "MLP generator": lambda **kw: MLPGenerator(latent_dim=5, **{"width": 5} | kw),
    "MLP discriminator": lambda **kw: MLPDiscriminator(**{"width": 5} | kw),
}
NETWORKS = pytest.mark.parametrize("make", SMALL.values(), ids=SMALL)
FAMILIES = [CNNGenerator, CNNDiscriminator, ResNetGenerator, ResNetDiscriminator]


def inputs(network, batch=2, **kwargs):
    """Latents for a generator, images for a discriminator."""
    shape = (network.latent_dim,) if hasattr(network, "latent_dim") else network.image_shape
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0)).to(**kwargs)


def layers(network):
    return {n: m for n, m in network.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d))}


@NETWORKS
def test_shapes_and_recorded_arguments(make):
    network = make(image_shape=(3, 2)) if "MLP" in type(make()).__name__ else make(image_size=48, channels=2)
    assert network.image_shape in ((3, 2), (2, 48, 48))
    outputs = network(inputs(network, batch=3))
    if hasattr(network, "latent_dim"):
        assert network.latent_dim == 5
        assert outputs.shape == (3, *network.image_shape)
    else:
        assert outputs.shape == (3,)
    type(network)(**network.init_args).load_state_dict(network.state_dict())


@pytest.mark.parametrize("make", [make for name, make in SMALL.items() if name.endswith("discriminator")])
def test_no_score_depends_on_another_image(make):
    """There is no normalisation in a discriminator but DCGAN's."""
    network = make(batch_norm=False) if "DCGANDis" in type(make()).__name__ else make()
    images = inputs(network, batch=3)
    torch.testing.assert_close(network(images), torch.cat([network(image[None]) for image in images]))
    assert not list(network.buffers())


@pytest.mark.parametrize("size", [32, 128])
@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_reach_every_parameter(family, size):
    # A bias that batch normalisation cancels would have a gradient of rounding noise, 1e-16 of the others.
    network = family(size, width=2, initialization="xavier_uniform").double()
    network(inputs(network, batch=4, dtype=torch.float64)).square().sum().backward()
    norms = {name: parameter.grad.norm().item() for name, parameter in network.named_parameters()}
    assert min(norms.values()) > 1e-6 * max(norms.values()), norms


@pytest.mark.parametrize("arguments", [{}, RESIDUAL])
def test_discriminators_differentiate_twice(arguments):
    """As JARE needs it: the gradient of the generator's squared gradient by every weight of the discriminator."""
    generator = ConstantWidthGenerator(16, latent_dim=4, width=8, **arguments).double()
    discriminator = ConstantWidthDiscriminator(16, width=8, **arguments).double()
    loss = F.softplus(-discriminator(generator(torch.randn(8, 4, dtype=torch.float64)))).mean()
    gradients = torch.autograd.grad(loss, list(generator.parameters()), create_graph=True)
    sum(g.square().sum() for g in gradients).backward()
    assert all(p.grad.norm() > 0 for p in discriminator.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_xavier_weights(family):
    found = layers(family(width=32, initialization="xavier_uniform"))
    for name, layer in found.items():
        if layer.weight.numel() > 500:
            kernel = layer.weight[0, 0].numel() if layer.weight.ndim == 4 else 1
            bound = math.sqrt(6 / (kernel * (layer.weight.shape[0] + layer.weight.shape[1])))
            gain = math.sqrt(2) if name.endswith(("conv1", "conv2")) else 1.0
            # The largest of more than 500 uniform draws is within 2% of the bound, except in 4 of 100,000 cases.
            assert 0.98 * gain < layer.weight.abs().max().item() / bound < gain * (1 + 1e-6), name
    if family in (ResNetGenerator, ResNetDiscriminator):
        assert {"blocks.0.conv2", "blocks.1.conv1", "blocks.1.shortcut"} <= found.keys()


@pytest.mark.parametrize("family", FAMILIES)
def test_orthogonal_and_normal_weights(family):
    for name, layer in layers(family(width=8, initialization="orthogonal")).items():
        singular_values = torch.linalg.svdvals(layer.weight.flatten(1))
        # A QR decomposition in float32 is orthogonal to a few eps times the square root of its size.
        torch.testing.assert_close(singular_values, torch.ones_like(singular_values), rtol=0, atol=1e-5, msg=name)
    weights = torch.cat([m.weight.flatten() for m in layers(family(width=8, initialization="normal")).values()])
    # 5 standard errors of a standard deviation, and of a mean, of that many independent draws.
    assert abs(weights.std().item() - 0.02) < 5 * 0.02 / math.sqrt(2 * weights.numel())
    assert abs(weights.mean().item()) < 5 * 0.02 / math.sqrt(weights.numel())


def test_xavier_normal_weights():
    for name, layer in layers(ResNetGenerator(width=16, initialization="xavier_normal")).items():
        count, kernel = layer.weight.numel(), layer.weight[0, 0].numel() if layer.weight.ndim == 4 else 1
        gain = math.sqrt(2) if name.endswith(("conv1", "conv2")) else 1.0
        expected = gain * math.sqrt(2 / (kernel * (layer.weight.shape[0] + layer.weight.shape[1])))
        # 5 standard errors of a standard deviation.
        assert layer.weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * count)), name


def test_batch_norm_after_the_linear_layer():
    """Each entry of the coarsest feature map has mean 0 and variance 1 over the batch, before the ReLU if any."""
    network = CNNGenerator(8, width=1, latent_dim=3, linear_batch_norm=True).double()
    found = []
    network.convolutions.register_forward_pre_hook(lambda _, args: found.append(args[0]))
    network(inputs(network, batch=50, dtype=torch.float64))
    features = found[0].flatten(1)
    torch.testing.assert_close(features.mean(0), torch.zeros(16).double(), rtol=0, atol=1e-12)
    # The variance of weights with standard deviation 0.02 is of the order of 1e-3, beside epsilon = 1e-5.
    torch.testing.assert_close(features.var(0, correction=0), torch.ones(16).double(), rtol=0, atol=0.2)
    assert network.linear.bias is None


@NETWORKS
def test_default_initialization_and_zero_biases(make):
    torch.manual_seed(0)
    network = make()
    torch.manual_seed(0)
    default = (
        "normal" if isinstance(network, (CNNGenerator, CNNDiscriminator, DCGANGenerator, DCGANDiscriminator)) else ""
    )
    expected = make(initialization=default or "xavier_uniform")
    for (name, parameter), other in zip(network.named_parameters(), expected.parameters(), strict=True):
        assert torch.equal(parameter, other), name
    biases = [parameter for name, parameter in network.named_parameters() if name.endswith("bias")]
    assert biases
    assert all(bias.count_nonzero() == 0 for bias in biases)


@NETWORKS
def test_half_precision_and_channels_last(make):
    network = make(initialization="xavier_uniform").eval()
    found = inputs(network)
    expected = network(found)
    # Other memory layouts may sum in another order: float32 rounding, relative to the largest output.
    close = {"rtol": 0, "atol": 1e-4 * expected.abs().max().item()}
    torch.testing.assert_close(network.to(memory_format=torch.channels_last)(found), expected, **close)
    outputs = network.to(torch.bfloat16)(found.bfloat16())
    assert outputs.dtype == torch.bfloat16
    assert outputs.isfinite().all()


@pytest.mark.slow
@NETWORKS
def test_compiles_into_one_graph(make):
    network = make()
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(inputs(network)), network(inputs(network)))


IMAGE_SIZE = r"must be one of (8, )?32, 48, 64, 128, 256, got 40"
CHOICES = r"must be one of xavier_uniform, xavier_normal, orthogonal, normal(, torch)?, got 'xavier'"


@pytest.mark.parametrize(
    ("families", "argument", "value", "message"),
    [
        (FAMILIES, "image_size", 40, IMAGE_SIZE),
        ([DCGANGenerator, DCGANDiscriminator], "image_size", 40, "must be one of 32, 48, 64, got 40"),
        ([ConstantWidthGenerator], "image_size", 40, "must be a multiple of 16, got 40"),
        ([ConstantWidthDiscriminator], "image_size", 0, "must be a multiple of 16, got 0"),
        ([*FAMILIES, ConstantWidthGenerator, ConstantWidthDiscriminator], "channels", 0, "must be at least 1, got 0"),
        ([*FAMILIES, ConstantWidthGenerator, MLPGenerator, MLPDiscriminator], "width", 0, "must be at least 1, got 0"),
        ([*FAMILIES[::2], ConstantWidthGenerator, MLPGenerator], "latent_dim", 0, "must be at least 1, got 0"),
        ([*FAMILIES, MLPDiscriminator], "initialization", "xavier", CHOICES),
        ([ResNetDiscriminator], "pooling", "max", "must be one of sum, mean, got 'max'"),
        ([ResNetGenerator], "upsampling", "bicubic", "must be one of nearest, bilinear, got 'bicubic'"),
        ([ResNetGenerator], "image_kernel_size", 2, "must be one of 1, 3, got 2"),
        ([ResNetDiscriminator], "negative_slope", -0.1, "must not be negative, got -0.1"),
        ([MLPGenerator], "image_shape", (), r"must hold sizes of at least 1, got \(\)"),
        ([MLPDiscriminator], "image_shape", (2, 0), r"must hold sizes of at least 1, got \(2, 0\)"),
        ([MLPGenerator], "hidden_layers", 0, "must be at least 1, got 0"),
        ([MLPGenerator], "latent_scale", 0, "must be positive, got 0"),
    ],
)
def test_wrong_arguments(families, argument, value, message):
    for family in families:
        with torch.device("meta"), pytest.raises(ValueError, match=rf"^argument `{argument}` {message}$"):
            family(**{argument: value})


@NETWORKS
def test_wrong_inputs(make):
    """A wrong size on each axis, one axis too few, and one too many."""
    network = make()
    name = "latents" if hasattr(network, "latent_dim") else "images"
    right = (network.latent_dim,) if name == "latents" else network.image_shape
    wrong = [(2, *right[:k], right[k] + 1, *right[k + 1 :]) for k in range(len(right))]
    for shape in [*wrong, right, (2, *right, 1)]:
        found = ", ".join(map(str, shape))
        expected = ", ".join(map(str, right))
        with pytest.raises(
            ValueError, match=rf"^argument `{name}` must have shape \[N, {expected}\], got \[{found}\]$"
        ):
            network(torch.zeros(shape))
