"""Which images are looked at at all: those of named formats, of a size that fits in memory."""

import io

import numpy as np
import PIL.EpsImagePlugin
import PIL.Image
import pytest
from helpers.images import encode, numbered

from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.data.decoding import FORMATS, decode_images, open_image
from pcgan_lightning.report.grids import _embed


@pytest.fixture
def started(monkeypatch):
    """Return a list that fills with the programs that PIL starts."""
    programs = []

    def start(*args, **kwargs):
        programs.append(args)
        raise OSError("a program was started")

    monkeypatch.setattr(PIL.EpsImagePlugin, "Ghostscript", start)
    monkeypatch.setattr("subprocess.Popen", start)
    return programs


def eps():
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(file, "EPS")
    return file.getvalue()


@pytest.mark.parametrize("format", FORMATS)
def test_named_formats_are_read(format, tmp_path):
    image = PIL.Image.fromarray(np.full((4, 4, 3), 128, np.uint8))
    # The name says nothing.
    (tmp_path / "image.eps").write_bytes(encode(image, format)["bytes"])
    decoded = decode_images([{"bytes": None, "path": str(tmp_path / "image.eps")}], (3, 4, 4))
    assert (decoded.int() - 128).abs().max() <= 2  # lossy formats round


@pytest.mark.parametrize("where", ["bytes", "path"])
def test_other_formats_are_not_tried(where, started, tmp_path):
    path = tmp_path / "image.png"
    path.write_bytes(eps())
    encoded = {"bytes": eps() if where == "bytes" else None, "path": str(path)}
    with pytest.raises(ValueError, match=r"must hold readable images, got .*image.png: it is none of PNG, JPEG, WEBP"):
        open_image(encoded)
    assert started == []


def test_a_folder_with_an_image_of_another_format(started, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for number in range(3):
        numbered(number, size=(8, 8)).save(folder / f"{number}.png")
    (folder / "3.png").write_bytes(eps())
    with pytest.raises(ValueError, match=r"got .*3\.png: it is none of"):
        ImageDataModule(source=str(folder), image_size=8).setup("fit")
    assert started == []


def test_a_sample_grid_of_another_format(started, tmp_path):
    path = tmp_path / "iteration_0000001.png"
    path.write_bytes(eps())
    with pytest.raises(ValueError, match=r"argument `runs` must hold readable sample grids, got .*: it is no PNG$"):
        _embed(1, path, 64)
    assert started == []


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("width", [50, 100])
def test_a_huge_image_is_refused_before_it_is_decoded(width, tmp_path, monkeypatch):
    """Up to twice its limit, PIL itself warns and decodes."""
    bomb = encode(PIL.Image.new("RGB", (width, 25)))["bytes"]
    (tmp_path / "bomb.png").write_bytes(bomb)
    monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=r"^argument `source` must hold readable images, got .* pixels.*$"):
        open_image({"bytes": bomb, "path": None})
    with pytest.raises(ValueError, match=r"^argument `runs` must hold readable sample grids, got .* pixels.*$"):
        _embed(1, tmp_path / "bomb.png", 64)
