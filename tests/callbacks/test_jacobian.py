"""JacobianSpectrumLogger: right eigenvalues of the running game, on anyone's module, disturbing nothing, bounded."""

import csv
import math

import lightning.pytorch
import numpy as np
import pytest
import torch
from helpers.foreign_modules import BOTH_NAMES, image_loader, make_two_player_gan
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger
from PIL import Image
from torch.nn.functional import softplus

from pcgan_lightning.callbacks import Acceleration, FixedPreconditioning, JacobianSpectrumLogger
from pcgan_lightning.data import ImageDataModule, MixtureOfGaussians
from pcgan_lightning.games import JARE, ConOpt, Game, SimGD
from pcgan_lightning.losses import NonSaturatingLoss
from pcgan_lightning.modules import GAN, SimultaneousGAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator, MLPDiscriminator, MLPGenerator

OPTIONS = {
    "accelerator": "cpu",
    "max_steps": 6,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "logger": False,
}


def tiny_game(method=None, hidden_layers=1, width=4):
    """76 parameters."""
    torch.manual_seed(1)
    networks = MLPGenerator((2,), 3, width, hidden_layers), MLPDiscriminator((2,), width, hidden_layers)
    return SimultaneousGAN(*networks, NonSaturatingLoss(), method)


def fit(tmp_path, module, callbacks, pl=lightning.pytorch, **kwargs):
    data = {"datamodule": MixtureOfGaussians(batch_size=16, seed=0)}
    if isinstance(module, GAN):
        data = {"datamodule": ImageDataModule(batch_size=4, max_images=64, seed=0)}
    elif not isinstance(module, SimultaneousGAN):
        data = {"train_dataloaders": image_loader()}
    ckpt_path = kwargs.pop("ckpt_path", None)
    trainer = pl.Trainer(**OPTIONS | {"default_root_dir": tmp_path} | kwargs, callbacks=callbacks)
    torch.manual_seed(2)
    trainer.fit(module, ckpt_path=ckpt_path, **data)
    return trainer


class Dense(Callback):
    """The same by central differences of hand-made gradients, in float64."""

    def __init__(self, method):
        self.method, self.found = method, {}

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if trainer.global_step not in (1, 3, 6):
            return
        state = {name: value.clone() for name, value in module.state_dict().items()}
        module.double()
        parameters = [*module.generator.parameters()], [*module.discriminator.parameters()]
        every = [*parameters[0], *parameters[1]]
        latents, real = module.fixed_latents(8).double(), batch[:8].double()
        start, h = torch.cat([p.detach().flatten() for p in every]), 1e-5

        def direction(x):
            for p, part in zip(every, x.split([p.numel() for p in every]), strict=True):
                p.data = part.view_as(p).clone()
            fake = module.discriminator(module.generator(latents))
            losses = softplus(-fake).mean(), softplus(-module.discriminator(real)).mean() + softplus(fake).mean()
            return -torch.cat([g.flatten() for gs in self.method(*losses, *parameters) for g in gs])

        steps = h * torch.eye(len(start), dtype=torch.float64)
        columns = [(direction(start + step) - direction(start - step)) / (2 * h) for step in steps]
        self.found[trainer.global_step] = np.linalg.eigvals(torch.stack(columns, 1).numpy())
        module.float()
        module.load_state_dict(state)


def assert_same(found, expected, tolerance):
    """Each eigenvalue has a partner; those of a defective or ill-conditioned matrix move more than its entries."""
    found, expected = np.array([complex(*pair) for pair in found]), list(expected)
    for value in sorted(found, key=abs, reverse=True):
        nearest = min(expected, key=lambda other: abs(other - value))
        assert abs(nearest - value) < tolerance * max(abs(found))
        expected.remove(nearest)


