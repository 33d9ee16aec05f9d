"""benchmarks/mode_coverage.py: its plan, what it makes of runs, and that it goes on where it was."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def board(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("mode_coverage")


@pytest.fixture
def analysis(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("mode_coverage_analysis")


def row(method, seed, modes, condition=2.0, steps=(500, 1000), **more):
    series = {"modes_covered": dict(zip(steps, modes, strict=True)), "condition": dict.fromkeys((0, *steps), condition)}
    series |= {name: {} for name in ("generator_gradient", "learning")}
    setting = {"method": method, "seed": seed, "depth": 0, "rate": 2e-4, "loss": "HingeLoss", "linear_relu": True}
    return setting | {"modes_covered": modes[-1], "kl_to_uniform": 1.0, "series": series} | more


def test_the_plan_holds_every_method_and_each_run_once(board):
    runs = list(board.planned())
    assert len({run.name for run in runs}) == len(runs) == 8 * 5 + 10 + 3 * 3 * 6
    assert {run.method for run in runs} == set(board.METHODS) == {p.stem for p in ROOT.glob("configs/stacked_digits/*")}
    assert [run.name for run in runs[:4]] == ["sn_1", "fpc7_1", "sn_2", "fpc7_2"]  # what is tested comes first
    run = board.Run("sn", 2, depth=6, rate=1e-3, loss="NonSaturatingLoss")
    assert run.name == "sn_depth6_rate0.001_NonSaturatingLoss_2"
    changes = " ".join(run.command()[6:])
    assert "--model.discriminator.extra_convolutions 3" in changes
    assert "--model.generator_optimizer.lr 0.001 --model.discriminator_optimizer.lr 0.001" in changes
    assert changes.endswith("--model.loss NonSaturatingLoss")


def test_paired_test_on_known_ranks(analysis):
    """All five differences positive: the exact p-value is 1 of the 2^5 signs; one negative of rank 1: 2 of them."""
    sn = [row("sn", seed, [0, 100]) for seed in range(5)]
    better = [row("fpc7", seed, [0, 200 + seed]) for seed in range(5)]
    assert analysis.paired_test(sn + better, "fpc7", "sn")["p_value"] == pytest.approx(1 / 32)
    better[0] = row("fpc7", 0, [0, 99])
    found = analysis.paired_test(sn + better, "fpc7", "sn")
    assert found["differences"] == [-1, 101, 102, 103, 104]
    assert found["p_value"] == pytest.approx(2 / 32)
    assert analysis.paired_test(sn, "fpc7", "sn") is None


def test_medians_and_equal_seconds(analysis):
    rows = [row("sn", seed, [10 * seed, 100 * seed]) for seed in (1, 2, 3)] + [row("fpc7", 1, [5, 900])]
    found = analysis.analyze(rows, 1000, {"sn": 0.02, "fpc7": 0.03})
    summary = {cell["method"]: cell for cell in found["summary"]}
    assert summary["sn"]["seeds"] == [1, 2, 3]
    assert summary["sn"]["modes_covered"] == {"median": 200, "minimum": 100, "maximum": 300}
    # In the seconds of 1,000 iterations of SN, FPC-7 makes 667: its measurement at 500 counts.
    assert found["equal_seconds"]["fpc7"]["median"] == 5
    assert found["equal_seconds"]["sn"]["median"] == 200


def test_collapses_and_what_foretells_them(analysis):
    steps = (500, 1000, 1500, 2000, 2500)
    series = dict(zip(steps, (400, 800, 300, 200, 700), strict=True))
    # From 800 to 300; at 300 it is down already.
    assert [step for step, falls in analysis.collapses(series) if falls] == [1000]
    one = row("sn", 1, [400, 800, 300, 200, 700], steps=steps)
    one["series"]["condition"] = {0: 1.0, 500: 2.0, 1000: 9.0, 1500: 3.0, 2000: 10.0}
    found = analysis.foretelling([one])
    assert (found["collapses"], found["others"]) == (1, 3)
    assert found["probability_larger"] == pytest.approx(2 / 3)  # 9 is above 2 and 3, below 10


def test_correlation_is_of_ranks(analysis):
    rows = [row("sn", n, [0, 100 * n], condition=math.exp(-n)) for n in range(1, 6)]
    (early,) = [r for r in analysis.correlations(rows, 1000) if r["mechanism"] == "condition" and r["until"] == 1000][
        :1
    ]
    assert early["correlation"] == pytest.approx(-1)
    assert early["runs"] == 5


@pytest.mark.slow
def test_one_command_from_nothing_to_results(tmp_path):
    """Tiny; called again, nothing is trained again; an unfinished run is not among the results."""

    def run(*more):
        call = [sys.executable, ROOT / "benchmarks" / "mode_coverage.py", "--central", "--methods", "sn"]
        call += ["--seeds", "1", "--iterations", "4", "--runs", tmp_path / "runs", *more]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            list(map(str, call)), capture_output=True, text=True, env=environment, timeout=500, check=False
        )
        assert done.returncode == 0, done.stderr
        return done

    assert "0 of 1 runs have finished; not yet: sn_1" in run("--collect").stderr
    first = run()
    assert "| SN | shallow, 0.0002, hinge | 1 |" in first.stdout
    again = run()
    assert again.stdout == first.stdout
    assert "$ pcgan" not in again.stderr
    began = json.loads((tmp_path / "runs" / "sn_1" / "environment.json").read_text())
    assert began["threads"] == 1
