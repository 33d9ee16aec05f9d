import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from pcgan_lightning.spectra.matrices import MatrixLayout, batch_by_shape, is_convolution, weight_layers

LAYERS = {
    "linear": nn.Linear(3, 5),
    "conv1d": nn.Conv1d(3, 4, 2),
    "conv2d": nn.Conv2d(3, 4, (2, 3)),
    "conv3d": nn.Conv3d(2, 3, (1, 2, 3)),
    "grouped conv2d": nn.Conv2d(4, 6, (2, 3), groups=2),
    "depthwise conv1d": nn.Conv1d(3, 6, 2, groups=3),
    "transposed1d": nn.ConvTranspose1d(3, 4, 2),
    "transposed2d": nn.ConvTranspose2d(3, 4, (2, 3)),
    "transposed3d": nn.ConvTranspose3d(2, 3, (1, 2, 3)),
    "grouped transposed2d": nn.ConvTranspose2d(4, 6, (2, 3), groups=2),
}


def matrices_by_loops(layer):
    """[groups, outputs, inputs * kernel], entry by entry."""
    weight = layer.weight.detach().numpy()
    groups, kernel = getattr(layer, "groups", 1), weight.shape[2:]
    transposed = "Transpose" in type(layer).__name__
    outputs, inputs = weight.shape[0] // groups, weight.shape[1]
    if transposed:
        outputs, inputs = inputs, outputs
    matrices = np.empty((groups, outputs, inputs * math.prod(kernel)), weight.dtype)
    for group, o, i in itertools.product(range(groups), range(outputs), range(inputs)):
        for position, offset in enumerate(np.ndindex(*kernel)):
            entry = weight[(group * inputs + i, o, *offset) if transposed else (group * outputs + o, i, *offset)]
            matrices[group, o, i * math.prod(kernel) + position] = entry
    return matrices


@pytest.mark.parametrize("kind", LAYERS)
def test_matrices_have_outputs_as_rows(kind):
    layer = LAYERS[kind]
    matrices = MatrixLayout.of_layer(layer).to_matrices(layer.weight.detach())
    np.testing.assert_array_equal(matrices.numpy(), matrices_by_loops(layer))


@pytest.mark.parametrize("kind", LAYERS)
def test_to_weight_inverts_to_matrices(kind):
    weight, layout = LAYERS[kind].weight.detach(), MatrixLayout.of_layer(LAYERS[kind])
    for w in (weight, weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight):
        assert torch.equal(layout.to_weight(layout.to_matrices(w), w.shape), w)


@pytest.mark.parametrize("kind", ["linear", "conv2d", "grouped conv2d"])
def test_matrices_are_views_where_they_can_be(kind):
    weight = LAYERS[kind].weight.detach()
    assert MatrixLayout.of_layer(LAYERS[kind]).to_matrices(weight).data_ptr() == weight.data_ptr()


def test_is_convolution():
    assert [kind for kind, layer in LAYERS.items() if not is_convolution(layer)] == ["linear"]
    assert not is_convolution(nn.Sequential(LAYERS["conv2d"]))


def test_weight_layers():
    shared = nn.Linear(2, 2)
    network = nn.ModuleDict(
        {
            "body": nn.Sequential(LAYERS["conv2d"], nn.BatchNorm2d(4), nn.ReLU(), LAYERS["transposed3d"]),
            "head": shared,
            "again": shared,
            "embedding": nn.Embedding(3, 2),
            "bilinear": nn.Bilinear(2, 2, 2),
        }
    )
    found = weight_layers(network)
    assert list(found) == ["body.0", "body.3", "head"]
    assert list(found.values()) == [LAYERS["conv2d"], LAYERS["transposed3d"], shared]


def test_weight_layers_of_a_layer():
    assert weight_layers(LAYERS["linear"]) == {"weight": LAYERS["linear"]}
    assert weight_layers(nn.BatchNorm2d(3)) == {}


def test_batch_by_shape_calls_once_for_each_shape():
    def double_and_sum(matrices, vectors):
        calls.append((tuple(matrices.shape), matrices.dtype))
        return 2 * matrices, vectors.sum(1)

    calls = []
    shapes = [(1, 2, 3), (2, 3, 2), (3, 2, 3), (1, 2, 3), (2, 3, 2)]
    dtypes = [torch.float32, torch.float32, torch.float32, torch.float64, torch.float32]
    arguments = [
        (torch.rand(shape, dtype=dtype), torch.rand(shape[:2], dtype=dtype))
        for shape, dtype in zip(shapes, dtypes, strict=True)
    ]
    results = batch_by_shape(double_and_sum, arguments)
    # Layers 0 and 2, 1 and 4, and 3, whose dtype differs.
    assert calls == [((4, 2, 3), torch.float32), ((4, 3, 2), torch.float32), ((1, 2, 3), torch.float64)]
    for (matrices, vectors), (doubled, sums) in zip(arguments, results, strict=True):
        assert torch.equal(doubled, 2 * matrices)
        torch.testing.assert_close(sums, vectors.sum(1))


def test_batch_by_shape_distinguishes_any_argument():
    arguments = [(torch.rand(1, 2), torch.rand(1, 3)), (torch.rand(1, 2), torch.rand(1, 4))]
    results = batch_by_shape(lambda a, b: (a.sum(1) + b.sum(1),), arguments)
    assert [r.item() for (r,) in results] == pytest.approx([(a.sum() + b.sum()).item() for a, b in arguments])


def test_batch_by_shape_of_one_layer_copies_nothing():
    matrices = torch.rand(2, 3, 4)
    seen = []
    batch_by_shape(lambda m: (seen.append(m.data_ptr()) or m,), [(matrices,)])
    assert seen == [matrices.data_ptr()]


def test_batch_by_shape_of_nothing():
    assert batch_by_shape(lambda: pytest.fail("called"), []) == []
