"""Orders of images: what holds for every loader, and what is each loader's own."""

from itertools import islice

import pytest
import torch
from helpers.images import all_numbers, encode, numbered, numbers, own_threads, stream

from pcgan_lightning.data import (
    MemoryLoader,
    MixtureLoader,
    SequentialLoader,
    StackedDigitsLoader,
    StreamingLoader,
    ring_of_modes,
)
from pcgan_lightning.data.loaders import TrainLoader, pass_seed

ENCODED = [encode(numbered(number)) for number in range(22)]
BROKEN = {"bytes": b"broken", "path": None}


def images(count):
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 2, 2)


def memory(**settings):
    return MemoryLoader(images(24), **settings)


def streaming(encoded=ENCODED, num_shards=4, **settings):
    # 22 images in batches of 4: passes end inside a batch, and epochs (5 batches) inside a pass.
    defaults = {"image_shape": (3, 4, 4), "iterations_per_epoch": 5, "shuffle_buffer": 8, "workers": 2, "device": "cpu"}
    return StreamingLoader(stream(encoded, num_shards), **defaults | settings)


def mixture(**settings):
    return MixtureLoader(ring_of_modes(), 0.06, 5, **settings)


def stacked(**settings):
    return StackedDigitsLoader(torch.arange(40, dtype=torch.uint8).view(40, 1, 1), 5, **settings)


@pytest.fixture
def maker():
    """Makes makers of loaders, and closes their threads after the test."""
    made = []

    def maker(kind):
        def make(*args, batch_size=4, seed=5, **settings):
            made.append(kind(*args, batch_size=batch_size, seed=seed, **settings))
            return made[-1]

        return make

    yield maker
    for loader in made:
        getattr(loader, "close", lambda: None)()


@pytest.fixture
def make_stream(maker):
    return maker(streaming)


@pytest.fixture(params=[memory, streaming, mixture, stacked], ids=lambda kind: kind.__name__)
def make(request, maker):
    return maker(request.param)


def endless(loader):
    while True:
        yield from loader


def batches(loader, count):
    return torch.cat(list(islice(endless(loader), count)))


def test_the_seed_fixes_the_order(make):
    order = batches(make(), 12)
    assert torch.equal(order, batches(make(), 12))
    assert not torch.equal(order, batches(make(seed=6), 12))


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_together_see_what_one_sees(make, processes):
    """In each of the updates whose images a batch holds."""
    alone = make(batch_size=2 * processes, discriminator_steps=2)
    parts = [make(batch_size=2, discriminator_steps=2, rank=rank, world_size=processes) for rank in range(processes)]
    assert {len(loader) for loader in parts} == {len(alone)}
    for whole, *own in islice(zip(alone, *parts, strict=True), 4):
        for update, *pieces in zip(whole.chunk(2), *(part.chunk(2) for part in own), strict=True):
            assert torch.equal(update, torch.cat(pieces))


# In memory an epoch has 6 batches, of the others 5; after 11 batches a pass of the stream has just ended.
@pytest.mark.parametrize("taken", [0, 1, 5, 6, 11, 13])
def test_resumes_exactly(make, taken):
    loader = make()
    running = endless(loader)
    for position in range(taken):
        next(running)
        assert loader.state_dict()["position"] == position + 1
    resumed = make(seed=99)
    next(iter(resumed))  # what it did before must not matter
    resumed.load_state_dict(loader.state_dict())
    again = endless(resumed)
    for _ in range(12):
        assert torch.equal(next(again), next(running))
        assert resumed.state_dict() == loader.state_dict()


def test_an_epoch_has_its_length_wherever_it_begins(make):
    loader = make()
    assert len(list(loader)) == len(loader) == loader.position
    next(iter(loader))
    assert len(list(loader)) == len(loader)


def test_iter_alone_takes_nothing_and_starts_no_thread(make):
    loader, before = make(), own_threads()
    iter(loader)
    iter(loader)
    assert own_threads() == before
    assert loader.position == 0
    assert torch.equal(batches(loader, 1), batches(make(), 1))


def test_foreign_state_is_refused(make):
    own = make().state_dict()
    foreign = {"position": 1, "seed": 0} if len(own) > 2 else {**own, "stream_pass": 0}
    with pytest.raises(ValueError, match=r"`state` must hold \['position', 'seed'.* for a \w+Loader, got \["):
        make().load_state_dict(foreign)


def test_pass_seeds_differ_for_neighbours():
    # (seed + epoch) would give seed 0 of epoch 1 the order of seed 1 of epoch 0.
    assert len({pass_seed(seed, epoch) for seed in (0, 1, 2, 2**64 - 1) for epoch in range(50)}) == 200


def test_base_leaves_reading_to_its_children():
    loader = TrainLoader(batch_size=2)
    for method in (loader.__len__, loader._next_batch):
        with pytest.raises(NotImplementedError):
            method()


