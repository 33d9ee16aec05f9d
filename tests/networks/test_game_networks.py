"""The networks of the JARE paper: B to F for CIFAR-10, and the MLPs of the mixture of Gaussians."""

import math

import pytest
import torch
from torch.nn import functional as F

from pcgan_lightning.networks import (
    CNNGenerator,
    ConstantWidthDiscriminator,
    ConstantWidthGenerator,
    MLPDiscriminator,
    MLPGenerator,
)

KINDS = {
    "C": {},
    "E": {"residual": True},
    "F": {"residual": True, "final_convolution": True},
}
DISCRIMINATOR_KINDS = {"C": {}, "E": {"residual": True}}

# A layer of a inputs, b outputs and a k*k kernel has a*b*k*k weights and b biases.
CONVOLUTION_5, CONVOLUTION_4 = 64 * 64 * 25 + 64, 64 * 64 * 16 + 64
BRANCH = (64 * 32 * 9 + 32) + (32 * 64 * 9 + 64)
PARAMETERS = {
    "C": (128 * 256 + 256) + 3 * CONVOLUTION_5 + (64 * 3 * 25 + 3),
    "E": (128 * 256 + 256) + 3 * (CONVOLUTION_4 + BRANCH) + (64 * 3 * 16 + 3),
    "F": (128 * 1024 + 1024) + 3 * (CONVOLUTION_4 + BRANCH) + (64 * 3 * 9 + 3),
}
DISCRIMINATOR_PARAMETERS = {
    "C": (3 * 64 * 25 + 64) + 3 * CONVOLUTION_5 + (256 + 1),
    "E": (3 * 64 * 16 + 64) + 3 * CONVOLUTION_4 + 4 * BRANCH + (256 + 1),
}
PLAIN, RESIDUAL = {"stride": 2, "padding": 2}, {"stride": 2, "padding": 1}


def count(network):
    return sum(p.numel() for p in network.parameters())