@pytest.mark.parametrize("method", [SimGD(), ConOpt(0.5), JARE(0.5), JARE(2.0, "generator")], ids=repr)
def test_eigenvalues_of_a_small_game(tmp_path, method):
    """All of them, of the dynamics with the regulariser."""
    dense, callback = Dense(method), JacobianSpectrumLogger(every_n_steps=3, samples=8)
    trainer = fit(tmp_path, tiny_game(method), [callback, dense], logger=CSVLogger(tmp_path, name="", version=""))
    assert callback.series["iteration"] == [1, 3, 6]
    for iteration, pairs, zeta in zip(*(callback.series[k] for k in ("iteration", "eigenvalues", "zeta")), strict=True):
        # A in float32 is right to about 1e-6, an eigenvalue with an eigenvector that is nearly shared to its root.
        assert_same(pairs, dense.found[iteration], 1e-3)
        largest = max(math.hypot(*pair) for pair in pairs)
        phases = [abs(b / a) for a, b in pairs if b and math.hypot(a, b) > 1.2e-5 * largest]  # not 0 but for rounding
        assert zeta == max(phases, default=0.0)
    assert trainer.global_step == 6
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["jacobian/zeta"]]
    assert [float(row["jacobian/zeta"]) for row in rows] == pytest.approx(callback.series["zeta"])
    first = callback.series["eigenvalues"][0][0]
    assert (float(rows[0]["jacobian/eigenvalue_1/real"]), float(rows[0]["jacobian/eigenvalue_1/imaginary"])) == first
    assert Image.open(tmp_path / "jacobian.png").size[0] > 500


@pytest.mark.slow
def test_leading_eigenvalues_of_a_larger_game(tmp_path):
    """Those that Arnoldi finds are among all."""
    every = JacobianSpectrumLogger(every_n_steps=6, max_products=1000)
    leading = JacobianSpectrumLogger(every_n_steps=6, count=3, max_products=150)
    for callback in (every, leading):
        module = tiny_game(hidden_layers=2, width=12)
        fit(tmp_path, module, [callback])
    for whole, some in zip(every.series["eigenvalues"], leading.series["eigenvalues"], strict=True):
        assert len(whole) == sum(p.numel() for p in module.parameters()) > 150
        assert 3 <= len(some) <= 6
        largest = sorted((math.hypot(*pair) for pair in whole), reverse=True)
        assert math.hypot(*some[0]) == pytest.approx(largest[0], rel=5e-3)
        for pair in some:
            assert min(math.dist(pair, other) for other in whole) < 5e-3 * largest[0]
    assert all(a <= b for a, b in zip(leading.series["tau"], every.series["tau"], strict=True))


def test_products_are_bounded(tmp_path, monkeypatch):
    from pcgan_lightning.games import Linearization

    products, original = [], Linearization.jvp
    monkeypatch.setattr(Linearization, "jvp", lambda self, vector: products.append(1) or original(self, vector))
    callback = JacobianSpectrumLogger(every_n_steps=100, max_products=45, tolerance=1e-12)
    fit(tmp_path, tiny_game(width=12), [callback], max_steps=1)
    assert 40 < len(products) <= 2 * 45
    assert len(callback.series["zeta"]) == 1


def gan():
    torch.manual_seed(1)
    networks = CNNGenerator(channels=1, latent_dim=4, width=1), CNNDiscriminator(channels=1, width=1)
    return GAN(*networks, NonSaturatingLoss(), ema_decay=0.5)


@pytest.mark.slow
def test_batch_normalisation_has_no_third_derivative(tmp_path):
    gan_ = gan()
    module = SimultaneousGAN(gan_.generator, gan_.discriminator, NonSaturatingLoss(), JARE(0.1))
    data = ImageDataModule(batch_size=4, max_images=64, seed=0)
    arguments = {"every_n_steps": 1, "count": 1, "samples": 2, "max_products": 40}
    for regularized in (True, False):
        callback = JacobianSpectrumLogger(**arguments, regularized=regularized)
        trainer = lightning.pytorch.Trainer(**OPTIONS | {"max_steps": 1}, callbacks=[callback])
        if regularized:
            with pytest.raises(ValueError, match="argument `regularized` must be False for networks without third"):
                trainer.fit(module, datamodule=data)
        else:
            trainer.fit(module, datamodule=data)
            assert callback.series["eigenvalues"][0]


