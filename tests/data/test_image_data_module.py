"""Images of a data set: which ones, in memory or streamed, in what order, and what is refused."""

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilderConfig
from helpers.images import all_numbers, dataset, encode, numbered, numbers, own_threads
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from sklearn.datasets import load_digits

from pcgan_lightning.data import ImageDataModule, MemoryLoader, StreamingLoader
from pcgan_lightning.data.sources import undecoded_images

STREAMING = pytest.mark.parametrize("streaming", [None, True], ids=["memory", "stream"])


@pytest.fixture
def data_module():
    """Makes data modules, and stops their threads after the test."""
    made = []

    def make(source="digits", **settings):
        defaults = {"image_size": 8} if source == "digits" else {"image_size": 4}
        made.append(ImageDataModule(str(source), **defaults | settings))
        return made[-1]

    yield make
    for module in made:
        module.teardown("fit")


def loader_of(module, trainer=None):
    module.trainer = trainer
    module.setup("fit")
    return module.train_dataloader()


def first(module, trainer=None):
    return next(iter(loader_of(module, trainer)))


def pixels(batch):
    """The uint8 images of a batch in [-1, 1], as lists that sort and compare."""
    return ((batch + 1) * 127.5).round().to(torch.uint8).flatten(1).tolist()


def fake_trainer(**changed):
    strategy = SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda seed: seed)
    trainer = {"strategy": strategy, "lightning_module": SimpleNamespace(), "overfit_batches": 0}
    return SimpleNamespace(**{**trainer, "global_rank": 0, "world_size": 1, **changed})


@STREAMING
def test_digits_are_those_of_scikit_learn_and_the_last_297_are_held_out(data_module, streaming):
    module = data_module(batch_size=1500, validation_split="test", streaming=streaming)
    train, validation = first(module), torch.cat(list(module.val_dataloader()))
    expected = np.rint(load_digits().images * 255 / 16).astype(np.uint8).reshape(1797, 64).tolist()
    assert pixels(validation) == expected[1500:]
    assert sorted(pixels(train)) == sorted(expected[:1500])
    (everything,) = loader_of(data_module(batch_size=1797)) if streaming is None else (torch.empty(1797),)
    assert len(everything) == 1797


def test_digits_grow_smoothly(data_module):
    batch = first(data_module(image_size=32))
    assert batch.shape == (64, 1, 32, 32)
    # Blocks of 4x4 equal pixels are what a nearest neighbour would make of 8x8.
    assert not torch.equal(batch, batch[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))


def test_can_be_had_in_yaml():
    parser = ArgumentParser()
    parser.add_class_arguments(ImageDataModule, "data")
    settings = {"image_size": 16, "streaming": True, "max_images": 70, "seed": None, "memory_limit_gb": 1}
    module = parser.instantiate_classes(parser.parse_object({"data": settings})).data
    assert module.image_shape == (1, 16, 16)
    assert first(module).shape == (64, 1, 16, 16)
    module.teardown("fit")


@STREAMING
def test_parquet_folder_has_the_splits_of_its_files(data_module, parquet_folder, streaming):
    (parquet_folder / "README.md").write_text("# Not an image")
    module = data_module(parquet_folder, batch_size=20, validation_split="test", streaming=streaming)
    module.prepare_data()
    batches = iter(loader_of(module))
    assert sorted(numbers(next(batches)) + numbers(next(batches))) == list(range(40))
    for loader in (module.val_dataloader(), module.test_dataloader(), module.predict_dataloader()):
        assert all_numbers(loader) == list(range(100, 110))


def test_parquet_file_is_the_split_train_and_can_be_sliced(data_module, parquet_folder):
    splits = {"split": "train[:-3]", "validation_split": "train[-3:]"}
    module = data_module(parquet_folder / "test.parquet", batch_size=7, **splits)
    assert sorted(numbers(first(module))) == list(range(100, 107))
    assert all_numbers(module.val_dataloader()) == [107, 108, 109]


