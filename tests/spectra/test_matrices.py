import numpy as np
import pytest
import torch
from helpers.preconditioned import LAYERS, numpy_matrices
from torch import nn

from pcgan_lightning.spectra.matrices import MatrixLayout, batch_by_shape, is_convolution, weight_layers


@pytest.mark.parametrize("kind", LAYERS)
def test_matrices_have_outputs_as_rows_and_go_back(kind):
    layer = LAYERS[kind]()
    layout, weight = MatrixLayout.of_layer(layer), layer.weight.detach()
    np.testing.assert_array_equal(layout.to_matrices(weight).numpy(), numpy_matrices(layer))
    for w in (weight, weight.contiguous(memory_format=torch.channels_last) if weight.ndim == 4 else weight):
        assert torch.equal(layout.to_weight(layout.to_matrices(w), w.shape), w)
    if "transposed" not in kind:  # a view
        assert layout.to_matrices(weight).data_ptr() == weight.data_ptr()


def test_weight_layers():
    conv, transposed, shared = nn.Conv2d(3, 4, 2), nn.ConvTranspose3d(2, 3, 1), nn.Linear(2, 2)
    network = nn.ModuleDict(
        {
            "body": nn.Sequential(conv, nn.BatchNorm2d(4), nn.ReLU(), transposed),
            "head": shared,
            "again": shared,
            "embedding": nn.Embedding(3, 2),
            "bilinear": nn.Bilinear(2, 2, 2),
        }
    )
    found = weight_layers(network)
    assert list(found.items()) == [("body.0", conv), ("body.3", transposed), ("head", shared)]
    assert [is_convolution(layer) for layer in (*found.values(), network["body"])] == [True, True, False, False]
    assert weight_layers(shared) == {"weight": shared}
    assert weight_layers(nn.BatchNorm2d(3)) == {}


def test_batch_by_shape_calls_once_for_each_shape_and_dtype_of_any_argument():
    def double_and_sum(matrices, vectors):
        calls.append((tuple(matrices.shape), vectors.shape[1], matrices.dtype))
        return 2 * matrices, vectors.sum(1)

    calls = []
    shapes = [(1, 2, 3), (2, 3, 2), (3, 2, 3), (1, 2, 3), (2, 3, 2), (1, 2, 3)]
    dtypes = [torch.float32] * 3 + [torch.float64] + [torch.float32] * 2
    lengths = [2, 3, 2, 2, 3, 5]
    arguments = [
        (torch.rand(shape, dtype=dtype), torch.rand(shape[0], length, dtype=dtype))
        for shape, dtype, length in zip(shapes, dtypes, lengths, strict=True)
    ]
    results = batch_by_shape(double_and_sum, arguments)
    # Layers 0 and 2, 1 and 4, 3, whose dtype differs, and 5, whose vectors do.
    assert calls == [
        ((4, 2, 3), 2, torch.float32),
        ((4, 3, 2), 3, torch.float32),
        ((1, 2, 3), 2, torch.float64),
        ((1, 2, 3), 5, torch.float32),
    ]
    for (matrices, vectors), (doubled, sums) in zip(arguments, results, strict=True):
        assert torch.equal(doubled, 2 * matrices)
        torch.testing.assert_close(sums, vectors.sum(1))


def test_batch_by_shape_of_one_layer_copies_nothing_and_of_none_calls_nothing():
    matrices, seen = torch.rand(2, 3, 4), []
    batch_by_shape(lambda m: (seen.append(m.data_ptr()) or m,), [(matrices,)])
    assert seen == [matrices.data_ptr()]
    assert batch_by_shape(lambda: pytest.fail("called"), []) == []