def randomize(network):
    """Move every parameter off its initial value, so that no zero bias hides a mistake."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.double()


def take(parameters, function, x, **kwargs):
    """Apply a layer to the next weight and bias."""
    weight, bias = next(parameters), next(parameters)
    return function(x, weight, bias, **kwargs)


def branch(parameters, x):
    hidden = take(parameters, F.conv2d, x, padding=1).clamp(min=0)
    assert hidden.shape[1] == -(-x.shape[1] // 2)
    return x + take(parameters, F.conv2d, hidden, padding=1).clamp(min=0) / 10


@pytest.mark.parametrize("kind", KINDS)
def test_generator_is_its_formula(kind):
    network = randomize(ConstantWidthGenerator(latent_dim=5, width=3, **KINDS[kind]))
    latents = torch.randn(2, 5, dtype=torch.float64)
    coarsest = {"C": 2, "E": 2, "F": 4}[kind]
    up = PLAIN | {"output_padding": 1} if kind == "C" else RESIDUAL
    parameters = iter(network.parameters())
    x = take(parameters, F.linear, latents).clamp(min=0).reshape(2, 3, coarsest, coarsest)
    for _ in range(3):
        x = take(parameters, F.conv_transpose2d, x, **up).clamp(min=0)
        x = x if kind == "C" else branch(parameters, x)
    last = (F.conv2d, {"padding": 1}) if kind == "F" else (F.conv_transpose2d, up)
    x = take(parameters, last[0], x, **last[1])
    assert next(parameters, None) is None
    assert x.shape == (2, 3, 32, 32)
    torch.testing.assert_close(network(latents), x.tanh())


@pytest.mark.parametrize("kind", DISCRIMINATOR_KINDS)
def test_discriminator_is_its_formula(kind):
    network = randomize(ConstantWidthDiscriminator(width=3, **DISCRIMINATOR_KINDS[kind]))
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    parameters = iter(network.parameters())
    x = images
    for _ in range(4):
        x = take(parameters, F.conv2d, x, **(PLAIN if kind == "C" else RESIDUAL))
        x = torch.maximum(x, x / 10) if kind == "C" else branch(parameters, x.clamp(min=0))
    assert x.shape == (2, 3, 2, 2)
    torch.testing.assert_close(network(images), take(parameters, F.linear, x.flatten(1))[:, 0])
    assert next(parameters, None) is None


def test_parameters_counted_by_hand():
    with torch.device("meta"):
        assert {k: count(ConstantWidthGenerator(**arguments)) for k, arguments in KINDS.items()} == PARAMETERS
        found = {k: count(ConstantWidthDiscriminator(**arguments)) for k, arguments in DISCRIMINATOR_KINDS.items()}
        assert found == DISCRIMINATOR_PARAMETERS
        # Four layers of 256, without (MLPGenerator) and with (MLPDiscriminator) few inputs.
        hidden = 3 * (256 * 256 + 256)
        assert count(MLPGenerator()) == (64 * 256 + 256) + hidden + (256 * 2 + 2)
        assert count(MLPDiscriminator()) == (2 * 256 + 256) + hidden + (256 + 1)
        # Network B: each of 256 + 128 + 64 channels has a bias instead of a scale and a shift.
        assert count(CNNGenerator()) - count(CNNGenerator(batch_norm=False)) == 256 + 128 + 64


@pytest.mark.parametrize("size", [32, 48])
def test_sizes_and_channels(size):
    for arguments in KINDS.values():
        generator = ConstantWidthGenerator(size, channels=1, latent_dim=4, width=1, **arguments)
        assert generator.image_shape == (1, size, size)
        assert generator.latent_dim == 4
        images = generator(torch.randn(3, 4))
        assert images.shape == (3, 1, size, size)
        assert images.abs().max() <= 1
    for arguments in DISCRIMINATOR_KINDS.values():
        discriminator = ConstantWidthDiscriminator(size, channels=1, width=1, **arguments)
        assert discriminator.image_shape == (1, size, size)
        scores = discriminator(images)
        assert scores.shape == (3,)
        torch.testing.assert_close(scores, torch.cat([discriminator(image[None]) for image in images]))


@pytest.mark.parametrize("size", [32, 128])
def test_cnn_generator_without_batch_norm_is_its_formula(size):
    """32 pixels: no convolution at full size; 128: one."""
    network = randomize(CNNGenerator(size, latent_dim=5, width=2, batch_norm=False))
    latents = torch.randn(2, 5, dtype=torch.float64)
    parameters = iter(network.parameters())
    x = take(parameters, F.linear, latents).reshape(2, -1, 4, 4)
    for _ in range(int(math.log2(size // 4))):
        x = take(parameters, F.conv_transpose2d, x, stride=2, padding=1).clamp(min=0)
    for _ in range(size == 128):
        x = take(parameters, F.conv2d, x, padding=1).clamp(min=0)
    x = take(parameters, F.conv2d, x, padding=1)
    assert next(parameters, None) is None
    torch.testing.assert_close(network(latents), x.tanh())


@pytest.mark.parametrize("hidden", [1, 3])
def test_mlps_are_their_formula(hidden):
    generator = randomize(MLPGenerator((3, 2), latent_dim=5, width=7, hidden_layers=hidden, latent_scale=1.5))
    latents = torch.randn(4, 5, dtype=torch.float64)
    parameters = iter(generator.parameters())
    x = 1.5 * latents
    for _ in range(hidden):
        x = take(parameters, F.linear, x).clamp(min=0)
    points = take(parameters, F.linear, x).reshape(4, 3, 2)
    assert next(parameters, None) is None
    torch.testing.assert_close(generator(latents), points)

    discriminator = randomize(MLPDiscriminator((3, 2), width=7, hidden_layers=hidden))
    parameters = iter(discriminator.parameters())
    x = points.flatten(1)
    for _ in range(hidden):
        x = take(parameters, F.linear, x).clamp(min=0)
    torch.testing.assert_close(discriminator(points), take(parameters, F.linear, x)[:, 0])
    assert next(parameters, None) is None


def test_mlps_of_the_mixture():
    generator, discriminator = MLPGenerator(), MLPDiscriminator()
    assert generator.image_shape == discriminator.image_shape == (2,)
    assert (generator.latent_dim, generator.latent_scale) == (64, 2.0)
    assert generator(torch.randn(5, 64)).shape == (5, 2)
    assert discriminator(torch.randn(5, 2)).shape == (5,)


NETWORKS = [
    CNNGenerator(latent_dim=4, width=1, batch_norm=False),
    *(ConstantWidthGenerator(latent_dim=4, width=2, **arguments) for arguments in KINDS.values()),
    *(ConstantWidthDiscriminator(width=2, **arguments) for arguments in DISCRIMINATOR_KINDS.values()),
    MLPGenerator(latent_dim=4, width=5, hidden_layers=2),
    MLPDiscriminator(width=5, hidden_layers=2),
]


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: type(n).__name__)
def test_recorded_arguments_rebuild(network):
    type(network)(**network.init_args).load_state_dict(network.state_dict())


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: type(n).__name__)
def test_no_normalisation_and_zero_biases(network):
    assert not list(network.buffers())
    biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
    assert len(biases) * 2 == len(list(network.parameters()))
    assert all(bias.count_nonzero() == 0 for bias in biases)


@pytest.mark.parametrize("arguments", DISCRIMINATOR_KINDS.values(), ids=DISCRIMINATOR_KINDS)
def test_discriminators_differentiate_twice(arguments):
    """As JARE needs it: the gradient of the generator's squared gradient by every weight of the discriminator."""
    generator = ConstantWidthGenerator(16, latent_dim=4, width=8, **arguments).double()
    discriminator = ConstantWidthDiscriminator(16, width=8, **arguments).double()
    loss = F.softplus(-discriminator(generator(torch.randn(8, 4, dtype=torch.float64)))).mean()
    gradients = torch.autograd.grad(loss, list(generator.parameters()), create_graph=True)
    sum(g.square().sum() for g in gradients).backward()
    assert all(p.grad.norm() > 0 for p in discriminator.parameters())


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        (ConstantWidthGenerator, {"image_size": 40}, r"^argument `image_size` must be a multiple of 16, got 40$"),
        (ConstantWidthDiscriminator, {"image_size": 0}, r"^argument `image_size` must be a multiple of 16, got 0$"),
        (ConstantWidthGenerator, {"width": 0}, r"^argument `width` must be at least 1, got 0$"),
        (ConstantWidthGenerator, {"latent_dim": 0}, r"^argument `latent_dim` must be at least 1, got 0$"),
        (ConstantWidthDiscriminator, {"channels": 0}, r"^argument `channels` must be at least 1, got 0$"),
        (MLPGenerator, {"image_shape": ()}, r"^argument `image_shape` must hold sizes of at least 1, got \(\)$"),
        (MLPDiscriminator, {"image_shape": (2, 0)}, r"^argument `image_shape` must .* got \(2, 0\)$"),
        (MLPGenerator, {"hidden_layers": 0}, r"^argument `hidden_layers` must be at least 1, got 0$"),
        (MLPGenerator, {"latent_dim": 0}, r"^argument `latent_dim` must be at least 1, got 0$"),
        (MLPGenerator, {"latent_scale": 0}, r"^argument `latent_scale` must be positive, got 0$"),
        (MLPDiscriminator, {"width": 0}, r"^argument `width` must be at least 1, got 0$"),
        (MLPDiscriminator, {"initialization": "zero"}, r"^argument `initialization` must be one of"),
    ],
)
def test_wrong_arguments(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        family(**arguments)


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: type(n).__name__)
def test_wrong_inputs(network):
    name = "latents" if hasattr(network, "latent_dim") else "images"
    with pytest.raises(ValueError, match=rf"^argument `{name}` must have shape \[N, .*\], got \[2, 7\]$"):
        network(torch.zeros(2, 7))


@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: type(n).__name__)
def test_compiles_into_one_graph(network):
    shape = (network.latent_dim,) if hasattr(network, "latent_dim") else network.image_shape
    inputs = torch.randn(2, *shape)
    torch.testing.assert_close(torch.compile(network, backend="eager", fullgraph=True)(inputs), network(inputs))