@STREAMING
def test_folder_of_images(data_module, tmp_path, streaming):
    for number in range(12):
        folder = tmp_path / "images" / ("train" if number < 8 else "test") / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        numbered(number).save(folder / f"{number}.png")
    module = data_module(tmp_path / "images", batch_size=8, validation_split="test", streaming=streaming)
    assert sorted(numbers(first(module))) == list(range(8))
    assert sorted(all_numbers(module.val_dataloader())) == list(range(8, 12))


def test_column_is_found_or_named(data_module, tmp_path):
    a, b = ([encode(numbered(number + start)) for number in range(4)] for start in (0, 50))
    two = datasets.concatenate_datasets([dataset(a, "a"), dataset(b, "b")], axis=1)
    two.to_parquet(tmp_path / "two.parquet")
    module = data_module(tmp_path / "two.parquet", batch_size=4, image_column="b")
    assert sorted(numbers(first(module))) == [50, 51, 52, 53]
    with pytest.raises(ValueError, match=r"`image_column` must .* got None, .* Image are \['a', 'b'\]"):
        data_module(tmp_path / "two.parquet").setup("fit")


@STREAMING
def test_column_of_plain_bytes_can_be_named(data_module, tmp_path, streaming):
    """As parquet files look that `datasets` did not write."""
    files = [encode(numbered(number))["bytes"] for number in range(4)]
    datasets.Dataset.from_dict({"png": files}).to_parquet(tmp_path / "plain.parquet")
    module = data_module(tmp_path / "plain.parquet", image_column="png", batch_size=4, streaming=streaming)
    assert sorted(numbers(first(module))) == [0, 1, 2, 3]


@pytest.mark.skipif(not hasattr(FolderBasedBuilderConfig, "decode_num_threads"), reason="older `datasets` make none")
def test_streams_that_come_decoding_are_stopped_from_it(data_module, monkeypatch):
    """`load_dataset` makes such streams of image folders on the hub."""
    images = [encode(numbered(number), "JPEG", quality=95) for number in (0, 100, 200)]
    stream = dataset(images).to_iterable_dataset().decode(num_threads=2)
    undecoded = [example["img"]["bytes"] for example in undecoded_images(stream, None, "a test")]
    assert undecoded == [image["bytes"] for image in images]
    monkeypatch.setattr(datasets, "load_dataset", lambda **_: stream)
    seen = sorted(numbers(first(data_module("someone/somewhere", batch_size=3, streaming=True))))
    assert np.allclose(seen, [0, 100, 200], rtol=0, atol=3)  # what JPEG changes in a flat colour


@pytest.mark.parametrize("streaming", [False, True])
def test_hub_is_asked_for_what_was_said(data_module, monkeypatch, streaming):
    asked, images = [], dataset([encode(numbered(number)) for number in range(4)])
    monkeypatch.setattr(datasets, "load_dataset", lambda **kwargs: asked.append(kwargs) or images)
    module = data_module("some/where", streaming=streaming, name="small", split="extra", validation_split="test")
    module.prepare_data()
    assert len(asked) == (0 if streaming else 2)  # nothing to download for a stream
    module.setup("fit")
    expected = {"path": "some/where", "name": "small", "streaming": streaming}
    assert asked[-2:] == [{**expected, "split": "extra"}, {**expected, "split": "test"}]


@STREAMING
def test_max_images_takes_the_first_of_each_split(data_module, parquet_folder, streaming):
    settings = {"batch_size": 5, "validation_split": "test", "max_images": 5, "streaming": streaming}
    module = data_module(parquet_folder, **settings)
    batches = loader_of(module)
    for _ in range(2):
        assert sorted(numbers(next(iter(batches)))) == [0, 1, 2, 3, 4]
    assert all_numbers(module.val_dataloader()) == [100, 101, 102, 103, 104]


