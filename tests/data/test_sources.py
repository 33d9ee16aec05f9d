"""Where images come from: digits, files, folders, the hub; and sources that do not suit."""

import datasets
import numpy as np
import pytest
import torch
from datasets.exceptions import DatasetGenerationError
from datasets.packaged_modules.folder_based_builder.folder_based_builder import FolderBasedBuilderConfig
from helpers.images import all_numbers, dataset, encode, numbered, numbers
from sklearn.datasets import load_digits

from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.data.sources import undecoded_images

STREAMING = pytest.mark.parametrize("streaming", [None, True], ids=["memory", "stream"])


@STREAMING
def test_digits_are_those_of_scikit_learn_and_the_last_297_are_held_out(data_module, first, streaming):
    module = data_module(batch_size=1500, validation_split="test", streaming=streaming)
    expected = np.rint(load_digits().images * 255 / 16).reshape(1797, 64).tolist()
    batches = first(module), torch.cat([*module.val_dataloader()])
    train, held_out = (((batch + 1) * 127.5).round().flatten(1).tolist() for batch in batches)
    assert held_out == expected[1500:]
    assert sorted(train) == sorted(expected[:1500])
    if streaming is None:
        assert len(first(data_module(batch_size=1797))) == 1797


def test_digits_grow_smoothly(data_module, first):
    batch = first(data_module(image_size=32, max_images=64))
    assert batch.shape == (64, 1, 32, 32)
    # Blocks of 4x4 equal pixels are what a nearest neighbour would make of 8x8.
    assert not batch.equal(batch[..., ::4, ::4].repeat_interleave(4, 2).repeat_interleave(4, 3))


@STREAMING
def test_parquet_folder_has_the_splits_of_its_files(data_module, parquet_folder, streaming):
    (parquet_folder / "README.md").write_text("# Not an image")
    module = data_module(parquet_folder, batch_size=20, validation_split="test", streaming=streaming)
    module.prepare_data()
    module.setup("fit")
    batches = iter(module.train_dataloader())
    assert sorted(numbers(next(batches)) + numbers(next(batches))) == list(range(40))
    for loader in (module.val_dataloader(), module.test_dataloader(), module.predict_dataloader()):
        assert all_numbers(loader) == list(range(100, 110))


@STREAMING
def test_max_images_takes_the_first_of_each_split(data_module, parquet_folder, first, streaming):
    settings = {"batch_size": 5, "validation_split": "test", "max_images": 5, "streaming": streaming}
    module = data_module(parquet_folder, **settings)
    for _ in range(2):
        assert sorted(numbers(first(module))) == [0, 1, 2, 3, 4]
    assert all_numbers(module.val_dataloader()) == [100, 101, 102, 103, 104]


def test_parquet_file_is_the_split_train_and_can_be_sliced(data_module, parquet_folder, first):
    splits = {"split": "train[:-3]", "validation_split": "train[-3:]"}
    module = data_module(parquet_folder / "test.parquet", batch_size=7, **splits)
    assert sorted(numbers(first(module))) == list(range(100, 107))
    assert all_numbers(module.val_dataloader()) == [107, 108, 109]


@STREAMING
def test_folder_of_images(data_module, tmp_path, first, streaming):
    for number in range(12):
        folder = tmp_path / "images" / ("train" if number < 8 else "test") / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        numbered(number).save(folder / f"{number}.png")
    module = data_module(tmp_path / "images", batch_size=8, validation_split="test", streaming=streaming)
    assert sorted(numbers(first(module))) == list(range(8))
    assert sorted(all_numbers(module.val_dataloader())) == list(range(8, 12))


@STREAMING
def test_column_is_found_or_named(data_module, tmp_path, first, streaming):
    """Also one of plain bytes, as in parquet files that `datasets` did not write."""
    a, b = ([encode(numbered(number + start)) for number in range(4)] for start in (0, 50))
    plain = datasets.Dataset.from_dict({"c": [encode(numbered(number))["bytes"] for number in range(4)]})
    datasets.concatenate_datasets([dataset(a, "a"), dataset(b, "b"), plain], axis=1).to_parquet(tmp_path / "x.parquet")
    settings = {"batch_size": 4, "streaming": streaming}
    for column, expected in (("b", [50, 51, 52, 53]), ("c", [0, 1, 2, 3])):
        assert sorted(numbers(first(data_module(tmp_path / "x.parquet", image_column=column, **settings)))) == expected
    with pytest.raises(ValueError, match=r"`image_column` must .* got None, .* Image are \['a', 'b'\]"):
        data_module(tmp_path / "x.parquet", **settings).setup("fit")


