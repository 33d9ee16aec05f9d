"""The PC-GAN authors' variants of the residual networks, by formulas of their own."""

import pytest
import torch
from torch.nn.functional import avg_pool2d, conv2d

from pcgan_lightning.networks import ResNetDiscriminator, ResNetGenerator


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def doubled(x):
    """Twice as many rows and columns, of a quarter of each neighbour and three quarters of the pixel itself."""
    for axis in (2, 3):
        x = x.transpose(axis, -1)
        before, after = torch.cat([x[..., :1], x[..., :-1]], -1), torch.cat([x[..., 1:], x[..., -1:]], -1)
        x = torch.stack([0.25 * before + 0.75 * x, 0.75 * x + 0.25 * after], -1).flatten(-2).transpose(axis, -1)
    return x


def test_bilinear_upsampling_and_a_pointwise_image_convolution():
    network = ResNetGenerator(latent_dim=5, width=3, upsampling="bilinear", image_kernel_size=1).double().eval()
    latents = torch.randn(2, 5, dtype=torch.float64)

    def normed(x):  # running mean 0 and variance 1, scale 1, shift 0
        return (x / (1 + 1e-5) ** 0.5).clamp(min=0)

    x = (latents @ network.linear.weight.T).view(2, 3, 4, 4)
    for block in network.blocks:
        inner = conv2d(doubled(normed(x)), block.conv1.weight, padding=1)
        # The authors upsample before the shortcut's 1x1 convolution, which comes to the same.
        x = conv2d(normed(inner), block.conv2.weight, padding=1) + conv2d(doubled(x), block.shortcut.weight)
    assert network.to_image.weight.shape == (3, 3, 1, 1)
    images = torch.einsum("oi,nihw->nohw", network.to_image.weight[..., 0, 0], normed(x)).tanh()
    torch.testing.assert_close(network(latents), images, rtol=0, atol=1e-12)


@pytest.mark.parametrize("size", [32, 48])
def test_leaky_relu_and_no_bias(size):
    network = ResNetDiscriminator(size, width=2, negative_slope=0.1, linear_bias=False).double()
    x = images = torch.randn(2, 3, size, size, dtype=torch.float64)
    for number, block in enumerate(network.blocks):
        inner = conv2d(x if number == 0 else torch.maximum(x, 0.1 * x), block.conv1.weight, padding=1)
        inner = conv2d(torch.maximum(inner, 0.1 * inner), block.conv2.weight, padding=1)
        if block.downsample or inner.shape[1] != x.shape[1]:
            x = conv2d(x, block.shortcut.weight)
        x = inner + x
        if block.downsample:
            x = avg_pool2d(x, 2)
    assert network.linear.bias is None
    scores = torch.maximum(x, 0.1 * x).sum((2, 3)) @ network.linear.weight[0]
    torch.testing.assert_close(network(images), scores, rtol=1e-12, atol=1e-12)
