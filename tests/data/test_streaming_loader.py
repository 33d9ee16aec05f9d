from itertools import islice

import pytest
import torch
from helpers.images import encode, numbered, numbers, own_threads, stream

from pcgan_lightning.data import StreamingLoader


@pytest.fixture
def encoded():
    return [encode(numbered(number)) for number in range(22)]


@pytest.fixture
def loader_of():
    """Makes loaders, and closes them after the test."""
    loaders = []

    def build(encoded, num_shards=4, **settings):
        defaults = {
            "image_shape": (3, 4, 4),
            "iterations_per_epoch": 5,
            "shuffle_buffer": 8,
            "workers": 2,
            "device": "cpu",
            "batch_size": 4,
        }
        loaders.append(StreamingLoader(stream(encoded, num_shards), **{**defaults, **settings}))
        return loaders[-1]

    yield build
    for loader in loaders:
        loader.close()


def endless(loader):
    while True:
        yield from loader


def test_every_pass_has_all_images_in_an_order_of_its_own(encoded, loader_of):
    # 22 images in batches of 4: passes end inside a batch, and epochs (5 batches) inside a pass.
    batches = islice(endless(loader_of(encoded)), 17)
    seen = [number for batch in batches for number in numbers(batch)]
    passes = [seen[start : start + 22] for start in (0, 22, 44)]
    assert [sorted(numbers) for numbers in passes] == [list(range(22))] * 3
    assert passes[0] != passes[1] != passes[2] != passes[0]


def test_batches_are_as_wide_as_an_iteration_and_as_the_images_say(encoded, loader_of):
    batch = next(iter(loader_of(encoded, discriminator_steps=3)))
    assert batch.shape == (12, 3, 4, 4)
    assert batch.dtype == torch.float32
    # `numbered` puts 255 - number into the second channel and 7 into the third.
    green = ((batch[:, 1] + 1) * 127.5).round()
    assert torch.equal(green[:, 3, 3], 255 - torch.tensor(numbers(batch), dtype=torch.float32))
    assert ((batch[:, 2] + 1) * 127.5).round().unique().tolist() == [7]


def test_a_new_epoch_does_not_read_the_pass_again(encoded, loader_of, monkeypatch):
    loader = loader_of(encoded, iterations_per_epoch=2)
    passes, shuffle = [], loader.stream.shuffle
    monkeypatch.setattr(loader.stream, "shuffle", lambda **kwargs: passes.append(kwargs) or shuffle(**kwargs))
    for _ in range(4):
        list(loader)
    # 8 batches and no more than 5 ahead are 52 images: they begin the third pass at most.
    assert 2 <= len(passes) <= 3


def test_what_was_seen_is_not_decoded_again(encoded, loader_of):
    # A buffer of one image keeps the order of the stream, whose first 8 images cannot be decoded.
    broken = [{"bytes": b"broken", "path": None}] * 8 + encoded[8:16]
    settings = {"num_shards": 1, "shuffle_buffer": 1}
    loader = loader_of(broken, **settings)
    loader.load_state_dict({"position": 2, "seed": 0, "stream_pass": 0, "stream_offset": 8})
    assert numbers(next(iter(loader))) == [8, 9, 10, 11]
    with pytest.raises(ValueError, match="must hold readable images"):
        next(iter(loader_of(broken, **settings)))


def test_a_process_decodes_its_own_images_only(encoded, loader_of):
    broken = [{"bytes": b"broken", "path": None}] * 4 + encoded[4:8]
    settings = {"num_shards": 1, "shuffle_buffer": 1, "world_size": 2}
    assert numbers(next(iter(loader_of(broken, rank=1, **settings)))) == [4, 5, 6, 7]
    with pytest.raises(ValueError, match="must hold readable images"):
        next(iter(loader_of(broken, rank=0, **settings)))


def test_close_stops_the_threads_and_keeps_the_place(encoded, loader_of):
    before = own_threads()
    loader, other = loader_of(encoded), loader_of(encoded)
    batches, others = endless(loader), endless(other)
    next(batches), next(others)
    assert own_threads() > before
    loader.close()
    assert numbers(next(batches)) == numbers(next(others))
    loader.close()
    other.close()
    assert own_threads() == before


def test_an_empty_stream_is_refused(encoded, loader_of):
    loader = loader_of(encoded)
    loader.stream = loader.stream.take(0)
    with pytest.raises(ValueError, match=r"argument `stream` must hold at least one image, got none"):
        next(iter(loader))
