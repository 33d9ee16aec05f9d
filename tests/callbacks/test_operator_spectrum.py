"""SpectrumLogger and FixedPreconditioning with convolutions as operators."""

import pytest
import torch
from helpers.convolution_layouts import dense

from pcgan_lightning.callbacks import FixedPreconditioning, NonFiniteGuard, SpectrumLogger
from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator
from pcgan_lightning.spectra import preconditioners

SHAPE = (1, 8, 8)


@pytest.fixture
def data():
    return ImageDataModule(image_size=8, batch_size=8, max_images=64, seed=0)


def tiny_gan():
    torch.manual_seed(1)
    networks = CNNGenerator(8, 1, latent_dim=4, width=2), CNNDiscriminator(8, 1, width=2)
    return GAN(*networks)


def test_both_views_are_logged_and_drawn(tmp_path, fit, data):
    gan, logger = tiny_gan(), SpectrumLogger(2, view="operator", input_shape=SHAPE)
    trainer = fit(
        gan, [FixedPreconditioning(1, norm="operator", input_shape=SHAPE), logger, NonFiniteGuard()], data, max_steps=2
    )
    first, *_ = convolutions = list(logger.series["operators"])
    assert set(convolutions) == set(preconditioners(gan.discriminator)) - {"linear"}
    entry = {key: values[-1] for key, values in logger.series["operators"][first].items()}
    layer = gan.discriminator.get_submodule(first)
    with torch.no_grad():
        layer.bias.zero_()
    norm = torch.linalg.matrix_norm(dense(layer, SHAPE[1:]), 2).item()
    assert entry["norm"] == pytest.approx(norm, rel=1e-5)
    assert entry["norm_ratio"] == pytest.approx(norm / logger.series["layers"][first]["largest"][-1][0], rel=1e-5)
    assert norm <= entry["norm_bound"] <= 1.05 * norm
    assert trainer.callback_metrics[f"operator/{first}/norm"].item() == pytest.approx(norm, rel=1e-5)
    assert [path.name for path in (tmp_path / "spectra").glob("operator*")] == ["operator_norms.png"]


def test_a_checkpoint_opens_without_the_callback(tmp_path, fit, data):
    gan = tiny_gan()
    trainer = fit(
        gan,
        [FixedPreconditioning(1, norm="operator", input_shape=SHAPE, hold_norm=True), NonFiniteGuard()],
        data,
        max_steps=2,
    )
    trainer.save_checkpoint(tmp_path / "run.ckpt")
    again = GAN.load_from_checkpoint(tmp_path / "run.ckpt")
    saved, loaded = gan.state_dict(), again.state_dict()
    assert all(saved[name].equal(loaded[name]) for name in saved if not name.endswith("_extra_state"))
    assert all(p.held for name, p in preconditioners(again.discriminator).items() if p.v.ndim > 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SpectrumLogger(view="image"), "argument `view` must be one of matrix, operator, got 'image'"),
        (lambda: SpectrumLogger(view="operator"), "argument `input_shape` must be given for view='operator'"),
        (lambda: FixedPreconditioning(norm="image"), "argument `norm` must be one of matrix, operator, got 'image'"),
        (lambda: FixedPreconditioning(norm="operator"), "argument `input_shape` must be given for norm='operator'"),
    ],
)
def test_mistakes_are_refused_at_once(make, message):
    with pytest.raises(ValueError, match=message):
        make()
