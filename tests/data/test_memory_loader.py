import pytest
import torch
from helpers.images import numbers

from pcgan_lightning.data import MemoryLoader, SequentialLoader
from pcgan_lightning.data.loaders import TrainLoader, pass_seed


def images(count):
    return torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(count, 1, 2, 2)


def test_values_are_in_minus_one_to_one():
    batch = next(iter(SequentialLoader(torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1), 3)))
    assert batch.dtype == torch.float32
    # One rounding in the division, one in the subtraction, of numbers no larger than 2.
    torch.testing.assert_close(batch.flatten(), torch.tensor([-1.0, -0.6, 1.0]), rtol=0, atol=4e-7)


def test_an_epoch_is_a_permutation_and_the_next_another_one():
    loader = MemoryLoader(images(24), batch_size=4, seed=5)
    first, second = ([number for batch in loader for number in numbers(batch)] for _ in range(2))
    assert len(loader) == 6
    assert sorted(first) == sorted(second) == list(range(24))
    assert first != second
    assert first != list(range(24))


def test_pass_seeds_differ_for_neighbours():
    # (seed + epoch) would give seed 0 of epoch 1 the order of seed 1 of epoch 0.
    seeds = {pass_seed(seed, epoch) for seed in (0, 1, 2, 2**64 - 1) for epoch in range(50)}
    assert len(seeds) == 200


def test_what_does_not_fill_an_iteration_is_dropped():
    loader = MemoryLoader(images(23), batch_size=3, discriminator_steps=2)
    seen = [number for batch in loader for number in numbers(batch)]
    assert len(loader) == 3
    assert len(seen) == len(set(seen)) == 18


def test_all_that_a_batch_needs_lies_on_the_device_of_the_images():
    """Places on the host would give the same batches, but each would wait for a copy."""
    loader = MemoryLoader(images(12).to("meta"), batch_size=2)
    assert next(iter(loader)).device.type == "meta"
    assert loader._order.device.type == loader._own_places.device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_order_is_that_of_the_host_on_cuda_and_no_batch_waits():
    host = MemoryLoader(images(24), batch_size=4, seed=5)
    device = MemoryLoader(images(24).cuda(), batch_size=4, seed=5)
    batches = iter(device)
    seen = [next(batches)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        seen += list(batches)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert [numbers(batch.cpu()) for batch in seen] == [numbers(batch) for batch in host]


def test_too_few_images_are_refused():
    MemoryLoader(images(12), batch_size=2, discriminator_steps=3, world_size=2)
    message = r"`batch_size` must let 11 images fill an iteration, got 2 \(times 3 discr.*, times 2 processes\)"
    with pytest.raises(ValueError, match=message):
        MemoryLoader(images(11), batch_size=2, discriminator_steps=3, world_size=2)


def test_base_leaves_reading_to_its_children():
    loader = TrainLoader(batch_size=2)
    for method in (loader.__len__, loader._next_batch):
        with pytest.raises(NotImplementedError):
            method()


class TestSequentialLoader:
    def test_keeps_the_order_and_the_last_batch(self):
        loader = SequentialLoader(images(11), batch_size=4)
        for _ in range(2):
            assert [numbers(batch) for batch in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
        assert len(loader) == 3

    def test_processes_share_the_images_and_none_twice(self):
        loaders = [SequentialLoader(images(11), batch_size=2, rank=rank, world_size=3) for rank in range(3)]
        seen = [number for loader in loaders for batch in loader for number in numbers(batch)]
        assert sorted(seen) == list(range(11))
        assert [len(loader) for loader in loaders] == [2, 2, 2]
        # The first batches together are the first images.
        first = [number for loader in loaders for number in numbers(next(iter(loader)))]
        assert sorted(first) == list(range(6))
