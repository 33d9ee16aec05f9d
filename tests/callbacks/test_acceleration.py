"""Acceleration: the same training, compiled and in another order of memory."""

import pytest
import torch
from helpers.short_fits import fit
from torch._dynamo.testing import CompileCounterWithBackend

from pcgan_lightning.callbacks import Acceleration, AdaptivePreconditioning
from pcgan_lightning.games import JARE
from pcgan_lightning.losses import GradientPenalty
from pcgan_lightning.modules import GAN, SimultaneousGAN
from pcgan_lightning.networks import ResNetDiscriminator, ResNetGenerator
from pcgan_lightning.spectra import preconditioners


def train(tmp_path, *callbacks):
    torch.manual_seed(0)
    torch._dynamo.reset()
    networks = ResNetGenerator(channels=1, latent_dim=4, width=2), ResNetDiscriminator(channels=1, width=2)
    gan = GAN(*networks, ema_decay=0.5).double()
    # The degrees change once, between the iterations.
    apc = AdaptivePreconditioning(thresholds=(1e-3,), degrees=(1, 3), every_n_steps=2)
    fit(tmp_path, gan, 4, apc, *callbacks, precision="64-true")
    return gan


@pytest.fixture(autouse=True)
def _precision():
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.slow
def test_the_same_training(tmp_path, monkeypatch):
    counter = CompileCounterWithBackend("aot_eager")
    original = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **kwargs: original(self, **kwargs | {"backend": counter})
    )
    plain, fast = train(tmp_path), train(tmp_path, Acceleration())
    assert counter.frame_count >= 4, "the networks were not compiled"
    assert {p.polynomial.degree for p in preconditioners(fast.discriminator).values()} == {1, 3}
    assert list(plain.state_dict()) == list(fast.state_dict())
    for name, value in plain.state_dict().items():
        # Another order of memory sums in another order; Adam makes of a rounding error in a gradient near 0 a step.
        torch.testing.assert_close(value, fast.state_dict()[name], rtol=1e-6, atol=1e-7, msg=name)


@pytest.mark.slow
def test_a_network_is_compiled_whole():
    """No break of the graph in a network with PC-layers: forward, cache and polynomial in one."""
    from pcgan_lightning.spectra import precondition

    torch._dynamo.reset()
    network = ResNetDiscriminator(width=2)
    precondition(network, degree=7)
    images = torch.randn(2, 3, 32, 32)
    expected = network(images)
    network.compile(backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(network(images), expected)


def test_order_of_memory(tmp_path):
    gan = train(tmp_path, Acceleration(compile_mode=None))
    weight = gan.generator.blocks[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    plain = train(tmp_path, Acceleration(compile_mode=None, channels_last=False))
    assert plain.generator.blocks[0].conv1.weight.is_contiguous()


def test_resumed_from_a_run_without_it(tmp_path):
    """Optimizer states take the order of their weights, and a checkpoint has the usual one."""
    paths = [tmp_path / "plain.ckpt", tmp_path / "fast.ckpt"]
    for steps, path, callbacks, resumed in (
        (1, paths[0], [], None),
        (2, paths[1], [Acceleration(compile_mode=None)], paths[0]),
    ):
        gan = GAN(ResNetGenerator(channels=1, latent_dim=4, width=2), ResNetDiscriminator(channels=1, width=2))
        trainer = fit(tmp_path, gan, steps, *callbacks, ckpt_path=resumed)
        trainer.save_checkpoint(path)
    moments = trainer.optimizers[0].state[gan.generator.blocks[0].conv1.weight]["exp_avg"]
    assert moments.is_contiguous(memory_format=torch.channels_last)
    assert not moments.is_contiguous()
    for saved in torch.load(paths[1], weights_only=True)["optimizer_states"]:
        values = [v for state in saved["state"].values() for v in state.values()]
        assert any(v.dim() == 4 for v in values)
        assert all(v.is_contiguous() for v in values)


def test_nothing_is_left_behind(tmp_path):
    """The same callback again puts one hook on, and torch's setting is as before."""
    before = torch.get_float32_matmul_precision()
    callback = Acceleration(compile_mode=None, matmul_precision="medium")
    for _ in range(2):
        gan = train(tmp_path, callback)
        assert torch.get_float32_matmul_precision() == before
        assert not gan.generator._forward_pre_hooks


@pytest.mark.parametrize(
    "make",
    [lambda *n: GAN(*n, penalty=GradientPenalty()), lambda *n: SimultaneousGAN(*n, method=JARE(1.0))],
    ids=["penalty", "JARE"],
)
def test_compiled_networks_have_no_second_derivative(tmp_path, make):
    networks = ResNetGenerator(channels=1, latent_dim=4, width=2), ResNetDiscriminator(channels=1, width=2)
    with pytest.raises(ValueError, match=r"argument `compile_mode` must be None with (GradientPenalty|JARE)"):
        fit(tmp_path, make(*networks), 1, Acceleration(compile_mode="default"))
    fit(tmp_path, make(*networks), 1, Acceleration(compile_mode=None))


def test_wrong_target(tmp_path):
    with pytest.raises(ValueError, match="argument `target` must name a submodule of GAN"):
        train(tmp_path, Acceleration(targets=["critic"]))
