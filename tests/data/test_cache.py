"""Decoded images on disk: read where they are whole and of the same images, decoded otherwise."""

import os

import pytest
import torch

from pcgan_lightning.data import cache, image_data_module


@pytest.fixture
def images(data_module, parquet_folder, monkeypatch):
    """Return all training images of a fresh data module, and how often something was decoded for it."""
    decoded = []

    def counted(*arguments, original=cache.decode_dataset):
        decoded.append(arguments)
        return original(*arguments)

    monkeypatch.setattr(cache, "CACHED_FROM", 40)  # as many as there are
    for module in (cache, image_data_module):
        monkeypatch.setattr(module, "decode_dataset", counted)

    def images(**settings):
        decoded.clear()
        module = data_module(parquet_folder, batch_size=4, **settings)
        module.setup("fit")
        return module._train_data, len(decoded)

    return images


def test_a_second_start_reads(images):
    first, decoded = images()
    again, not_decoded = images()
    assert (decoded, not_decoded) == (1, 0)
    assert torch.equal(first, again)
    assert again.dtype == torch.uint8
    assert (again.shape, again.is_contiguous()) == ((40, 3, 4, 4), True)


@pytest.mark.parametrize("settings", [{"image_size": 5}, {"max_images": 39}, {"cache": False}], ids=str)
def test_other_images_are_decoded(images, settings):
    """Of another size, fewer of them than are cached, or without a cache."""
    images()
    pixels, decoded = images(**settings)
    assert decoded == 1
    assert pixels.shape[-1] == settings.get("image_size", 4)


def test_images_that_changed_are_decoded(images, parquet_folder):
    images()
    (parquet_folder / "test.parquet").replace(parquet_folder / "train.parquet")
    assert images()[1] == 1


def test_few_images_are_not_cached(images, monkeypatch):
    monkeypatch.setattr(cache, "CACHED_FROM", 41)
    images()
    assert not cache.default_cache().exists()


DAMAGES = {
    "a bit": lambda content: content[:700] + bytes([content[700] ^ 1]) + content[701:],
    "the checksum": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "cut": lambda content: content[:-1],
    "longer": lambda content: content + b"0",
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entries_are_told_of_and_replaced(damage, images, caplog):
    expected, _ = images()
    (entry,) = cache.default_cache().iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(DAMAGES[damage](whole))
    found, decoded = images()
    assert decoded == 1
    assert torch.equal(found, expected)
    assert "damaged" in caplog.text
    assert entry.read_bytes() == whole


def test_an_entry_of_other_images_is_not_taken(images):
    """A whole file, but by another's name."""
    images()
    (entry,) = cache.default_cache().iterdir()
    images(image_size=8)  # four times as many bytes
    (other,) = {*cache.default_cache().iterdir()} - {entry}
    key, shape = entry.stem, torch.Size([40, 3, 4, 4])
    assert cache._read(entry, key, shape) is not None
    entry.replace(other)
    assert cache._read(other, other.stem, shape) is None


def test_a_folder_in_its_place_is_no_error(images):
    expected, _ = images()
    (entry,) = cache.default_cache().iterdir()
    entry.unlink()
    entry.mkdir()
    assert torch.equal(images()[0], expected)


def test_a_cache_that_cannot_be_written_is_no_error(images, tmp_path, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PCGAN_CACHE", str(tmp_path / "file"))
    pixels, decoded = images()
    assert (len(pixels), decoded) == (40, 1)
    assert "can't be" in caplog.text


def test_what_is_done_with_the_images_does_not_reach_the_file(images):
    images()
    mapped, _ = images()
    mapped.zero_()
    assert images()[0].any()


def test_only_whole_files_are_left(images):
    images()
    (entry,) = cache.default_cache().iterdir()
    assert entry.suffix == ".images"
    assert str(os.getpid()) not in entry.name


def test_other_processes_write_nothing(images, monkeypatch):
    monkeypatch.setattr(cache.rank_zero_only, "rank", 1)
    images()
    assert not cache.default_cache().exists()
