"""SpectralNormLogger: the power iteration's estimate beside the exact norm (Figure 5 of PC-GAN)."""

import copy

import numpy as np
import pytest
import torch
from helpers.convolution_layouts import dense
from helpers.preconditioned import numpy_matrices, numpy_singular_values, vectors
from lightning.pytorch.callbacks import Callback

from pcgan_lightning.callbacks import FixedPreconditioning, SpectralNormLogger
from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator
from pcgan_lightning.spectra import original_weight, precondition, preconditioners


@pytest.fixture
def data():
    return ImageDataModule(image_size=8, batch_size=8, max_images=64, seed=0)


def tiny_gan():
    torch.manual_seed(1)
    return GAN(CNNGenerator(8, 1, latent_dim=4, width=2), CNNDiscriminator(8, 1, width=4))


class NewWeights(Callback):
    """Puts other weights in place at the end, of which the power iteration knows nothing."""

    def on_train_end(self, trainer, pl_module):
        for layer in map(pl_module.discriminator.get_submodule, preconditioners(pl_module.discriminator)):
            torch.nn.init.normal_(original_weight(layer).data)


def test_numbers_by_numpy(tmp_path, fit, data):
    gan, logger = tiny_gan(), SpectralNormLogger(3)
    trainer = fit(gan, [FixedPreconditioning(7), NewWeights(), logger], data, max_steps=5)
    assert logger.series["iteration"] == [0, 3, 5]
    assert list(logger.series["layers"]) == list(preconditioners(gan.discriminator))
    ends = []
    for name, (u, v) in vectors(gan.discriminator).items():
        layer, entry = gan.discriminator.get_submodule(name), logger.series["layers"][name]
        exact = numpy_singular_values(layer, original_weight(layer))[0]
        (matrix,) = numpy_matrices(layer, original_weight(layer))
        estimate = u[0].astype(np.float64) @ matrix @ v[0].astype(np.float64)
        assert entry["exact"][-1] == pytest.approx(exact, rel=1e-6)  # float32 numbers of a float64 computation
        assert entry["estimate"][-1] == pytest.approx(estimate, abs=1e-5)
        assert entry["ratio"][-1] == pytest.approx(estimate / exact, abs=1e-5)
        assert entry["ratio"][0] == pytest.approx(1, rel=1e-5), "the vectors start exact"
        assert trainer.callback_metrics[f"spectral_norm/{name}/ratio"] == pytest.approx(entry["ratio"][-1])
        ends.append(entry["ratio"][-1])
    assert min(ends) < 0.9, "the two do not agree here, or the test would see nothing"
    assert max(ends) < 1 + 1e-5
    assert trainer.callback_metrics["spectral_norm/lowest_ratio"] == pytest.approx(min(ends))
    assert (tmp_path / "spectra" / "spectral_norms.png").is_file()


def test_a_measurement_off_the_interval_is_not_saved(fit, data):
    logger = SpectralNormLogger(3)
    fit(tiny_gan(), [FixedPreconditioning(1), logger], data, max_steps=5)
    saved = logger.state_dict()["series"]
    assert saved["iteration"] == [0, 3]
    assert {len(values) for entry in saved["layers"].values() for values in entry.values()} == {2}


def test_the_norm_of_operators():
    plain = CNNDiscriminator(8, 1, width=2)
    network = precondition(copy.deepcopy(plain), 1, norm="operator", input_shape=(1, 8, 8))
    for name, pc_layer in preconditioners(network).items():
        layer = plain.get_submodule(name)
        matrix = layer.weight if name == "linear" else dense(layer, pc_layer.operator.image_size)
        exact = pc_layer.exact_norm(layer.weight).item()
        assert exact == pytest.approx(torch.linalg.matrix_norm(matrix, 2).item(), rel=1e-5)


def test_grouped_layers_have_the_norm_of_the_largest_block():
    layer = torch.nn.Conv2d(4, 6, 3, groups=2)
    (pc_layer,) = preconditioners(precondition(torch.nn.Sequential(layer), 3)).values()
    exact = pc_layer.exact_norm(original_weight(layer)).item()
    assert exact == pytest.approx(numpy_singular_values(layer, original_weight(layer))[0], rel=1e-6)


def test_a_network_without_pc_layers_is_refused(fit, data):
    with pytest.raises(ValueError, match="`target` must be a network with PC-layers, got 'discriminator', which has"):
        fit(tiny_gan(), [SpectralNormLogger()], data)
