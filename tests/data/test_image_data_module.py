from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilderConfig
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback
from sklearn.datasets import load_digits

from pcgan_lightning.data import ImageDataModule, MemoryLoader, StreamingLoader
from pcgan_lightning.data.sources import undecoded_images


def loader_of(module, trainer=None):
    module.trainer = trainer
    module.setup("fit")
    return module.train_dataloader()


def pixels(batch):
    """The uint8 images of a batch in [-1, 1], as lists that sort and compare."""
    return ((batch + 1) * 127.5).round().to(torch.uint8).flatten(1).tolist()


def fake_trainer(**changed):
    strategy = SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda seed: seed)
    module = SimpleNamespace()
    trainer = {"strategy": strategy, "lightning_module": module, "overfit_batches": 0}
    return SimpleNamespace(**{**trainer, "global_rank": 0, "world_size": 1, **changed})


class TestDigits:
    def test_are_those_of_scikit_learn(self):
        (batch,) = loader_of(ImageDataModule(image_size=8, batch_size=1797))
        expected = np.rint(load_digits().images * 255 / 16).astype(np.uint8)
        assert sorted(pixels(batch)) == sorted(expected.reshape(1797, 64).tolist())

    @pytest.mark.parametrize("streaming", [None, True])
    def test_validation_holds_out_the_last_297(self, streaming):
        module = ImageDataModule(image_size=8, batch_size=1500, validation_split="test", streaming=streaming)
        train = next(iter(loader_of(module)))
        validation = torch.cat(list(module.val_dataloader()))
        expected = np.rint(load_digits().images * 255 / 16).astype(np.uint8).reshape(1797, 64).tolist()
        assert pixels(validation) == expected[1500:]
        assert sorted(pixels(train)) == sorted(expected[:1500])

    def test_grow_smoothly(self):
        batch = next(iter(loader_of(ImageDataModule(image_size=32))))
        assert batch.shape == (64, 1, 32, 32)
        # Blocks of 4x4 equal pixels are what a nearest neighbour would make of 8x8.
        assert not torch.equal(batch, batch[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))

    def test_can_be_had_in_yaml(self):
        parser = ArgumentParser()
        parser.add_class_arguments(ImageDataModule, "data")
        settings = {"image_size": 16, "streaming": True, "max_images": 70, "seed": None, "memory_limit_gb": 1}
        config = parser.parse_object({"data": settings})
        module = parser.instantiate_classes(config).data
        assert module.image_shape == (1, 16, 16)
        assert next(iter(loader_of(module))).shape == (64, 1, 16, 16)
        module.teardown("fit")