class TestMemoryLoader:
    def test_an_epoch_is_a_permutation_and_the_next_another_one(self):
        loader = memory(batch_size=4, seed=5)
        first, second = all_numbers(loader), all_numbers(loader)
        assert len(loader) == 6
        assert sorted(first) == sorted(second) == list(range(24))
        assert second != first != list(range(24))

    def test_what_does_not_fill_an_iteration_is_dropped(self):
        loader = MemoryLoader(images(23), batch_size=3, discriminator_steps=2)
        seen = all_numbers(loader)
        assert (len(loader), len(seen), len(set(seen))) == (3, 18, 18)

    def test_too_few_images_are_refused(self):
        settings = {"batch_size": 2, "discriminator_steps": 3, "world_size": 2}
        MemoryLoader(images(12), **settings)
        message = r"`batch_size` must let 11 images fill an iteration, got 2 \(times 3 discr.*, times 2 processes\)"
        with pytest.raises(ValueError, match=message):
            MemoryLoader(images(11), **settings)

    def test_all_that_a_batch_needs_lies_on_the_device_of_the_images(self):
        """Places on the host would give the same batches, but each would wait for a copy."""
        loader = MemoryLoader(images(12).to("meta"), batch_size=2)
        assert next(iter(loader)).device.type == "meta"
        assert loader._order.device.type == loader._own_places.device.type == "meta"

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
    def test_the_order_is_that_of_the_host_on_cuda_and_no_batch_waits(self):
        batches = iter(MemoryLoader(images(24).cuda(), batch_size=4, seed=5))
        seen = [next(batches)]
        torch.cuda.set_sync_debug_mode("error")
        try:
            seen += list(batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert [numbers(b.cpu()) for b in seen] == [numbers(b) for b in memory(batch_size=4, seed=5)]


class TestSequentialLoader:
    def test_values_are_in_minus_one_to_one(self):
        batch = next(iter(SequentialLoader(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1), 3)))
        assert batch.dtype == torch.float32
        # One rounding in the division, one in the subtraction, of numbers no larger than 2.
        torch.testing.assert_close(batch.flatten(), torch.tensor([-1.0, -0.6, 1.0]), rtol=0, atol=4e-7)

    def test_keeps_the_order_and_the_last_batch(self):
        loader = SequentialLoader(images(11), batch_size=4)
        for _ in range(2):
            assert [numbers(batch) for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
        assert len(loader) == 3

    def test_processes_share_the_images_and_none_twice(self):
        loaders = [SequentialLoader(images(11), batch_size=2, rank=rank, world_size=3) for rank in range(3)]
        seen = [[numbers(batch) for batch in loader] for loader in loaders]
        assert [len(loader) for loader in loaders] == [len(own) for own in seen] == [2, 2, 2]
        assert sorted(number for own in seen for batch in own for number in batch) == list(range(11))
        assert sorted(number for own in seen for number in own[0]) == list(range(6))


class TestStreamingLoader:
    def test_every_pass_has_all_images_in_an_order_of_its_own(self, make_stream):
        seen = all_numbers(islice(endless(make_stream()), 17))
        passes = [seen[start : start + 22] for start in (0, 22, 44)]
        assert [sorted(numbers) for numbers in passes] == [list(range(22))] * 3
        assert passes[0] != passes[1] != passes[2] != passes[0]

    def test_batches_are_as_wide_as_an_iteration_and_as_the_images_say(self, make_stream):
        batch = next(iter(make_stream(discriminator_steps=3)))
        assert (batch.shape, batch.dtype) == ((12, 3, 4, 4), torch.float32)
        # `numbered` puts 255 - number into the second channel and 7 into the third.
        levels = ((batch + 1) * 127.5).round()
        assert torch.equal(levels[:, 1, 3, 3], 255 - torch.tensor(numbers(batch), dtype=torch.float32))
        assert levels[:, 2].unique().tolist() == [7]

    def test_a_new_epoch_does_not_read_the_pass_again(self, make_stream, monkeypatch):
        loader = make_stream(iterations_per_epoch=2)
        passes, shuffle = [], loader.stream.shuffle
        monkeypatch.setattr(loader.stream, "shuffle", lambda **kwargs: passes.append(kwargs) or shuffle(**kwargs))
        for _ in range(4):
            list(loader)
        # 8 batches and no more than 5 ahead are 52 images: they begin the third pass at most.
        assert 2 <= len(passes) <= 3

    def test_what_was_seen_or_is_anothers_is_not_decoded(self, make_stream):
        # A buffer of one image keeps the order of the stream, whose first images cannot be decoded.
        settings = {"num_shards": 1, "shuffle_buffer": 1}
        loader = make_stream([BROKEN] * 8 + ENCODED[8:16], **settings)
        loader.load_state_dict({"position": 2, "seed": 0, "stream_pass": 0, "stream_offset": 8})
        assert numbers(next(iter(loader))) == [8, 9, 10, 11]
        second = make_stream([BROKEN] * 4 + ENCODED[4:8], rank=1, world_size=2, **settings)
        assert numbers(next(iter(second))) == [4, 5, 6, 7]
        with pytest.raises(ValueError, match="must hold readable images"):
            next(iter(make_stream([BROKEN] * 4 + ENCODED[4:8], rank=0, world_size=2, **settings)))

    def test_close_stops_the_threads_and_keeps_the_place(self, make_stream):
        before = own_threads()
        loader, other = make_stream(), make_stream()
        batches, others = endless(loader), endless(other)
        next(batches), next(others)
        assert own_threads() > before
        loader.close()
        assert numbers(next(batches)) == numbers(next(others))
        loader.close()
        other.close()
        assert own_threads() == before

    def test_an_empty_stream_is_refused(self, make_stream):
        loader = make_stream()
        loader.stream = loader.stream.take(0)
        with pytest.raises(ValueError, match=r"argument `stream` must hold at least one image, got none"):
            next(iter(loader))