@pytest.mark.skipif(not hasattr(FolderBasedBuilderConfig, "decode_num_threads"), reason="older `datasets` make none")
def test_streams_that_come_decoding_are_stopped_from_it(data_module, first, monkeypatch):
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


@pytest.mark.slow
def test_cifar10(data_module, cifar10):
    module = data_module(cifar10, image_size=32, split="test")
    module.setup("fit")
    assert module._train_data.shape == (10_000, 3, 32, 32)
    rows = datasets.load_dataset("parquet", data_files=str(cifar10 / "test.parquet"), split="train")
    for index in (0, 1, 4999, 9999):
        expected = np.asarray(rows[index]["img"].convert("RGB")).transpose(2, 0, 1)
        assert np.array_equal(module._train_data[index].numpy(), expected)


COLUMN, MISSING = "`image_column` must .* got", "`source` must be 'digits', an existing parquet file or folder .* got"
OPENS = "`source` must be a dataset that opens, got"


@pytest.fixture
def odd_sources(parquet_folder, tmp_path):
    """Sources with something wrong about each, and one of grey images."""
    datasets.Dataset.from_dict({"text": ["a"]}).to_parquet(tmp_path / "text.parquet")
    dataset([]).to_parquet(tmp_path / "none.parquet")
    for name in ("empty", "grey"):
        (tmp_path / name).mkdir()
    numbered(5, "L").save(tmp_path / "grey/image.png")
    numbered(5).save(tmp_path / "image.png")
    return tmp_path


# Every second one as a stream: in memory and streamed, it is the same look at the first image.
@pytest.mark.parametrize(
    ("source", "settings", "message"),
    [
        ("parquet", {"image_column": "x"}, rf"{COLUMN} 'x', where the columns are \['img', 'label'\]"),
        (
            "parquet",
            {"streaming": True, "channels": 1},
            r"`channels` must be 3, .* image of '.*' \(split 'train'\), got 1",
        ),
        ("parquet", {"split": "x"}, f"{OPENS} '.*', split 'x', .* ValueError: "),
        (
            "parquet",
            {"streaming": True, "name": "small"},
            "`name` must be None for the local source '.*', got 'small'",
        ),
        ("text.parquet", {}, rf"{COLUMN} None, where .* \['text'\] and those of type Image are \[\]$"),
        ("none.parquet", {"streaming": True}, r"`source` must .*none\.parquet"),
        ("grey", {}, "`channels` must be 1, as in the first image of .*, got 3"),
        ("empty", {"streaming": True}, f"{OPENS} '.*', split 'train'"),
        ("image.png", {}, f"{MISSING} '.*image.png'"),
        ("./nowhere", {"streaming": True}, f"{MISSING} './nowhere'"),
        ("/nowhere/at/all", {}, f"{MISSING} '/nowhere/at/all'"),
        ("~/nowhere", {"streaming": True}, f"{MISSING} '~/nowhere'"),
        ("nowhere.parquet", {}, f"{MISSING} 'nowhere.parquet'"),
        ("no/body", {"streaming": True}, f"{OPENS} 'no/body'"),
    ],
)
def test_source_and_settings_that_disagree(odd_sources, source, settings, message):
    known = source[0] not in "./~" and (odd_sources / source).exists()
    with pytest.raises(ValueError, match=f"^argument {message}") as caught:
        ImageDataModule(str(odd_sources / source) if known else source, **settings).setup("fit")
    assert "\n" not in str(caught.value)


def test_grey_images_in_grey(odd_sources, data_module):
    data_module(odd_sources / "grey", channels=1).setup("fit")


def test_the_reason_of_a_failure_takes_one_line(parquet_folder, monkeypatch):
    """And says why, rather than where it was met."""
    file = parquet_folder / "train.parquet"
    file.write_bytes(b"PAR1" + bytes(100) + file.read_bytes()[104:])
    with pytest.raises(ValueError, match=OPENS) as caught:
        ImageDataModule(str(file)).setup("fit")
    assert type(caught.value.__cause__) is DatasetGenerationError
    assert "DatasetGenerationError" not in str(caught.value)
    assert "\n" not in str(caught.value)

    def load_dataset(**_):
        raise ConnectionError("No route\n  to host")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(ValueError, match=r"which failed with ConnectionError: No route to host$") as caught:
        ImageDataModule("no/body").setup("fit")
    assert type(caught.value.__cause__) is ConnectionError