class TestSources:
    def test_parquet_folder_has_the_splits_of_its_files(self, make, parquet_folder):
        (parquet_folder / "README.md").write_text("# Not an image")
        module = ImageDataModule(str(parquet_folder), image_size=4, batch_size=40, validation_split="test")
        module.prepare_data()
        (train,) = loader_of(module)
        assert sorted(make.numbers(train)) == list(range(40))
        assert make.all_numbers(module.val_dataloader()) == list(range(100, 110))
        assert make.all_numbers(module.test_dataloader()) == list(range(100, 110))
        assert make.all_numbers(module.predict_dataloader()) == list(range(100, 110))

    def test_parquet_file_is_the_split_train_and_can_be_sliced(self, make, parquet_folder):
        source = str(parquet_folder / "test.parquet")
        module = ImageDataModule(source, image_size=4, split="train[:-3]", validation_split="train[-3:]", batch_size=7)
        (train,) = loader_of(module)
        assert sorted(make.numbers(train)) == list(range(100, 107))
        assert make.all_numbers(module.val_dataloader()) == [107, 108, 109]

    @pytest.mark.parametrize("streaming", [None, True])
    def test_folder_of_images(self, make, tmp_path, streaming):
        for number in range(12):
            folder = tmp_path / "images" / ("train" if number < 8 else "test") / f"class{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            make.numbered(number).save(folder / f"{number}.png")
        module = ImageDataModule(
            str(tmp_path / "images"), image_size=4, batch_size=8, validation_split="test", streaming=streaming
        )
        train = next(iter(loader_of(module)))
        module.teardown("fit")
        assert sorted(make.numbers(train)) == list(range(8))
        assert sorted(make.all_numbers(module.val_dataloader())) == list(range(8, 12))

    def test_streamed_parquet(self, make, parquet_folder):
        module = ImageDataModule(
            str(parquet_folder), image_size=4, batch_size=20, validation_split="test", streaming=True
        )
        batches = iter(loader_of(module))
        assert sorted(make.numbers(next(batches)) + make.numbers(next(batches))) == list(range(40))
        assert make.all_numbers(module.val_dataloader()) == list(range(100, 110))
        module.teardown("fit")

    def test_column_is_found_or_named(self, make, tmp_path):
        images = [make.encode(make.numbered(number)) for number in range(4)]
        other = [make.encode(make.numbered(number + 50)) for number in range(4)]
        two = datasets.concatenate_datasets([make.dataset(images, "a"), make.dataset(other, "b")], axis=1)
        source = str(tmp_path / "two.parquet")
        two.to_parquet(source)
        (batch,) = loader_of(ImageDataModule(source, image_size=4, batch_size=4, image_column="b"))
        assert sorted(make.numbers(batch)) == [50, 51, 52, 53]
        with pytest.raises(ValueError, match=r"`image_column` must .* got None, .* Image are \['a', 'b'\]"):
            ImageDataModule(source).setup("fit")

    def test_column_of_plain_bytes_can_be_named(self, make, tmp_path):
        """As parquet files look that `datasets` did not write."""
        files = [make.encode(make.numbered(number))["bytes"] for number in range(4)]
        source = str(tmp_path / "plain.parquet")
        datasets.Dataset.from_dict({"png": files}).to_parquet(source)
        for streaming in (None, True):
            settings = {"image_size": 4, "batch_size": 4, "streaming": streaming}
            module = ImageDataModule(source, image_column="png", **settings)
            assert sorted(make.numbers(next(iter(loader_of(module))))) == [0, 1, 2, 3]
            module.teardown("fit")

    @pytest.mark.skipif(
        not hasattr(FolderBasedBuilderConfig, "decode_num_threads"),
        reason="older `datasets` make none",
    )
    def test_streams_that_come_decoding_are_stopped_from_it(self, make, monkeypatch):
        """`load_dataset` makes such streams of image folders on the hub."""
        images = [make.encode(make.numbered(number), "JPEG", quality=95) for number in (0, 100, 200)]
        stream = make.dataset(images).to_iterable_dataset().decode(num_threads=2)
        undecoded = [example["img"]["bytes"] for example in undecoded_images(stream, None, "a test")]
        assert undecoded == [image["bytes"] for image in images]
        monkeypatch.setattr(datasets, "load_dataset", lambda **_: stream)
        module = ImageDataModule("someone/somewhere", image_size=4, batch_size=3, streaming=True)
        seen = sorted(make.numbers(next(iter(loader_of(module)))))
        module.teardown("fit")
        assert np.allclose(seen, [0, 100, 200], rtol=0, atol=3)  # what JPEG changes in a flat colour

    @pytest.mark.parametrize("streaming", [False, True])
    def test_hub_is_asked_for_what_was_said(self, make, monkeypatch, streaming):
        asked, images = [], make.dataset([make.encode(make.numbered(number)) for number in range(4)])
        monkeypatch.setattr(datasets, "load_dataset", lambda **kwargs: asked.append(kwargs) or images)
        settings = {"name": "small", "split": "extra", "validation_split": "test"}
        ImageDataModule("someone/somewhere", streaming=streaming, **settings).prepare_data()
        assert len(asked) == (0 if streaming else 2)  # nothing to download for a stream
        ImageDataModule("someone/somewhere", streaming=streaming, **settings).setup("fit")
        expected = {"path": "someone/somewhere", "name": "small", "streaming": streaming}
        assert asked[-2:] == [{**expected, "split": "extra"}, {**expected, "split": "test"}]

    @pytest.mark.parametrize("streaming", [None, True])
    def test_max_images_takes_the_first_of_each_split(self, make, parquet_folder, streaming):
        module = ImageDataModule(
            str(parquet_folder),
            image_size=4,
            batch_size=5,
            validation_split="test",
            max_images=5,
            streaming=streaming,
        )
        batches = loader_of(module)
        assert sorted(make.numbers(next(iter(batches)))) == [0, 1, 2, 3, 4]
        assert sorted(make.numbers(next(iter(batches)))) == [0, 1, 2, 3, 4]
        assert make.all_numbers(module.val_dataloader()) == [100, 101, 102, 103, 104]
        module.teardown("fit")

    def test_cifar10(self, cifar10):
        module = ImageDataModule(str(cifar10), split="test")
        module.setup("fit")
        images = module._train_data
        assert images.shape == (10_000, 3, 32, 32)
        rows = datasets.load_dataset("parquet", data_files=str(cifar10 / "test.parquet"), split="train")
        for index in (0, 1, 4999, 9999):
            expected = np.asarray(rows[index]["img"].convert("RGB")).transpose(2, 0, 1)
            assert np.array_equal(images[index].numpy(), expected)


