"""What a run says about itself, and its table of measurements: cut and damaged files are refused by name."""

import json

import pytest
import yaml

from pcgan_lightning.runs import check_records, read_numbers, read_record, read_rows, write_config

RULE = "argument `run_dir` must hold readable files"
CONFIG = "model:\n  lr: 0.0002\n  width: 16\nrun_dir: runs/one\n"


def test_a_cut_configuration_is_refused(tmp_path):
    """Wherever it was cut: most of the pieces are YAML, and some are mappings."""
    path = tmp_path / "config.yaml"
    write_config(path, CONFIG)
    whole = path.read_bytes()
    assert yaml.safe_load(whole) == read_record(path, RULE) == yaml.safe_load(CONFIG)
    mappings = 0
    for length in range(len(whole) - 1):  # without its last newline it is whole
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"^{RULE}, got .*/config.yaml") as error:
            read_record(path, RULE)
        assert "\n" not in str(error.value)
        mappings += "whose end is missing" in str(error.value)
    assert mappings > 20


def test_a_cut_environment_is_refused(tmp_path):
    path = tmp_path / "environment.json"
    whole = json.dumps({"threads": 1, "versions": {"torch": "2.5"}}, indent=2)
    for length in range(len(whole)):
        path.write_text(whole[:length])
        with pytest.raises(ValueError, match=f"^{RULE}, got .*/environment.json"):
            read_record(path, RULE)


@pytest.mark.parametrize("name", ["config.yaml", "config_1.yaml", "environment.json", "environment_2.json"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00\x80", b"[1, 2]", b"a: [", b"1" * 5000])
def test_the_records_of_all_parts_of_a_run_are_looked_at(name, content, tmp_path):
    write_config(tmp_path / "config.yaml", CONFIG)
    (tmp_path / "environment.json").write_text("{}")
    check_records(tmp_path, RULE)
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"^{RULE}, got .*/{name}"):
        check_records(tmp_path, RULE)


def test_a_configuration_of_before_has_no_marks(tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG)
    check_records(tmp_path, RULE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "its first line must name each column once, and a column 'step'"),
        (b"a,step", "its first line must name each column once, and a column 'step'"),
        (b"a,b\n1,2\n", "its first line must name each column once, and a column 'step'"),
        (b"1.5,3\n2.5,4\n", "its first line must name each column once, and a column 'step'"),
        (b"a,a,step\n1,2,3\n", "its first line must name each column once, and a column 'step'"),
        (b"a,step\n1,1\n2\n", "line 3 must have 2 cells, got 1"),
        (b"a,step\n1,1,5\n2,2\n", "line 2 must have 2 cells, got 3"),
        (b"a,step\n1,1\n2,\n", "line 3 must have a step, got ''"),
        (b"a,step\n1,1.5\n", "line 2 must have a step, got '1.5'"),
        (b"a,step\n1,-1\n", "line 2 must have a step, got '-1'"),
        (b"a,step\n1,1e999\n", "line 2 must have a step, got '1e999'"),
        (b"a,step\n1,x\n", "could not convert string to float: 'x'"),
        (b"a,step\n1,1\n\0\0\0\n2,2\n", "line 3 must have 2 cells, got 1"),
        (b"\x89PNG\r\n\x1a\n", "'utf-8' codec can't decode"),
    ],
)
def test_damaged_metrics_are_named(content, message, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^argument `runs` must hold readable metrics, got .*/metrics.csv: ") as error:
        read_rows(path, "runs")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_cut_metrics_keep_their_whole_rows(tmp_path):
    """Wherever they were cut; without a whole first line they are no table."""
    path = tmp_path / "metrics.csv"
    lines = [b"loss,step\r\n", b"0.5,1\r\n", b",2\r\n", b"-1e-05,3\r\n"]
    rows = [{"loss": 0.5, "step": 1}, {"step": 2}, {"loss": -1e-5, "step": 3}]
    for length in range(len(lines[0]), sum(map(len, lines)) + 1):
        path.write_bytes(b"".join(lines)[:length])
        whole = path.read_bytes().count(b"\n") - 1
        assert read_numbers(path) == rows[:whole]


def test_numbers_are_numbers(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("a,b,step\nTrue,inf,1\nFalse,abc,2\n")
    assert read_rows(path)[1] == {"a": "False", "b": "abc", "step": "2"}
    with pytest.raises(ValueError, match=r"^argument `run_dir` must hold readable metrics, got .*metrics.csv: .*'abc'"):
        read_numbers(path)
    path.write_text("a,b,step\nTrue,inf,1\n")
    assert read_numbers(path) == [{"a": 1.0, "b": float("inf"), "step": 1.0}]