@pytest.mark.slow
def test_training_is_not_disturbed(tmp_path):
    """Batch normalisation in the generator, PC-layers on the discriminator; nor by compilation."""
    watched, alone = gan(), gan()
    make = lambda: JacobianSpectrumLogger(every_n_steps=9, count=1, samples=2, max_products=40)  # noqa: E731
    callback, compiled = make(), make()
    fit(tmp_path, watched, [callback, FixedPreconditioning(3)], max_steps=2)
    fit(tmp_path, alone, [FixedPreconditioning(3)], max_steps=2)
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name
    assert callback.series["iteration"] == [1]
    assert callback.series["eigenvalues"][0]
    fit(tmp_path, gan(), [compiled, Acceleration(backend="aot_eager"), FixedPreconditioning(3)], max_steps=1)
    assert compiled.series["eigenvalues"][0][0] == pytest.approx(callback.series["eigenvalues"][0][0], rel=0.05)


@pytest.mark.slow
def test_resumed_series_are_whole(tmp_path):
    make = lambda: JacobianSpectrumLogger(every_n_steps=2)  # noqa: E731
    whole, resumed = make(), make()
    fit(tmp_path, tiny_game(), [whole])
    fit(tmp_path, tiny_game(), [make()], max_steps=3).save_checkpoint(tmp_path / "three.ckpt")
    fit(tmp_path, tiny_game(), [resumed], ckpt_path=tmp_path / "three.ckpt")
    assert resumed.series == whole.series
    assert whole.series["iteration"] == [1, 2, 4, 6]


def test_a_game_that_is_not_finite(tmp_path):
    """A diverged run is measured as NaN rather than ended by its monitor."""
    module, callback = tiny_game(), JacobianSpectrumLogger(every_n_steps=2)
    with torch.no_grad():
        next(module.generator.parameters()).fill_(math.inf)
    fit(tmp_path, module, [callback], max_steps=2)
    assert callback.series["iteration"] == [1, 2]
    assert all(math.isnan(value) for value in callback.series["zeta"] + callback.series["tau"])


@pytest.mark.slow
@BOTH_NAMES
def test_modules_of_others(pl, tmp_path):
    latents = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))

    def losses(module, batch):
        real, fake = module.discriminator(batch[0][:4]), module.discriminator(module.generator(latents))
        return softplus(-fake).mean(), (softplus(-real) + softplus(fake)).mean()

    module, callback = make_two_player_gan(pl)(), JacobianSpectrumLogger(2, count=2, max_products=40, losses=losses)
    fit(tmp_path, module, [callback], pl, max_steps=8)
    assert callback.series["iteration"] == [1, 2, 4]
    batches = [batch for batch in image_loader()]
    game = Game(
        lambda: losses(module, batches[-1]), [*module.generator.parameters()], [*module.discriminator.parameters()]
    )
    whole = torch.linalg.eigvals(game.jacobian().double())
    largest = whole.abs().max()
    for pair in callback.series["eigenvalues"][-1]:
        assert (whole - complex(*pair)).abs().min() < 5e-3 * largest


def test_mistakes(tmp_path):
    for arguments, message in (
        ({"every_n_steps": 0}, "argument `every_n_steps` must be at least 1, got 0"),
        ({"count": 0}, "argument `count` must be at least 1, got 0"),
        ({"samples": 0}, "argument `samples` must be at least 1, got 0"),
        ({"max_products": 30}, "argument `max_products` must be at least 40 for 6 eigenvalues, got 30"),
        ({"tolerance": 0.0}, "argument `tolerance` must be positive, got 0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            JacobianSpectrumLogger(**arguments)
    with pytest.raises(TypeError, match="JacobianSpectrumLogger needs the argument `losses`, or a module with"):
        fit(tmp_path, make_two_player_gan(lightning.pytorch)(), [JacobianSpectrumLogger()])
    with pytest.raises(ValueError, match="argument `target` must name a submodule"):
        fit(tmp_path, tiny_game(), [JacobianSpectrumLogger(targets=["generator", "critic"])])