class TestMemoryOrStream:
    # 1797 digits of 8x8 are 115,008 bytes.
    @pytest.mark.parametrize(
        ("streaming", "limit", "kind"),
        [
            (None, 1.151e-4, MemoryLoader),
            (None, 1.150e-4, StreamingLoader),
            (False, 1.150e-4, MemoryLoader),
            (True, 8.0, StreamingLoader),
        ],
    )
    def test_what_fits_is_kept(self, streaming, limit, kind):
        module = ImageDataModule(image_size=8, streaming=streaming, memory_limit_gb=limit)
        assert type(loader_of(module)) is kind

    def test_what_does_not_fit_is_streamed_whole(self, make, parquet_folder):
        module = ImageDataModule(str(parquet_folder), image_size=4, batch_size=20, memory_limit_gb=1e-9)
        batches = iter(loader_of(module))
        order = make.numbers(next(batches)) + make.numbers(next(batches))
        module.teardown("fit")
        assert sorted(order) == list(range(40))
        assert order != list(range(40))

    def test_stream_settings_arrive(self):
        module = ImageDataModule(streaming=True, iterations_per_epoch=3, shuffle_buffer=5, decode_workers=4)
        loader = loader_of(module)
        assert (len(loader), loader.shuffle_buffer, loader.workers) == (3, 5, 4)

    def test_a_later_stage_decodes_nothing_again(self, monkeypatch):
        module = ImageDataModule(validation_split="test", image_size=8)
        module.setup("fit")
        monkeypatch.setattr(module, "_decode", None)
        for stage in ("fit", "validate", "test", "predict"):
            module.setup(stage)


