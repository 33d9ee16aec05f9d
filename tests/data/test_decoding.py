import threading
import time

import datasets
import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest
import torch
from helpers.images import dataset, encode, numbered, own_threads, stream

from pcgan_lightning.data.decoding import color_channels, decode_dataset, decode_images, map_ahead, open_image


def noise(height, width, channels=3):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return PIL.Image.fromarray(pixels[..., 0] if channels == 1 else pixels)


def channels_first(image):
    pixels = np.asarray(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1).copy())


def upside_down():
    exif = PIL.Image.Exif()
    exif[PIL.Image.ExifTags.Base.Orientation] = 3
    return exif


NOISE = channels_first(noise(8, 6))


@pytest.mark.parametrize(
    ("format", "options", "expected"),
    [
        ("PNG", {}, NOISE),
        ("WEBP", {"lossless": True}, NOISE),
        ("BMP", {}, NOISE),
        ("PNG", {"exif": upside_down()}, NOISE.flip(1, 2)),
        ("JPEG", {"quality": 75}, None),
    ],
)
def test_image_of_the_wanted_size_keeps_its_exact_values(tmp_path, format, options, expected):
    """Those that PIL decodes; from bytes or from a path, turned as EXIF says."""
    encoded = encode(noise(8, 6), format, **options)
    (tmp_path / "image").write_bytes(encoded["bytes"])
    expected = channels_first(PIL.Image.open(tmp_path / "image")) if expected is None else expected
    decoded = decode_images([encoded, {"bytes": None, "path": str(tmp_path / "image")}], (3, 8, 6))
    assert decoded.dtype == torch.uint8
    assert torch.equal(decoded, expected.expand(2, 3, 8, 6))


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 128), (16, 8)])
def test_other_sizes_are_resized_by_the_shorter_side_and_cropped_in_the_centre(width, height):
    # The scale is a whole number or its inverse, so the crop falls on whole pixels of the resized image.
    image, scale = noise(height, width), 32 / min(width, height)
    resized = image.resize((round(width * scale), round(height * scale)), PIL.Image.Resampling.BICUBIC)
    left, top = (resized.width - 32) // 2, (resized.height - 32) // 2
    expected = channels_first(resized.crop((left, top, left + 32, top + 32)))
    decoded = decode_images([encode(image)], (3, 32, 32))[0]
    # PIL rounds after each of its two passes, whose order may differ: 0.5 * 1.25 + 0.5 levels either way, for
    # 1.25 is the sum of bicubic's absolute weights. (Cropping before resizing would differ by 18 levels.)
    assert (decoded.int() - expected.int()).abs().max() <= 2


def test_stray_images_are_converted():
    colored, grey = numbered(200), numbered(90, "L")
    palette = numbered(30).convert("P", palette=PIL.Image.Palette.ADAPTIVE)
    clear = PIL.Image.new("RGBA", (4, 4), (30, 225, 7, 0))
    rgb = decode_images([encode(image) for image in (colored, grey, palette, clear)], (3, 4, 4))
    assert rgb[:, :, 0, 0].tolist() == [[200, 55, 7], [90, 90, 90], [30, 225, 7], [30, 225, 7]]
    luma = round((200 * 299 + 55 * 587 + 7 * 114) / 1000)  # ITU-R 601-2, as PIL documents `convert("L")`
    decoded = decode_images([encode(colored), encode(grey)], (1, 4, 4))
    assert decoded[:, 0, 0, 0].tolist() == [luma, 90]


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3), ("YCbCr", 3)],
)
def test_color_channels(mode, channels):
    assert color_channels(PIL.Image.new(mode, (2, 2))) == channels


DEEP = PIL.Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16))


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (encode(DEEP), "8-bit images, got one of .* 'I;16'"),
        ({"bytes": b"no image", "path": "bad.png"}, "readable images, got bad.png: "),
        (None, "readable images, got one without a path: "),
    ],
)
def test_images_that_are_refused(encoded, message):
    with pytest.raises(ValueError, match=f"argument `source` must hold {message}"):
        open_image(encoded)


def test_dataset_and_stream_decode_alike_and_in_order():
    # More than two chunks, the last incomplete.
    encoded = [encode(numbered(index % 251, size=(2, 2))) for index in range(600)]
    undecoded = dataset(encoded).cast_column("img", datasets.Image(decode=False))
    decoded = decode_dataset(undecoded, (3, 2, 2), workers=3, description="test")
    assert decoded[:, 0, 0, 0].tolist() == [index % 251 for index in range(600)]
    assert torch.equal(decode_dataset(stream(encoded), (3, 2, 2), 3, "test"), decoded)


class TestMapAhead:
    def test_keeps_the_order_whatever_takes_longest(self):
        def slow_if_even(number):
            time.sleep(0.004 * (number % 2 == 0))
            return number**2

        assert list(map_ahead(slow_if_even, range(20), workers=4)) == [number**2 for number in range(20)]

    def test_works_in_several_threads_at_once(self):
        both = threading.Barrier(2, timeout=10)  # passed only by two threads at a time

        def wait_for_another(number):
            both.wait()
            return number

        assert list(map_ahead(wait_for_another, range(4), workers=2)) == [0, 1, 2, 3]

    def test_reads_a_few_items_ahead_and_no_more(self):
        read = []
        results = map_ahead(lambda number: number, (read.append(i) or i for i in range(1000)), workers=2)
        for _ in range(10):
            next(results)
        results.close()
        assert 10 <= len(read) <= 15

    def test_reads_on_while_all_workers_work(self):
        ahead = threading.Event()

        def items():
            yield 0
            yield 1
            ahead.set()
            yield 2

        results = map_ahead(lambda number: ahead.wait(timeout=10), items(), workers=1)
        assert list(results) == [True, True, True]

    def test_close_waits_for_its_threads(self):
        before = own_threads()
        results = map_ahead(lambda number: time.sleep(0.01), iter(range(100)), workers=3)
        next(results)
        assert own_threads() > before
        results.close()
        assert own_threads() == before

    @pytest.mark.parametrize("where", ["reading", "working"])
    def test_errors_come_through(self, where):
        def items():
            yield 1
            if where == "reading":
                raise KeyError("reading")
            yield 0

        def work(number):
            if number == 0:
                raise KeyError("working")
            return number

        results = map_ahead(work, items(), workers=2)
        assert next(results) == 1
        with pytest.raises(KeyError, match=where):
            next(results)
