"""Images in memory or streamed: which of them, for which process, from which seed; and what is refused."""

from types import SimpleNamespace

import pytest
import torch
from helpers.images import numbers, own_threads
from jsonargparse import ArgumentParser
from lightning.pytorch import seed_everything

from pcgan_lightning.data import ImageDataModule, MemoryLoader, StreamingLoader

STREAMING = pytest.mark.parametrize("streaming", [None, True], ids=["memory", "stream"])
CPU = torch.device("cpu")


def fake_trainer(device=CPU, broadcast=lambda seed: seed, **changed):
    strategy = SimpleNamespace(root_device=device, broadcast=broadcast)
    trainer = {"strategy": strategy, "lightning_module": SimpleNamespace(), "overfit_batches": 0}
    return SimpleNamespace(**{**trainer, "global_rank": 0, "world_size": 1, **changed})


def loader_of(module, trainer=None):
    module.trainer = trainer
    module.setup("fit")
    return module.train_dataloader()


def test_can_be_had_in_yaml(first):
    parser = ArgumentParser()
    parser.add_class_arguments(ImageDataModule, "data")
    settings = {"image_size": 16, "streaming": True, "max_images": 70, "seed": None, "memory_limit_gb": 1}
    module = parser.instantiate_classes(parser.parse_object({"data": settings})).data
    assert module.image_shape == (1, 16, 16)
    assert first(module).shape == (64, 1, 16, 16)
    module.teardown("fit")


@pytest.mark.parametrize(
    ("streaming", "limit", "kind"),
    [
        (None, 1.151e-4, MemoryLoader),  # 1797 digits of 8x8 are 115,008 bytes
        (None, 1.150e-4, StreamingLoader),
        (False, 1.150e-4, MemoryLoader),
        (True, 8.0, StreamingLoader),
    ],
)
def test_what_fits_is_kept(data_module, streaming, limit, kind):
    assert type(loader_of(data_module(streaming=streaming, memory_limit_gb=limit))) is kind


def test_what_does_not_fit_is_streamed_whole(data_module, parquet_folder):
    batches = iter(loader_of(data_module(parquet_folder, batch_size=20, memory_limit_gb=1e-9)))
    order = numbers(next(batches)) + numbers(next(batches))
    assert sorted(order) == list(range(40)) != order


def test_stream_settings_arrive(data_module):
    loader = loader_of(data_module(streaming=True, iterations_per_epoch=3, shuffle_buffer=5, decode_workers=4))
    assert (len(loader), loader.shuffle_buffer, loader.workers) == (3, 5, 4)


def test_a_later_stage_decodes_nothing_again(data_module, parquet_folder, monkeypatch):
    module = data_module(parquet_folder, validation_split="test")
    module.setup("fit")
    monkeypatch.setattr(module, "_decode", None)
    for stage in ("fit", "validate", "test", "predict"):
        module.setup(stage)


def test_setup_stops_the_threads_of_the_loader_before(data_module, first):
    module = data_module(streaming=True)
    first(module)
    assert own_threads()
    module.setup("fit")
    assert not own_threads()


@STREAMING
def test_processes_together_see_what_one_sees(data_module, parquet_folder, streaming):
    """In each of the updates whose images a batch holds."""
    settings = {"seed": 1, "streaming": streaming, "validation_split": "test"}

    def batch_of(module, **trainer):
        gan = SimpleNamespace(discriminator_steps=2)
        return next(iter(loader_of(module, fake_trainer(lightning_module=gan, **trainer))))

    whole = batch_of(data_module(parquet_folder, batch_size=8, **settings))
    modules = [data_module(parquet_folder, batch_size=4, **settings) for _ in range(2)]
    parts = [batch_of(module, global_rank=rank, world_size=2).chunk(2) for rank, module in enumerate(modules)]
    assert len(whole) == 16
    for update, *own in zip(whole.chunk(2), *parts, strict=True):
        assert torch.equal(update, torch.cat(own))
    assert [sum(map(len, module.val_dataloader())) for module in modules] == [5, 5]


@STREAMING
def test_images_go_to_the_device_of_the_strategy(data_module, parquet_folder, streaming):
    module = data_module(parquet_folder, batch_size=8, validation_split="test", streaming=streaming)
    loader = loader_of(module, fake_trainer(device=torch.device("meta")))
    for batches in (loader, module.val_dataloader()):
        assert next(iter(batches)).device.type == "meta"


def test_no_threads_are_left_behind(first):
    module, before = ImageDataModule(image_size=8, streaming=True), own_threads()
    first(module)
    running = own_threads()
    next(iter(module.train_dataloader()))
    assert own_threads() == running > before
    module.teardown("fit")
    assert own_threads() == before


def test_a_state_reaches_a_loader_that_is_already_there(data_module, parquet_folder):
    """FSDP restores late: by then a learning rate schedule may have asked for the loader."""
    module = data_module(parquet_folder, batch_size=4)
    loader = loader_of(module)
    module.load_state_dict({"position": 3, "seed": 9})
    assert loader.state_dict() == module.state_dict() == {"position": 3, "seed": 9}


def test_the_seed_is_torchs_and_that_of_the_first_process(data_module, parquet_folder):
    seed_everything(123, verbose=False)
    module = data_module(parquet_folder, batch_size=4)
    assert loader_of(module).seed == 123
    assert loader_of(module, fake_trainer()).seed == 123
    assert loader_of(module, fake_trainer(broadcast=lambda seed: seed - 100)).seed == 23
    assert loader_of(data_module(parquet_folder, batch_size=4, seed=0)).seed == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "`image_size` must be positive, got 0"),
        ({"batch_size": -1}, "`batch_size` must be positive, got -1"),
        ({"shuffle_buffer": 0}, "`shuffle_buffer` must be positive, got 0"),
        ({"memory_limit_gb": 0.0}, r"`memory_limit_gb` must be positive, got 0\.0"),
        ({"iterations_per_epoch": 0}, "`iterations_per_epoch` must be positive, got 0"),
        ({"decode_workers": 0}, "`decode_workers` must be positive, got 0"),
        ({"max_images": 0}, "`max_images` must be positive, got 0"),
        ({"channels": 2}, "`channels` must be 1, 3 or None, got 2"),
        ({"seed": -1}, "`seed` must not be negative, got -1"),
        ({"name": "x"}, r"`name` must be in \[None\] for 'digits', got 'x'"),
        ({"split": "all"}, r"`split` must be in \['train'\] for 'digits', got 'all'"),
        ({"validation_split": "x"}, r"`validation_split` must be in \[None, 'test'\] for 'digits', got 'x'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=f"^argument {message}$"):
        ImageDataModule(**settings)


@pytest.mark.parametrize(
    ("max_images", "trainer", "message"),
    [
        (None, {"overfit_batches": 2}, r"`overfit_batches` of the Trainer must be 0, .* got 2 \(use `max_images`"),
        (
            250,
            {"lightning_module": SimpleNamespace(discriminator_steps=4)},
            "`batch_size` must let 250 images fill an iteration, got 64",
        ),
    ],
)
def test_trainers_that_do_not_fit(max_images, trainer, message):
    with pytest.raises(ValueError, match=message):
        loader_of(ImageDataModule(image_size=8, max_images=max_images), fake_trainer(**trainer))


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_nothing_to_evaluate_on(stage):
    with pytest.raises(ValueError, match=f"`validation_split` must name a split to {stage} on, such as 'test', got"):
        ImageDataModule().setup(stage)