class TestLoaderFollowsTheTrainer:
    @pytest.mark.parametrize("streaming", [None, True])
    def test_a_batch_has_the_images_of_all_updates(self, streaming):
        trainer = fake_trainer(lightning_module=SimpleNamespace(discriminator_steps=3))
        module = ImageDataModule(image_size=8, batch_size=5, streaming=streaming)
        assert len(next(iter(loader_of(module, trainer)))) == 15
        module.teardown("fit")

    @pytest.mark.parametrize("streaming", [None, True])
    def test_processes_together_see_what_one_sees(self, parquet_folder, streaming):
        settings = {"image_size": 4, "seed": 1, "streaming": streaming, "validation_split": "test"}
        alone = ImageDataModule(str(parquet_folder), batch_size=8, **settings)
        whole = next(iter(loader_of(alone, fake_trainer())))
        alone.teardown("fit")
        parts, validation = [], []
        for rank in range(2):
            module = ImageDataModule(str(parquet_folder), batch_size=4, **settings)
            parts.append(next(iter(loader_of(module, fake_trainer(global_rank=rank, world_size=2)))))
            validation.append(torch.cat(list(module.val_dataloader())))
            module.teardown("fit")
        assert torch.equal(whole, torch.cat(parts))
        assert [len(images) for images in validation] == [5, 5]

    def test_images_go_to_the_device_of_the_strategy(self):
        meta = SimpleNamespace(root_device=torch.device("meta"), broadcast=lambda seed: seed)
        module = ImageDataModule(validation_split="test", image_size=8)
        assert next(iter(loader_of(module, fake_trainer(strategy=meta)))).device.type == "meta"
        assert next(iter(module.val_dataloader())).device.type == "meta"
        module = ImageDataModule(image_size=8, streaming=True)
        assert next(iter(loader_of(module, fake_trainer(strategy=meta)))).device.type == "meta"
        module.teardown("fit")

    def test_no_threads_are_left_behind(self, make):
        module, before = ImageDataModule(image_size=8, streaming=True), make.own_threads()
        next(iter(loader_of(module)))
        running = make.own_threads()
        next(iter(module.train_dataloader()))
        assert make.own_threads() == running > before
        module.teardown("fit")
        assert make.own_threads() == before

    def test_a_state_reaches_a_loader_that_is_already_there(self):
        """FSDP restores late: by then a learning rate schedule may have asked for the loader."""
        module = ImageDataModule(image_size=8)
        loader = loader_of(module)
        module.load_state_dict({"position": 3, "seed": 9})
        assert loader.state_dict() == module.state_dict() == {"position": 3, "seed": 9}

    def test_the_seed_is_torchs_and_that_of_the_first_process(self):
        seed_everything(123, verbose=False)
        module = ImageDataModule(image_size=8)
        assert loader_of(module).seed == 123
        assert loader_of(module, fake_trainer()).seed == 123
        first = SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda seed: seed - 100)
        assert loader_of(module, fake_trainer(strategy=first)).seed == 23
        assert loader_of(ImageDataModule(image_size=8, seed=0)).seed == 0

    def test_overfit_batches_are_refused(self):
        message = r"`overfit_batches` of the Trainer must be 0, .* got 2 \(use `max_images`"
        with pytest.raises(ValueError, match=message):
            loader_of(ImageDataModule(image_size=8), fake_trainer(overfit_batches=2))


