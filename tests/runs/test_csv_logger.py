"""metrics.csv: whole at every moment, and one series over all parts of a run."""

import os

import pytest

from pcgan_lightning.runs import RunCSVLogger, read_rows


@pytest.fixture
def logger(tmp_path):
    return RunCSVLogger(str(tmp_path))


def values(folder):
    return [{key: float(value) for key, value in row.items()} for row in read_rows(folder / "metrics.csv")]


def test_new_columns_keep_all_rows(logger, tmp_path):
    rows = [{"b": 1.0}, {"b": 2.0}, {"a": 3.0}, {"b": 4.0, "c": 5.0}, {"a": 6.0}]
    for step, row in enumerate(rows):
        logger.log_metrics(row, step)
    assert values(tmp_path) == [{"step": step} | row for step, row in enumerate(rows)]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "a,b,c,step"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_nothing_logged_is_no_row(logger, tmp_path):
    logger.log_metrics({}, 0)
    assert not (tmp_path / "metrics.csv").exists()
    logger.log_metrics({"a": 1.0}, 1)
    logger.log_metrics({}, 2)
    assert values(tmp_path) == [{"step": 1, "a": 1}]


def test_killed_while_rewriting(logger, tmp_path, monkeypatch):
    """What a new column makes be written again stays as it was until the new file is whole."""
    logger.log_metrics({"a": 1.0}, 1)
    before = (tmp_path / "metrics.csv").read_bytes()

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        logger.log_metrics({"b": 2.0}, 2)
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_failed_rewriting_is_done_again(logger, tmp_path, monkeypatch):
    logger.log_metrics({"b": 1.0}, 1)
    with monkeypatch.context() as full:
        full.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            logger.log_metrics({"a": 2.0}, 2)
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]
    logger.log_metrics({"a": 3.0}, 3)
    assert values(tmp_path) == [{"step": 1, "b": 1}, {"step": 2, "a": 2}, {"step": 3, "a": 3}]


def test_torn_append_is_written_over(logger, tmp_path):
    """A row that did not fit on a full disk, and then did."""
    logger.log_metrics({"a": 1.0}, 1)
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("2.")
    logger.log_metrics({"a": 2.5}, 2)
    assert values(tmp_path) == [{"step": 1, "a": 1}, {"step": 2, "a": 2.5}]


@pytest.mark.parametrize("torn", ["7", "7.5,3", "7.5,3\r"])
def test_unfinished_last_line_is_dropped(torn, tmp_path):
    first = RunCSVLogger(str(tmp_path))
    for step in (1, 2):
        first.log_metrics({"a": step / 2}, step)
    with (tmp_path / "metrics.csv").open("a", newline="") as file:
        file.write(torn)
    assert values(tmp_path) == [{"step": 1, "a": 0.5}, {"step": 2, "a": 1}]
    second = RunCSVLogger(str(tmp_path))
    second.continue_from(5)
    second.log_metrics({"a": 1.5}, 3)
    assert values(tmp_path) == [{"step": 1, "a": 0.5}, {"step": 2, "a": 1}, {"step": 3, "a": 1.5}]


def test_rows_up_to_the_checkpoint_are_kept(tmp_path):
    first = RunCSVLogger(str(tmp_path))
    for step in range(1, 6):
        first.log_metrics({"a": float(step)}, step)
        first.log_metrics({"b": -float(step)}, step)
    second = RunCSVLogger(str(tmp_path))
    second.continue_from(3)
    # The first row to come may be of a later step than the one after the checkpoint.
    second.log_metrics({"a": 50.0}, 5)
    kept = [{"step": step, key: sign * step} for step in (1, 2, 3) for key, sign in (("a", 1), ("b", -1))]
    assert values(tmp_path) == [*kept, {"step": 5, "a": 50}]


def test_run_that_begins_anew_keeps_nothing(tmp_path):
    RunCSVLogger(str(tmp_path)).log_metrics({"a": 1.0}, 0)
    RunCSVLogger(str(tmp_path)).log_metrics({"b": 2.0}, 3)
    assert values(tmp_path) == [{"step": 3, "b": 2}]
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "b,step"


def test_run_that_logs_nothing_more_leaves_the_file(tmp_path):
    RunCSVLogger(str(tmp_path)).log_metrics({"a": 1.0}, 4)
    again = RunCSVLogger(str(tmp_path))
    again.continue_from(4)
    again.to_disk()
    again.finalize("success")
    assert values(tmp_path) == [{"step": 4, "a": 1}]
