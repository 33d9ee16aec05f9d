"""What holds for every loader: the seed fixes the order, processes share it, and a state brings it back."""

from itertools import islice

import pytest
import torch
from helpers.images import encode, numbered, own_threads, stream

from pcgan_lightning.data import MemoryLoader, MixtureLoader, StreamingLoader, ring_of_modes

ENCODED = [encode(numbered(number)) for number in range(22)]


def memory(**settings):
    return MemoryLoader(torch.arange(24, dtype=torch.uint8).view(24, 1, 1, 1).expand(24, 1, 2, 2), **settings)


def streaming(**settings):
    # 22 images in batches of 4: passes end inside a batch, and epochs (5 batches) inside a pass.
    defaults = {"image_shape": (3, 4, 4), "iterations_per_epoch": 5, "shuffle_buffer": 8, "workers": 2, "device": "cpu"}
    return StreamingLoader(stream(ENCODED, 4), **defaults | settings)


def mixture(**settings):
    return MixtureLoader(ring_of_modes(), 0.06, 5, "cpu", **settings)


LOADERS = {"memory": memory, "stream": streaming, "mixture": mixture}


@pytest.fixture(params=LOADERS)
def make(request):
    """Makes loaders of one kind, and closes their threads after the test."""
    made = []

    def build(batch_size=4, seed=5, **settings):
        made.append(LOADERS[request.param](batch_size=batch_size, seed=seed, **settings))
        return made[-1]

    yield build
    for loader in made:
        getattr(loader, "close", lambda: None)()


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
    parts = [make(2, discriminator_steps=2, rank=rank, world_size=processes) for rank in range(processes)]
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
    with pytest.raises(ValueError, match=r"`state` must hold \['position', 'seed'.* for a \w+Loader[,;] got \["):
        make().load_state_dict(foreign)
