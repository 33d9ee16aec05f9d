"""The game: counting, updates, averaging, resuming, loading."""

import copy

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

from pcgan_lightning.callbacks import AdaptivePreconditioning, FixedPreconditioning, SpectrumLogger
from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.losses import LeastSquaresLoss, WassersteinLoss
from pcgan_lightning.modules import GAN
from pcgan_lightning.modules._processes import Share
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator
from pcgan_lightning.optim import LinearDecay
from pcgan_lightning.spectra import precondition, preconditioners, singular_values


def small_gan(**kwargs):
    networks = {
        "generator": CNNGenerator(channels=1, latent_dim=8, width=2),
        "discriminator": CNNDiscriminator(channels=1, width=2),
    }
    return GAN(**networks | kwargs)


def digits(batch_size=8, **kwargs):
    return ImageDataModule(source="digits", channels=1, batch_size=batch_size, max_images=128, seed=0, **kwargs)


def trainer(tmp_path, **kwargs):
    defaults = {
        "accelerator": "cpu",
        "default_root_dir": tmp_path,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return pl.Trainer(**defaults | kwargs)


class UpdateCounter(pl.Callback):
    """Counts real optimizer steps, and records the images each discriminator update saw."""

    def __init__(self):
        self.order = []
        self.steps = []

    def on_fit_start(self, trainer, pl_module):
        for name, optimizer in zip("gd", trainer.optimizers, strict=True):
            optimizer.register_step_post_hook(lambda *_, name=name: self.order.append(name))

    def on_train_batch_end(self, trainer, pl_module, *_):
        self.steps.append(trainer.global_step)


@pytest.mark.parametrize(
    ("steps", "first", "turn"),
    [((1, 1), True, "dg"), ((5, 1), True, "dddddg"), ((2, 3), True, "ddggg"), ((2, 1), False, "gdd")],
)
def test_one_iteration_is_one_turn_of_each_player(tmp_path, steps, first, turn):
    counter = UpdateCounter()
    gan = small_gan(discriminator_steps=steps[0], generator_steps=steps[1], discriminator_first=first)
    trainer(tmp_path, max_steps=7, callbacks=[counter]).fit(gan, datamodule=digits())
    assert "".join(counter.order) == turn * 7
    assert counter.steps == list(range(1, 8))


@pytest.mark.slow
def test_five_to_one_for_100_iterations(tmp_path):
    counter = UpdateCounter()
    logger = CSVLogger(tmp_path, name="run", version="")
    checkpoint = pl.callbacks.ModelCheckpoint(tmp_path / "checkpoints", save_top_k=-1, every_n_train_steps=50)
    gan = small_gan(discriminator_steps=5)
    run = trainer(
        tmp_path,
        max_steps=100,
        callbacks=[counter, checkpoint, SpectrumLogger(every_n_steps=25)],
        logger=logger,
        log_every_n_steps=10,
        enable_checkpointing=True,
    )
    run.fit(gan, datamodule=digits())
    assert (counter.order.count("g"), counter.order.count("d"), run.global_step) == (100, 500, 100)
    saved = {path.name.partition("step=")[2]: path for path in (tmp_path / "checkpoints").iterdir()}
    assert saved.keys() == {"50.ckpt", "100.ckpt"}
    assert torch.load(saved["100.ckpt"], weights_only=True)["global_step"] == 100
    rows = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("step")
    logged = [int(float(row.split(",")[column])) for row in rows[1:]]
    # 10 lines of losses at every tenth iteration, 5 of the spectrum (0, 25, ..., 100).
    assert sorted(logged) == sorted([*range(10, 101, 10), *range(0, 101, 25)])


def test_every_discriminator_update_sees_fresh_images(tmp_path):
    seen = []
    gan = small_gan(discriminator_steps=4)
    loss = gan.discriminator_loss
    gan.discriminator_loss = lambda real, fake: seen.append(real) or loss(real, fake)
    trainer(tmp_path, max_steps=4).fit(gan, datamodule=digits())
    images = torch.cat(seen).flatten(1)
    assert len(seen) == 16
    # 4 iterations x 4 updates x 8 images are one pass over 128 images: each once.
    assert len(images.unique(dim=0)) == len(digits_images())


def digits_images():
    data = digits()
    data.setup("fit")
    return (
        torch.cat([batch[0] if isinstance(batch, (list, tuple)) else batch for batch in data.train_dataloader()])
        .flatten(1)
        .unique(dim=0)
    )


def test_updates_by_hand(tmp_path):
    """Two iterations of plain SGD, recomputed with torch alone."""
    sgd = lambda p: torch.optim.SGD(p, lr=0.1)  # noqa: E731
    gan = small_gan(loss=LeastSquaresLoss(), generator_optimizer=sgd, discriminator_optimizer=sgd)
    generator, discriminator = copy.deepcopy(gan.generator), copy.deepcopy(gan.discriminator)
    draws, batches = [], []
    draw, real_images = gan.draw_latents, gan.real_images
    gan.draw_latents = lambda n: draws.append(draw(n)) or draws[-1]
    gan.real_images = lambda batch: batches.append(real_images(batch)) or batches[-1]
    trainer(tmp_path, max_steps=2).fit(gan, datamodule=digits())
    for real, (z_d, z_g) in zip(batches, (draws[:2], draws[2:]), strict=True):
        with torch.no_grad():
            fake = generator(z_d)
        loss = ((discriminator(real) - 1) ** 2).mean() / 2 + (discriminator(fake) ** 2).mean() / 2
        _descend(loss, discriminator, 0.1)
        _descend(((discriminator(generator(z_g)) - 1) ** 2).mean() / 2, generator, 0.1)
    for own, expected in ((gan.generator, generator), (gan.discriminator, discriminator)):
        for p, q in zip(own.parameters(), expected.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-7)  # float32, other order of additions


def _descend(loss, network, lr):
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    with torch.no_grad():
        for p, g in zip(network.parameters(), gradients, strict=True):
            p -= lr * g


def test_average_of_generator_weights(tmp_path):
    gan = small_gan(ema_decay=0.9)
    history = []

    class Record(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_):
            history.append(next(pl_module.generator.parameters()).detach().clone())

    trainer(tmp_path, max_steps=4, callbacks=[Record()]).fit(gan, datamodule=digits())
    expected = history[0]  # torch's AveragedModel starts with the first weights it is shown
    for weights in history[1:]:
        expected = 0.9 * expected + 0.1 * weights
    averaged = next(gan.averaged_generator.parameters())
    torch.testing.assert_close(averaged, expected)
    latents = gan.fixed_latents(3)
    samples = gan.sample_images(latents)
    torch.testing.assert_close(samples, gan.averaged_generator.eval()(latents))
    assert not torch.equal(samples, gan.sample_images(latents, averaged=False))
    assert gan.generator.training


class HostReads(TorchDispatchMode):
    """Counts what makes the host wait for an accelerator: reading a number that the device computes."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if any(name in str(function) for name in ("_local_scalar_dense", "is_nonzero", "equal.default")):
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def test_no_iteration_waits_for_the_device(tmp_path, monkeypatch):
    step, reads = GAN.training_step, HostReads()

    def watched(self, batch, batch_idx):
        with reads:
            return step(self, batch, batch_idx)

    monkeypatch.setattr(GAN, "training_step", watched)
    # torch's Adam has counters of its own, on the host; SGD has none.
    sgd = {f"{player}_optimizer": lambda p: torch.optim.SGD(p, lr=1e-3) for player in ("generator", "discriminator")}
    gan = small_gan(ema_decay=0.9, **sgd)
    precondition(gan.discriminator, degree=3)
    trainer(tmp_path, max_steps=3).fit(gan, datamodule=digits())
    assert gan.averaged_generator.n_averaged == 3
    assert reads.found == []


def run_with_apc(tmp_path, name, max_steps, ckpt_path=None, callbacks=(), **kwargs):
    pl.seed_everything(3, verbose=False)
    gan = small_gan(
        ema_decay=0.9,
        discriminator_steps=2,
        generator_scheduler=lambda o: LinearDecay(o, total_iterations=80),
        **kwargs,
    )
    apc = AdaptivePreconditioning(thresholds=(1.4, 1.6, 1.8, 2.0), every_n_steps=7, history=3, layers="all")
    spectrum = SpectrumLogger(every_n_steps=10)
    logger = CSVLogger(tmp_path, name=name, version="")
    run = trainer(
        tmp_path, max_steps=max_steps, callbacks=[apc, spectrum, *callbacks], logger=logger, log_every_n_steps=1
    )
    run.fit(gan, datamodule=digits(), ckpt_path=ckpt_path)
    return run, gan, apc, spectrum


def assert_same(a, b, path=""):
    assert type(a) is type(b), path
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            assert_same(a[key], b[key], f"{path}/{key}")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), path
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}/{i}")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


def rows(path):
    header, *lines = path.read_text().splitlines()
    table = [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]
    return [{k: v for k, v in row.items() if v} for row in table]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    saved = {}

    class SaveInside(pl.Callback):
        """Saves in the middle of epochs of 8 iterations, at the very end of one, and where others would."""

        def on_train_batch_end(self, trainer, pl_module, *_):
            if trainer.global_step in (30, 32):
                saved[f"inside_{trainer.global_step}"] = folder / f"{trainer.global_step}.ckpt"
                trainer.save_checkpoint(saved[f"inside_{trainer.global_step}"])

    return *run_with_apc(folder, "run", 60, callbacks=[SaveInside()]), folder, saved


@pytest.mark.slow
@pytest.mark.parametrize("how", ["stopped_30", "stopped_32", "inside_30", "inside_32"])
def test_resumed_run_is_bit_identical(tmp_path, uninterrupted, how):
    whole, gan, apc, spectrum, folder, saved = uninterrupted
    degrees = {row[k] for row in rows(folder / "run" / "metrics.csv") for k in row if k.startswith("degree/")}
    assert len(degrees) > 1, "the run must switch polynomials for this test to mean anything"
    if how.startswith("stopped"):
        first, *_ = run_with_apc(tmp_path, "first", int(how[-2:]))
        path = tmp_path / "stopped.ckpt"
        first.save_checkpoint(path)
    else:
        path = saved[how]
    resumed, *others = run_with_apc(tmp_path, "second", 60, ckpt_path=path)
    assert_same(others[0].state_dict(), gan.state_dict())
    for a, b in zip(resumed.optimizers, whole.optimizers, strict=True):
        assert_same(a.state_dict(), b.state_dict())
    assert_same(others[1].state_dict(), apc.state_dict())
    assert_same(others[2].state_dict(), spectrum.state_dict())
    assert resumed.lr_scheduler_configs[0].scheduler.last_epoch == 60
    after = [row for row in rows(folder / "run" / "metrics.csv") if int(float(row["step"])) > int(how[-2:])]
    assert rows(tmp_path / "second" / "metrics.csv") == after


def test_checkpoint_opens_without_callbacks(tmp_path):
    gan = small_gan(ema_decay=0.5, loss=WassersteinLoss())
    run = trainer(tmp_path, max_steps=3, callbacks=[FixedPreconditioning(degree=7)])
    run.fit(gan, datamodule=digits())
    run.save_checkpoint(tmp_path / "x.ckpt")
    loaded = GAN.load_from_checkpoint(tmp_path / "x.ckpt")
    images = torch.rand(4, 1, 32, 32) * 2 - 1
    assert torch.equal(loaded.discriminator.eval()(images), gan.discriminator.eval()(images))
    latents = gan.fixed_latents(2)
    assert torch.equal(loaded.sample_images(latents), gan.sample_images(latents))
    assert isinstance(loaded.loss, WassersteinLoss)
    assert {p.polynomial.degree for p in preconditioners(loaded.discriminator).values()} == {7, 1}


def test_plain_checkpoint_resumes_with_preconditioning(tmp_path):
    run = trainer(tmp_path, max_steps=2)
    run.fit(small_gan(), datamodule=digits())
    run.save_checkpoint(tmp_path / "x.ckpt")
    gan = small_gan()
    trainer(tmp_path, max_steps=4, callbacks=[FixedPreconditioning(degree=3)]).fit(
        gan, datamodule=digits(), ckpt_path=tmp_path / "x.ckpt"
    )
    assert preconditioners(gan.discriminator)


def test_checkpoint_of_another_architecture(tmp_path):
    run = trainer(tmp_path, max_steps=1)
    run.fit(small_gan(), datamodule=digits())
    run.save_checkpoint(tmp_path / "x.ckpt")
    wider = small_gan(discriminator=CNNDiscriminator(channels=1, width=4))
    with pytest.raises(
        ValueError, match=r"architecture, but 'discriminator\..*' has shape \(.*\) there and \(.*\) here"
    ):
        trainer(tmp_path, max_steps=2).fit(wider, datamodule=digits(), ckpt_path=tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="is only in the checkpoint"):
        GAN.load_from_checkpoint(tmp_path / "x.ckpt", discriminator=nn.Flatten())


def test_latents_of_processes_are_slices_of_one_stream(tmp_path):
    gan = small_gan()
    run = trainer(tmp_path, max_steps=1)
    run.fit(gan, datamodule=digits())
    gan.trainer = run

    def draw(world, rank, count):
        gan._streams.begin_iteration(run, gan.global_step)
        return gan.draw_latents(Share(count, rank * count, world * count, world))

    whole = draw(1, 0, 6)
    assert torch.equal(torch.cat([draw(2, 0, 3), draw(2, 1, 3)]), whole)


def test_bf16_autocast_keeps_spectra_in_float32(tmp_path):
    gan = small_gan()
    trainer(tmp_path, max_steps=3, precision="bf16-mixed", callbacks=[FixedPreconditioning(degree=9)]).fit(
        gan, datamodule=digits()
    )
    layer = next(iter(preconditioners(gan.discriminator)))
    weight = gan.discriminator.get_submodule(layer).weight
    with torch.autocast("cpu", torch.bfloat16):
        inside = gan.discriminator.get_submodule(layer).weight
    assert torch.equal(inside, weight)
    assert weight.dtype == torch.float32


def test_own_loader_is_cut_into_updates(tmp_path):
    counter = UpdateCounter()
    loader = DataLoader(torch.rand(64, 1, 32, 32) * 2 - 1, batch_size=15)
    trainer(tmp_path, max_steps=4, callbacks=[counter]).fit(small_gan(discriminator_steps=5), loader)
    assert counter.order.count("d") == 20


@pytest.mark.parametrize("kwargs", [{"discriminator_steps": 0}, {"generator_steps": -1}, {"ema_decay": 1.0}])
def test_arguments_out_of_range(kwargs):
    (name,) = kwargs
    with pytest.raises(ValueError, match=f"argument `{name}` must be .* got {kwargs[name]}"):
        small_gan(**kwargs)


def test_networks_of_different_shapes():
    with pytest.raises(ValueError, match=r"same image shape .* got \(1, 32, 32\) and \(3, 32, 32\)"):
        small_gan(discriminator=CNNDiscriminator(channels=3, width=2))


def test_data_of_another_shape(tmp_path):
    gan = small_gan(
        generator=CNNGenerator(image_size=48, channels=1, latent_dim=8, width=2),
        discriminator=CNNDiscriminator(image_size=48, channels=1, width=2),
    )
    with pytest.raises(ValueError, match=r"data and discriminator must have the same image shape"):
        trainer(tmp_path, max_steps=1).fit(gan, datamodule=digits())


def test_batch_smaller_than_the_discriminator_steps(tmp_path):
    loader = DataLoader(torch.rand(8, 1, 32, 32), batch_size=2)
    with pytest.raises(ValueError, match=r"`discriminator_steps` = 3 images, .* got 2"):
        trainer(tmp_path, max_steps=1).fit(small_gan(discriminator_steps=3), loader)


def test_learning_rate_decays_over_the_run(tmp_path):
    gan = small_gan(generator_scheduler=LinearDecay, discriminator_scheduler=LinearDecay)
    rates = []

    class Rates(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append([o.param_groups[0]["lr"] for o in trainer.optimizers])

    trainer(tmp_path, max_steps=8, callbacks=[Rates()]).fit(gan, datamodule=digits())
    expected = [2e-4 * f for f in (1, 1, 1, 1, 1, 0.75, 0.5, 0.25)]
    torch.testing.assert_close(torch.tensor(rates), torch.tensor([expected, expected]).T)


def test_preconditioning_by_function_before_training(tmp_path):
    gan = small_gan()
    precondition(gan.discriminator, degree=5)
    trainer(tmp_path, max_steps=2).fit(gan, datamodule=digits())
    assert preconditioners(gan.discriminator)


def test_average_of_a_preconditioned_generator(tmp_path):
    """The average is normalised by its own spectral norm, and its polynomials follow those of the generator."""
    gan = small_gan(ema_decay=0.9, generator_optimizer=lambda p: torch.optim.Adam(p, lr=0.02))
    apc = AdaptivePreconditioning(
        thresholds=(1e-3,), degrees=(1, 7), every_n_steps=10, target="generator", layers="all"
    )
    run = trainer(tmp_path, max_steps=25, callbacks=[apc])
    run.fit(gan, datamodule=digits())
    layers = preconditioners(gan.averaged_generator.module)
    assert {p.polynomial.degree for p in layers.values()} == {7}
    # Power iteration follows weights that move by a tenth of the generator's steps.
    for name, values in singular_values(gan.averaged_generator.module, after_polynomial=False).items():
        assert 0.99 < values[0] < 1.1, name
    run.save_checkpoint(tmp_path / "x.ckpt")
    latents = gan.fixed_latents(3)
    assert torch.equal(GAN.load_from_checkpoint(tmp_path / "x.ckpt").sample_images(latents), gan.sample_images(latents))


def test_plain_checkpoint_resumes_with_a_preconditioned_generator(tmp_path):
    run = trainer(tmp_path, max_steps=2)
    run.fit(small_gan(ema_decay=0.9), datamodule=digits())
    run.save_checkpoint(tmp_path / "x.ckpt")
    gan = small_gan(ema_decay=0.9)
    trainer(tmp_path, max_steps=4, callbacks=[FixedPreconditioning(degree=3, target="generator")]).fit(
        gan, datamodule=digits(), ckpt_path=tmp_path / "x.ckpt"
    )
    assert preconditioners(gan.generator).keys() == preconditioners(gan.averaged_generator.module).keys() != set()


def test_another_run_of_the_same_module_has_other_latents(tmp_path):
    gan = small_gan()
    drawn = []
    draw = gan.draw_latents
    gan.draw_latents = lambda count: drawn.append(draw(count)) or drawn[-1]
    for seed in (1, 2, 1):
        torch.manual_seed(seed)
        trainer(tmp_path, max_steps=1).fit(gan, datamodule=digits())
    first, second, again = drawn[0], drawn[2], drawn[4]
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
