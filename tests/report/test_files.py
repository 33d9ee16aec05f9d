"""What a report reads, refuses to read, and writes."""

import pytest
from helpers.run_folders import LOSS, make_run

from pcgan_lightning.report import report


def test_output_is_made_and_replaced_whole(tmp_path, monkeypatch, capsys):
    run, output = make_run(tmp_path / "run", rows=LOSS), tmp_path / "new/folder/report.html"
    for _ in range(2):
        report([run], output)
        assert capsys.readouterr().err == f"report of 1 run in {output}\n"
        assert output.read_text().startswith("<!DOCTYPE html>")
        output.write_text("old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report([run], output)
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]
    assert output.read_text() == "old"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metrics.csv", b"", "hold readable metrics, got .*/run/metrics.csv: its first line must name .*'step'$"),
        ("metrics.csv", b"step,loss/generator\n", "hold measurements, got .*/run/metrics.csv without any"),
        ("metrics.csv", b"loss/generator\n1.0\n", "hold readable metrics, got .*/run/metrics.csv: .*'step'$"),
        ("metrics.csv", b"step,loss/generator\n1,abc\n", "hold readable metrics, got .*/run/metrics.csv: .*'abc'"),
        ("metrics.csv", b"step,loss/generator\n1,2,3\n", "hold readable metrics, .*: line 2 must have 2 cells, got 3$"),
        ("metrics.csv", b"\xff\xfe\x00", "hold readable metrics"),
        ("config.yaml", b"a: [\n", "hold readable .*, got .*/run/config.yaml"),
        ("config.yaml", b"just text", "hold readable .*, got .*/run/config.yaml"),
        ("environment.json", b"{", "hold readable .*, got .*/run/environment.json"),
        ("evaluations/0.json", b"[]", "hold readable .*, got .*/run/evaluations/0.json"),
        ("samples/iteration_0000000.png", b"no picture", "hold readable .*, got .*/run/samples/iteration_0000000.png"),
    ],
)
def test_unreadable_files(tmp_path, name, content, message):
    run = make_run(tmp_path / "run", evaluations=[{}], grids=[0])
    (run / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"argument `runs` must {message}") as caught:
        report([run], tmp_path / "report.html")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("runs", "output", "error", "message"),
    [
        ([], "report.html", ValueError, "`runs` must name at least one run folder, got none"),
        (["run", "empty/../run"], "report.html", ValueError, "`runs` must name each run once, got .*/run twice"),
        (["run", "absent"], "report.html", FileNotFoundError, "`runs` must be run folders, got .*/absent"),
        (
            ["run", "empty"],
            "report.html",
            FileNotFoundError,
            "must be folders with a metrics.csv, got .*/empty without",
        ),
        (["run"], "empty", ValueError, "`output` must be a file, got the folder"),
    ],
)
def test_wrong_folders(tmp_path, runs, output, error, message):
    make_run(tmp_path / "run")
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=f"argument .*{message}"):
        report([tmp_path / run for run in runs], tmp_path / output)