class TestErrors:
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"image_size": 0}, "`image_size` must be positive; got 0"),
            ({"batch_size": -1}, "`batch_size` must be positive; got -1"),
            ({"shuffle_buffer": 0}, "`shuffle_buffer` must be positive; got 0"),
            ({"memory_limit_gb": 0.0}, r"`memory_limit_gb` must be positive; got 0\.0"),
            ({"iterations_per_epoch": 0}, "`iterations_per_epoch` must be positive; got 0"),
            ({"decode_workers": 0}, "`decode_workers` must be positive; got 0"),
            ({"max_images": 0}, "`max_images` must be positive; got 0"),
            ({"channels": 2}, "`channels` must be 1, 3 or None; got 2"),
            ({"seed": -1}, "`seed` must not be negative; got -1"),
            ({"name": "x"}, r"`name` must be in \[None\] for 'digits'; got 'x'"),
            ({"split": "all"}, r"`split` must be in \['train'\] for 'digits'; got 'all'"),
            (
                {"validation_split": "x"},
                r"`validation_split` must be in \[None, 'test'\] for 'digits'; got 'x'",
            ),
        ],
    )
    def test_constructor(self, settings, message):
        with pytest.raises(ValueError, match=f"^argument {message}$"):
            ImageDataModule(**settings)

    @pytest.mark.parametrize("streaming", [None, True])
    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (
                {"image_column": "x"},
                r"`image_column` must .* got 'x', where the columns are \['img', 'label'\]",
            ),
            (
                {"channels": 1},
                r"`channels` must be 3, as in the first image of '.*' \(split 'train'\); got 1",
            ),
            ({"split": "x"}, "`source` must be a dataset that opens; got '.*', split 'x', .* ValueError: "),
            ({"name": "small"}, "`name` must be None for the local source '.*'; got 'small'"),
        ],
    )
    def test_source_and_settings_that_disagree(self, parquet_folder, streaming, settings, message):
        module = ImageDataModule(str(parquet_folder), streaming=streaming, **settings)
        with pytest.raises(ValueError, match=f"^argument {message}") as caught:
            module.setup("fit")
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("streaming", [None, True])
    def test_no_column_of_images(self, tmp_path, streaming):
        datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "text.parquet")
        message = r"`image_column` must .* got None, where .* \['text'\] and those of type Image are \[\]$"
        with pytest.raises(ValueError, match=message):
            ImageDataModule(str(tmp_path / "text.parquet"), streaming=streaming).setup("fit")

    def test_grey_source_asked_for_in_colour(self, make, tmp_path):
        folder = tmp_path / "grey"
        folder.mkdir()
        make.numbered(5, "L").save(folder / "image.png")
        with pytest.raises(ValueError, match=r"`channels` must be 1, as in the first image of .*; got 3"):
            ImageDataModule(str(folder)).setup("fit")
        ImageDataModule(str(folder), channels=1).setup("fit")

    @pytest.mark.parametrize("streaming", [None, True])
    def test_empty_source(self, make, tmp_path, streaming):
        make.dataset([]).to_parquet(tmp_path / "empty.parquet")
        with pytest.raises(ValueError, match=r"^argument `source` must .*empty\.parquet"):
            ImageDataModule(str(tmp_path / "empty.parquet"), streaming=streaming).setup("fit")

    @pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "~/nowhere", "nowhere.parquet"])
    def test_missing_file(self, source):
        with pytest.raises(ValueError, match=f"`source` must be 'digits', an existing .* got '{source}'"):
            ImageDataModule(source).setup("fit")

    def test_file_that_is_no_parquet(self, make, tmp_path):
        make.numbered(5).save(tmp_path / "image.png")
        with pytest.raises(ValueError, match="`source` must be 'digits', an existing parquet file or folder"):
            ImageDataModule(str(tmp_path / "image.png")).setup("fit")

    def test_empty_folder(self, tmp_path):
        with pytest.raises(ValueError, match=r"`source` must be a dataset that opens; got '.*', split 'train'"):
            ImageDataModule(str(tmp_path)).setup("fit")

    def test_broken_file_gives_the_reason_rather_than_where_it_was_met(self, parquet_folder):
        file = parquet_folder / "train.parquet"
        file.write_bytes(b"PAR1" + bytes(100) + file.read_bytes()[104:])
        with pytest.raises(ValueError, match="`source` must be a dataset that opens; got ") as caught:
            ImageDataModule(str(file)).setup("fit")
        assert type(caught.value.__cause__) is DatasetGenerationError
        assert "DatasetGenerationError" not in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("streaming", [None, True])
    def test_unreachable_hub(self, streaming):
        with pytest.raises(ValueError, match="must be a dataset that opens; got 'no/body'") as caught:
            ImageDataModule("no/body", streaming=streaming).setup("fit")
        assert caught.value.__cause__ is not None

    def test_reason_of_several_lines_takes_one(self, monkeypatch):
        def load_dataset(**_):
            raise ConnectionError("No route\n  to host")

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        with pytest.raises(ValueError, match=r"which failed with ConnectionError: No route to host$"):
            ImageDataModule("no/body").setup("fit")

    def test_too_few_images_for_an_iteration(self):
        trainer = fake_trainer(lightning_module=SimpleNamespace(discriminator_steps=4))
        with pytest.raises(ValueError, match="`batch_size` must let 250 images fill an iteration; got 64"):
            loader_of(ImageDataModule(image_size=8, max_images=250), trainer)

    @pytest.mark.parametrize("stage", ["validate", "test", "predict"])
    def test_nothing_to_evaluate_on(self, stage):
        with pytest.raises(
            ValueError, match=f"`validation_split` must name a split to {stage} on, such as 'test'; got None"
        ):
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


@pytest.mark.parametrize("streaming", [None, True], ids=["memory", "stream"])
@pytest.mark.parametrize("limits", [{"max_steps": 8}, {"max_epochs": 3}], ids=["steps", "epochs"])
@pytest.mark.parametrize(("hook", "batches"), [("batch", 2), ("batch", 4), ("batch", 3), ("epoch", 3)])
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