@pytest.mark.slow
def test_cifar10(data_module, cifar10):
    module = data_module(cifar10, image_size=32, split="test")
    module.setup("fit")
    assert module._train_data.shape == (10_000, 3, 32, 32)
    rows = datasets.load_dataset("parquet", data_files=str(cifar10 / "test.parquet"), split="train")
    for index in (0, 1, 4999, 9999):
        expected = np.asarray(rows[index]["img"].convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(module._train_data[index].numpy(), expected)


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
    assert sorted(order) == list(range(40))
    assert order != list(range(40))


def test_stream_settings_arrive(data_module):
    loader = loader_of(data_module(streaming=True, iterations_per_epoch=3, shuffle_buffer=5, decode_workers=4))
    assert (len(loader), loader.shuffle_buffer, loader.workers) == (3, 5, 4)


def test_a_later_stage_decodes_nothing_again(data_module, monkeypatch):
    module = data_module(validation_split="test")
    module.setup("fit")
    monkeypatch.setattr(module, "_decode", None)
    for stage in ("fit", "validate", "test", "predict"):
        module.setup(stage)


@STREAMING
def test_processes_together_see_what_one_sees(data_module, parquet_folder, streaming):
    """In each of the updates whose images a batch holds."""
    settings = {"seed": 1, "streaming": streaming, "validation_split": "test"}
    gan = SimpleNamespace(discriminator_steps=2)
    whole = first(data_module(parquet_folder, batch_size=8, **settings), fake_trainer(lightning_module=gan))
    modules = [data_module(parquet_folder, batch_size=4, **settings) for _ in range(2)]
    trainers = [fake_trainer(global_rank=rank, world_size=2, lightning_module=gan) for rank in range(2)]
    parts = [first(*pair).chunk(2) for pair in zip(modules, trainers, strict=True)]
    assert len(whole) == 16
    for update, *own in zip(whole.chunk(2), *parts, strict=True):
        assert torch.equal(update, torch.cat(own))
    assert [sum(map(len, module.val_dataloader())) for module in modules] == [5, 5]


@STREAMING
def test_images_go_to_the_device_of_the_strategy(data_module, streaming):
    meta = SimpleNamespace(root_device=torch.device("meta"), broadcast=lambda seed: seed)
    module = data_module(validation_split="test", streaming=streaming)
    assert first(module, fake_trainer(strategy=meta)).device.type == "meta"
    assert next(iter(module.val_dataloader())).device.type == "meta"


def test_no_threads_are_left_behind():
    module, before = ImageDataModule(image_size=8, streaming=True), own_threads()
    first(module)
    running = own_threads()
    next(iter(module.train_dataloader()))
    assert own_threads() == running > before
    module.teardown("fit")
    assert own_threads() == before


def test_a_state_reaches_a_loader_that_is_already_there(data_module):
    """FSDP restores late: by then a learning rate schedule may have asked for the loader."""
    module = data_module()
    loader = loader_of(module)
    module.load_state_dict({"position": 3, "seed": 9})
    assert loader.state_dict() == module.state_dict() == {"position": 3, "seed": 9}


def test_the_seed_is_torchs_and_that_of_the_first_process(data_module):
    seed_everything(123, verbose=False)
    module = data_module()
    assert loader_of(module).seed == 123
    assert loader_of(module, fake_trainer()).seed == 123
    process = SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda seed: seed - 100)
    assert loader_of(module, fake_trainer(strategy=process)).seed == 23
    assert loader_of(data_module(seed=0)).seed == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 0}, "`image_size` must be positive[,;] got 0"),
        ({"batch_size": -1}, "`batch_size` must be positive[,;] got -1"),
        ({"shuffle_buffer": 0}, "`shuffle_buffer` must be positive[,;] got 0"),
        ({"memory_limit_gb": 0.0}, r"`memory_limit_gb` must be positive[,;] got 0\.0"),
        ({"iterations_per_epoch": 0}, "`iterations_per_epoch` must be positive[,;] got 0"),
        ({"decode_workers": 0}, "`decode_workers` must be positive[,;] got 0"),
        ({"max_images": 0}, "`max_images` must be positive[,;] got 0"),
        ({"channels": 2}, "`channels` must be 1, 3 or None[,;] got 2"),
        ({"seed": -1}, "`seed` must not be negative[,;] got -1"),
        ({"name": "x"}, r"`name` must be in \[None\] for 'digits'[,;] got 'x'"),
        ({"split": "all"}, r"`split` must be in \['train'\] for 'digits'[,;] got 'all'"),
        ({"validation_split": "x"}, r"`validation_split` must be in \[None, 'test'\] for 'digits'[,;] got 'x'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=f"^argument {message}$"):
        ImageDataModule(**settings)


def write(folder):
    """Sources with something wrong about each."""
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(folder / "text.parquet")
    dataset([]).to_parquet(folder / "none.parquet")
    for name in ("empty", "grey"):
        (folder / name).mkdir()
    numbered(5, "L").save(folder / "grey/image.png")
    numbered(5).save(folder / "image.png")


COLUMN, MISSING = "`image_column` must .* got", "`source` must be 'digits', an existing parquet file or folder .* got"
OPENS = "`source` must be a dataset that opens[,;] got"


@STREAMING
@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("parquet", {"image_column": "x"}, rf"{COLUMN} 'x', where the columns are \['img', 'label'\]"),
        ("parquet", {"channels": 1}, r"`channels` must be 3, .* image of '.*' \(split 'train'\)[,;] got 1"),
        ("parquet", {"split": "x"}, f"{OPENS} '.*', split 'x', .* ValueError: "),
        ("parquet", {"name": "small"}, "`name` must be None for the local source '.*'[,;] got 'small'"),
        ("text.parquet", {}, rf"{COLUMN} None, where .* \['text'\] and those of type Image are \[\]$"),
        ("none.parquet", {}, r"`source` must .*none\.parquet"),
        ("grey", {}, "`channels` must be 1, as in the first image of .*[,;] got 3"),
        ("empty", {}, f"{OPENS} '.*', split 'train'"),
        ("image.png", {}, f"{MISSING} '.*image.png'"),
        ("./nowhere", {}, f"{MISSING} './nowhere'"),
        ("/nowhere/at/all", {}, f"{MISSING} '/nowhere/at/all'"),
        ("~/nowhere", {}, f"{MISSING} '~/nowhere'"),
        ("nowhere.parquet", {}, f"{MISSING} 'nowhere.parquet'"),
        ("no/body", {}, f"{OPENS} 'no/body'"),
    ],
)
def test_source_and_settings_that_disagree(parquet_folder, tmp_path, streaming, source, settings, message):
    write(tmp_path)
    source = str(tmp_path / source) if (tmp_path / source).exists() and source[0] not in "./~" else source
    with pytest.raises(ValueError, match=f"^argument {message}") as caught:
        ImageDataModule(source, streaming=streaming, **settings).setup("fit")
    assert "\n" not in str(caught.value)


