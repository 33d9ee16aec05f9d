"""Cached statistics that were damaged never give a figure of their own."""

import numpy as np
import pytest
import torch

from pcgan_lightning.metrics import reference_statistics

FIELDS = ("mean", "covariance", "features", "count")


@pytest.fixture
def cached(features, make_images, as_real, tmp_path):
    """A function that returns the statistics of 20 images, the file that keeps them, and what they should be."""
    ask = lambda: reference_statistics(as_real(make_images(20)), features, tmp_path)  # noqa: E731
    expected = ask()
    (entry,) = tmp_path.iterdir()
    return ask, entry, expected


def flip_a_bit(content, rng):
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    return content


def flip_a_bit_at_the_front(content, rng):
    """In the checksum, or in safetensors' header."""
    content[rng.integers(300)] ^= 1 << rng.integers(8)
    return content


def truncate(content, rng):
    return content[: rng.integers(len(content))]


def zero_a_range(content, rng):
    start = rng.integers(len(content) - 64)
    content[start : start + rng.integers(64, len(content))] = 0
    return content


def lengthen(content, rng):
    return np.append(content, rng.integers(0, 256, rng.integers(1, 100), dtype=np.uint8))


def exchange_halves(content, rng):
    return np.roll(content, rng.integers(1, len(content)))


DAMAGES = (flip_a_bit, flip_a_bit_at_the_front, truncate, zero_a_range, lengthen, exchange_halves)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_files_are_told_of_and_computed_again(damage, cached, caplog):
    """16 times 6 kinds, and the four below."""
    ask, entry, expected = cached
    whole = entry.read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(16):
        damaged = damage(np.frombuffer(whole, np.uint8).copy(), rng).tobytes()
        assert damaged != whole
        entry.write_bytes(damaged)
        caplog.clear()
        found = ask()
        for field in FIELDS:
            assert torch.equal(getattr(found, field), getattr(expected, field))
        assert caplog.messages == [f"cached statistics are damaged and are computed again: {entry}"]
        assert entry.read_bytes() == whole


def put_an_empty_file(entry, other):
    entry.write_bytes(b"")


def put_another_entry(entry, other):
    entry.write_bytes(other.read_bytes())


def put_a_folder(entry, other):
    entry.unlink()
    entry.mkdir()


def put_an_unreadable_file(entry, other):
    """A link to itself: permissions would not keep the superuser out."""
    entry.unlink()
    entry.symlink_to(entry)


REPLACEMENTS = (put_an_empty_file, put_another_entry, put_a_folder, put_an_unreadable_file)


@pytest.mark.parametrize("replace", REPLACEMENTS)
def test_something_else_in_its_place(replace, cached, features, make_images, as_real, tmp_path, caplog):
    ask, entry, expected = cached
    reference_statistics(as_real(make_images(20, seed=1)), features, tmp_path)
    (other,) = set(tmp_path.iterdir()) - {entry}
    replace(entry, other)
    found = ask()
    for field in FIELDS:
        assert torch.equal(getattr(found, field), getattr(expected, field))
    assert "computed again" in caplog.messages[0]
    assert len(list(tmp_path.iterdir())) == 2  # no draft is left
