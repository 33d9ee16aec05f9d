"""benchmarks/pcgan_figures.py: what its pictures show."""

import argparse
import importlib
import json

import numpy as np
import pytest
from helpers import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("pcgan_figures")


def test_figure_3_shows_targets_polynomials_and_both_fits(script):
    targets, published, fits = script.figure3().axes
    for cutoff, target, polynomial in zip((0.8, 0.6, 0.4, 0.3), targets.lines, published.lines, strict=True):
        x, y = target.get_data()
        np.testing.assert_allclose(y, np.minimum(x / cutoff, 1))
        assert polynomial.get_ydata()[x == 1] == pytest.approx(1)
    goal, *found = (line.get_ydata() for line in fits.lines)
    errors = [np.abs(values - goal).max() for values in found]
    # Least squares, the same with a bounded slope, sup norm, the same with a bounded slope.
    assert errors[2] < errors[0] < errors[1]
    assert errors[2] < errors[3] < errors[1]
    assert [float(line.get_label().rpartition(" ")[2]) for line in fits.lines[1:]] == pytest.approx(errors, abs=6e-4)
    assert all(np.diff(values).min() > -1e-8 for values in (found[1], found[3]))


def test_figure_4_shows_the_saved_times(script):
    left, right = script.figure4().axes
    saved = json.loads((script.RESULTS / "preconditioning_overhead.json").read_text())["result"]["ratio"]
    assert [bar.get_width() for bar in left.patches if bar.get_width() in saved.values()] == list(saved.values())
    seconds = json.loads((script.RESULTS / "mode_coverage_seconds.json").read_text())["result"]
    labels = [text.get_text() for text in right.get_yticklabels()]
    widths = dict(zip(labels, (bar.get_width() for bar in right.patches), strict=False))
    assert widths["FPC-9"] == seconds["fpc9"] / seconds["sn"]
    assert widths["SN"] == 1


def test_figure_5_is_of_what_was_measured(script, tmp_path, monkeypatch):
    arguments = argparse.Namespace(methods=["fpc3"], iterations=3, every=2, runs=tmp_path)
    found = script.measure(arguments)
    assert found["fpc3"]["iteration"] == [0, 2, 3]
    assert all(0.5 < min(values) <= max(values) <= 1 + 1e-5 for values in found["fpc3"]["ratios"].values())
    monkeypatch.setattr(script, "read", lambda name: {"result": found})
    (axis,) = script.figure5().axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axis.lines}
    assert {layer: drawn[layer] for layer in found["fpc3"]["ratios"]} == found["fpc3"]["ratios"]