def test_grey_images_in_grey(data_module, tmp_path):
    write(tmp_path)
    data_module(tmp_path / "grey", channels=1).setup("fit")


def test_broken_file_gives_the_reason_rather_than_where_it_was_met(parquet_folder):
    file = parquet_folder / "train.parquet"
    file.write_bytes(b"PAR1" + bytes(100) + file.read_bytes()[104:])
    with pytest.raises(ValueError, match=OPENS) as caught:
        ImageDataModule(str(file)).setup("fit")
    assert type(caught.value.__cause__) is DatasetGenerationError
    assert "DatasetGenerationError" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_reason_of_several_lines_takes_one(monkeypatch):
    def load_dataset(**_):
        raise ConnectionError("No route\n  to host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"which failed with ConnectionError: No route to host$") as caught:
        ImageDataModule("no/body").setup("fit")
    assert type(caught.value.__cause__) is ConnectionError


@pytest.mark.parametrize(
    ("settings", "trainer", "message"),
    [
        ({}, {"overfit_batches": 2}, r"`overfit_batches` of the Trainer must be 0, .* got 2 \(use `max_images`"),
        (
            {"max_images": 250},
            {"lightning_module": SimpleNamespace(discriminator_steps=4)},
            "`batch_size` must let 250 images fill an iteration[,;] got 64",
        ),
    ],
)
def test_trainers_that_do_not_fit(settings, trainer, message):
    with pytest.raises(ValueError, match=message):
        loader_of(ImageDataModule(image_size=8, **settings), fake_trainer(**trainer))


@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
def test_nothing_to_evaluate_on(stage):
    message = f"`validation_split` must name a split to {stage} on, such as 'test'[,;] got None"
    with pytest.raises(ValueError, match=message):
        ImageDataModule().setup(stage)


class Recorder(LightningModule):
    """Trains nothing much; remembers every batch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.discriminator_steps = 2
        self.seen = []
        self.validated = 0

    def training_step(self, batch, batch_index):
        self.seen.append(pixels(batch))
        return self.weight * batch.mean()

    def validation_step(self, batch, batch_index):
        self.validated += len(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    def __init__(self, hook, batches, path):
        self.hook, self.batches, self.path, self.count = hook, batches, path, 0

    def on_train_batch_end(self, trainer, *args):
        self.count += 1
        if self.hook == "batch" and self.count == self.batches:
            trainer.save_checkpoint(self.path)

    def on_train_epoch_end(self, trainer, *args):
        if self.hook == "epoch" and self.count == self.batches:
            trainer.save_checkpoint(self.path)


QUIET = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def fit(source, streaming=None, callbacks=(), ckpt_path=None, seed=4, validation_split=None, **limits):
    # 40 images, 2 updates of 6: an epoch of 3 iterations, in memory with 4 images left over.
    module = ImageDataModule(
        str(source),
        image_size=4,
        batch_size=6,
        seed=seed,
        streaming=streaming,
        iterations_per_epoch=3,
        shuffle_buffer=20,
        validation_split=validation_split,
    )
    recorder = Recorder()
    trainer = Trainer(accelerator="cpu", callbacks=list(callbacks), **QUIET, **limits)
    trainer.fit(recorder, module, ckpt_path=ckpt_path)
    return recorder


@pytest.mark.parametrize(
    ("hook", "batches", "streaming", "limits"),
    [
        ("batch", 2, True, {"max_steps": 8}),
        ("batch", 4, None, {"max_epochs": 3}),
        ("batch", 3, None, {"max_steps": 8}),
        ("batch", 3, True, {"max_epochs": 3}),
        ("epoch", 3, None, {"max_steps": 8}),
        ("epoch", 3, True, {"max_epochs": 3}),
    ],
)
def test_a_resumed_run_sees_what_an_uninterrupted_one_does(parquet_folder, tmp_path, streaming, limits, hook, batches):
    path = tmp_path / "run.ckpt"
    whole = fit(parquet_folder, streaming, [SaveAt(hook, batches, path)], **limits).seen
    resumed = fit(parquet_folder, streaming, ckpt_path=path, seed=None, **limits).seen
    assert len(whole) == (8 if "max_steps" in limits else 9)
    assert all(len(batch) == 12 for batch in whole)
    assert resumed == whole[batches:]


def test_reloading_the_loader_goes_on_in_the_order(parquet_folder):
    plain = fit(parquet_folder, max_epochs=2).seen
    assert plain[:3] != plain[3:]
    assert fit(parquet_folder, max_epochs=2, reload_dataloaders_every_n_epochs=1).seen == plain


def test_validation_is_run_or_skipped(parquet_folder):
    settings = {"max_epochs": 1, "num_sanity_val_steps": 0}
    assert fit(parquet_folder, validation_split="test", **settings).validated == 10
    assert fit(parquet_folder, **settings).validated == 0


def test_the_next_run_begins_at_the_beginning(parquet_folder):
    module = ImageDataModule(str(parquet_folder), image_size=4, batch_size=4, seed=0)
    first, second = Recorder(), Recorder()
    for recorder in (first, second):
        Trainer(accelerator="cpu", max_steps=2, **QUIET).fit(recorder, module)
    assert first.seen == second.seen
