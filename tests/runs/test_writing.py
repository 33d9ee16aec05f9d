"""Files that are written whole or not at all."""

import os

import pytest

from pcgan_lightning.runs import write_whole


@pytest.mark.parametrize("content", ["é\n", "é\n".encode(), lambda file: file.write("é\n".encode())])
def test_content_and_folders(content, tmp_path):
    path = tmp_path / "a" / "b" / "file.txt"
    for _ in range(2):
        write_whole(path, content)
        assert path.read_bytes() == b"\xc3\xa9\n"
        assert list(path.parent.iterdir()) == [path]


def test_failure_leaves_the_former_file_alone(tmp_path, monkeypatch):
    """Within the writing, and within the renaming."""
    path = tmp_path / "file"
    path.write_text("former")

    def fail(file, *_):
        if hasattr(file, "write"):
            file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole(path, fail)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space left"):
        write_whole(path, "new")
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_on_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """The file's content, then its name, then the folder's entry: what a power cut leaves is whole."""
    done, replace = [], os.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: done.append(os.path.realpath(f"/proc/self/fd/{descriptor}")))
    monkeypatch.setattr(os, "replace", lambda part, path: (done.append("replace"), replace(part, path)))
    write_whole(tmp_path / "file", "content")
    assert done == [str(tmp_path / "file.part"), "replace", str(tmp_path)]
