"""The page of runs: its tables, its drawings, and what it refuses to read."""

import base64
import io
import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from helpers.run_folders import LAYERS, LOSS, Page, make_run, page_of, preconditioned, spectrum_rows
from PIL import Image

from pcgan_lightning.report import report
from pcgan_lightning.report.charts import spans, thin, windows
from pcgan_lightning.report.run_data import read_runs
from pcgan_lightning.report.tables import final_scores, format_numbers, results, score_title

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def test_tables_of_results_settings_and_environment(tmp_path):
    protocol = "1,000 images against 2,000."
    scored = [
        {"scores": {"classifier_fid": fid, "precision": precision}, "protocol": protocol, "iteration": 2000}
        for fid, precision in ((20.0, 0.7), (12.345, 0.6))
    ]
    sn, fpc = (preconditioned("FixedPreconditioning", degree=degree, layers="all") for degree in (1, 3))
    speeds = [{"step": step, "iterations_per_second": speed} for step, speed in ((0, 1.0), (10, 4.0), (3600, 5.0))]
    environment = {"hardware": "2 cores", "versions": {"torch": "2.6.0"}, "commit": "abc"}
    runs = [
        make_run(tmp_path / "a_sn", config=sn, evaluations=scored[:1]),
        make_run(tmp_path / "b_fpc", rows=spectrum_rows((2.0, 1.5, 1.0)), config=fpc, evaluations=scored[1:]),
        make_run(tmp_path / "third", rows=[*spectrum_rows(), *speeds], environment=environment),
    ]
    page = page_of(runs, tmp_path / "report.html")
    assert page.rows["results"][:3] == [
        ["run", "method", "iterations", "classifier FID ↓", "precision ↑", "max κ̃ ↓", "second max κ̃ ↓", "mean κ̃ ↓"],
        ["a_sn", "SN", "2,000", "20.00", "*0.700", "4.00", "3.00", "3.00"],
        ["b_fpc", "FPC-3", "2,000", "*12.35", "0.600", "*2.00", "*1.50", "*1.50"],
    ]
    assert f"Scores: {protocol}" in page.texts["results"]
    assert not re.search(r"(?<!classifier )FID", page.texts["results"])
    assert "was scored at iteration" not in page.texts["results"]  # none earlier than its last

    differing, common = page.rows["settings"][:2], page.rows["settings"][2:]
    assert differing == [["", "a_sn", "b_fpc", "third"], ["preconditioning.init_args.degree", "1", "3", "–"]]  # noqa: RUF001
    assert ["preconditioning.init_args.layers", "all"] in common
    assert "third has no config.yaml" in page.texts["settings"]
    assert "run_dir" not in page.source
    assert {name: cell for name, *_, cell in page.rows["environment"]} == {
        "": "third",
        "hardware": "2 cores",
        "commit": "abc",
        "torch": "2.6.0",
        "iterations per second (median)": "4",
        "wall-clock, by that speed": "about 15.0 min",
    }


def test_only_what_can_be_compared_is_bold(tmp_path):
    other = [{"step": 5, "condition/other/after": 1.0, "condition/max": 1.0}]
    runs = [
        make_run(tmp_path / name, rows=rows, evaluations=[{"scores": {"fid": fid}, "protocol": f"{name} images."}])
        for name, fid, rows in (("one", 20.0, None), ("two", 10.0, other))
    ]
    page = page_of(runs, tmp_path / "report.html")
    assert [row[3:5] for row in page.rows["results"][1:]] == [["20.00^1", "4.00"], ["10.00^2", "1.00"]]
    assert "Scores of different protocols cannot be compared" in page.texts["results"]
    for protocol in ("", None):  # not recorded
        evaluations = [[{"scores": {"fid": float(n)}, "protocol": protocol}] for n in (1, 2)]
        folders = [make_run(tmp_path / f"{protocol}{n}", evaluations=e) for n, e in enumerate(evaluations)]
        assert not any(cells[0].best for *_, cells in results(read_runs(folders))["rows"])


def test_final_scores_are_those_of_the_newest_evaluation(tmp_path):
    """By date, or where there is none by iteration; scores of an earlier checkpoint than the last say so."""
    old = {"scores": {"fid": 1.0, "kid": 1.0}, "protocol": "P.", "iteration": 1000, "date": "2025-01-01"}
    new = {"scores": {"fid": 2.0}, "protocol": "Iteration 2,000, p.", "iteration": 2000, "date": "2025-01-02"}
    other = {"scores": {"classifier_fid": 3.0}, "protocol": "Q.", "iteration": 2000, "date": "2025-01-01"}
    undated = [{"scores": {"fid": float(i)}, "protocol": "P.", "iteration": i} for i in (900, 1500, 1200)]
    folders = [
        make_run(tmp_path / "evaluated", evaluations=[new, other, old]),
        make_run(tmp_path / "trained", rows=[{"step": 1, "metric/fid": 9.0}, {"step": 2, "metric/fid": 8.0}]),
        make_run(tmp_path / "undated", evaluations=undated),
    ]
    assert [final_scores(run) for run in read_runs(folders)] == [
        {"fid": (2.0, "P."), "classifier_fid": (3.0, "Q.")},
        {"fid": (8.0, "")},
        {"fid": (1500.0, "P.")},
    ]
    page = page_of(folders, tmp_path / "report.html")
    assert "undated was scored at iteration 1,500." in page.texts["results"]


def test_methods(tmp_path):
    configs = {
        "SN": preconditioned("FixedPreconditioning", degree=1),
        "FPC-7": preconditioned("FixedPreconditioning", degree=7),
        "APC": preconditioned("AdaptivePreconditioning"),
        "Other": {"preconditioning": {"class_path": "elsewhere.Other"}},
        "none": {"preconditioning": None},
        "none ": {"trainer": {"max_steps": 1}},
        "–": None,  # noqa: RUF001
    }
    runs = read_runs([make_run(tmp_path / str(n), config=config) for n, config in enumerate(configs.values())])
    assert [row[1] for row in results(runs)["rows"]] == [method.strip() for method in configs]


def test_score_titles():
    titles = {
        "fid": ("FID", "↓"),
        "inception_score": ("Inception score", "↑"),
        "classifier_fid": ("classifier FID", "↓"),
        "classifier_score": ("classifier score", "↑"),
        "my_classifier_recall": ("my classifier recall", "↑"),
        "sharpness": ("sharpness", ""),
    }
    assert {name: score_title(name) for name in titles} == titles


def test_numbers_share_their_decimals():
    assert format_numbers([1.5, 12.0, None]) == ["1.50", "12.00", "–"]  # noqa: RUF001
    assert format_numbers([0.0123, 2.0]) == ["0.0123", "2.0000"]
    assert format_numbers([12345.6, math.inf, math.nan]) == ["12,346", "∞", "NaN"]


def test_a_single_run_shows_its_important_settings_and_what_is_missing(tmp_path):
    config = {**preconditioned("AdaptivePreconditioning", history=5), "progress": {"refresh_every_n_steps": 10}}
    page = page_of([make_run(tmp_path / "run", rows=LOSS, config=config)], tmp_path / "report.html")
    important = [
        ["seed_everything", "0"],
        ["preconditioning.class_path", "pcgan_lightning.AdaptivePreconditioning"],
        ["preconditioning.init_args.history", "5"],
    ]
    assert page.rows["settings"] == [*important, *important, ["progress.refresh_every_n_steps", "10"]]
    sentences = {
        "scores": "No run measured scores",
        "samples": "No run has sample grids",
        "spectra": "No run measured singular values",
        "conditions": "No run measured condition numbers",
        "environment": "Not recorded",
    }
    assert [section for section, text in sentences.items() if text not in page.texts[section]] == []
    assert "degrees" not in page.texts
    page = page_of([make_run(tmp_path / "scored", rows=[{"step": 0, "metric/fid": 7.0}])], tmp_path / "report.html")
    assert "No run logged losses" in page.texts["losses"]
    assert "No run has a config.yaml" in page.texts["settings"]
    # One measurement is seen.
    assert re.search(r"<title>scored</title>.*?<use [^>]*fill: #0072b2", page.part("scores"), re.DOTALL)


def test_degrees_over_iterations(tmp_path):
    rows = [{"step": s, "degree/a": float(a), "degree/b": 1.0} for s, a in ((0, 1), (100, 1), (200, 9), (300, 3))]
    run = make_run(tmp_path / "apc", rows=[*rows, {"step": 400, "loss/generator": 1.0}])
    page = page_of([run, make_run(tmp_path / "sn")], tmp_path / "report.html")
    assert re.findall(r"degree \d", page.texts["degrees"]) == ["degree 1", "degree 3", "degree 9"]
    colors = ("#e3e9ef", "#a8d5d0", "#55a9b5", "#27356b")
    assert [page.part("degrees").count(f"fill: {color}") for color in colors] == [2, 1, 0, 1]
    (found, _) = read_runs([run, tmp_path / "sn"])
    assert spans(found.series["degree/a"], found.iterations) == [(0, 200, 1), (200, 300, 9), (300, 400, 3)]


def test_layers_are_in_natural_order_and_steps_merge(tmp_path):
    (run,) = read_runs([make_run(tmp_path / "run")])
    assert run.layers(r"condition/(.+)/after") == list(LAYERS)
    steps, values = run.series["condition/max"]
    assert (steps.tolist(), values.tolist()) == ([0, 1000, 2000], [2.0, 3.0, 4.0])


def test_long_lines_are_thinned_and_losses_averaged():
    steps = np.arange(100_000)
    thinned, _ = thin((steps, steps))
    assert (len(thinned), thinned[0], thinned[-1]) == (200, 0, 99_999)
    ends, low, mean, high = windows((steps, steps % 10))
    assert (len(ends), ends[-1]) == (100, 99_999)
    np.testing.assert_allclose([low[0], mean[0], high[0]], [np.percentile(range(10), 10), 4.5, 8.1], atol=0.2)
    assert [part.tolist() for part in windows((steps[:3], steps[:3] * 2))] == [[0, 1, 2], *[[0, 2, 4]] * 3]


def test_sample_grids(tmp_path):
    long, short = make_run(tmp_path / "long", grids=range(0, 2400, 100)), make_run(tmp_path / "short", grids=[0, 1000])
    noise = np.random.default_rng(0).integers(0, 256, (900, 1800, 3), dtype=np.uint8)
    Image.fromarray(noise).save(long / "samples/iteration_0002300.png")
    page = page_of([long, short], tmp_path / "report.html")
    iterations, seen = page.grids()
    assert len(iterations) == 12 + 2
    assert [iterations[i] for i in (0, 11, 12, 13)] == [0, 2300, 0, 1000]
    assert seen == [2300, 1000], "without the script the last grid of each run is seen"
    assert "12 grids left out" in page.texts["samples"]
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    picture = Image.open(io.BytesIO(base64.b64decode(images[-1]["src"].removeprefix("data:image/png;base64,"))))
    assert picture.getpixel((0, 0)) == (1000 % 256, 0, 0)
    (large,) = [image for image in images if image["src"].startswith("data:image/jpeg;base64,")]
    assert (large["width"], large["height"]) == ("640", "320")


def test_values_that_are_not_finite(tmp_path):
    names = ("loss/generator", "metric/fid", "degree/a", "condition/max", "condition/a/after")
    names = (*names, "singular_value/a/smallest_1")
    values = (math.nan, math.inf, -math.inf, 0.0, 2.0, math.inf)
    rows = [{"step": step, **dict.fromkeys(names, value)} for step, value in enumerate(values)]
    page = page_of([make_run(tmp_path / "run", rows=rows)], tmp_path / "report.html")
    assert "run: 24 values not finite" in page.texts[""]
    assert page.rows["results"][1][-1] == "∞"
    paths = [attributes["d"] for tag, attributes in page.tags if tag == "path"]
    assert paths
    assert not [path for path in paths if re.search("nan|inf", path)]


def test_page_escapes_names_asks_for_nothing_and_has_unique_ids(tmp_path):
    rows = [{"step": 0, "degree/<i>$x$": 1.0, "condition/<i>$x$/after": 1.0, "metric/<u>": 1.0}]
    runs = [make_run(tmp_path / parent / "<b>x", rows=rows, grids=[0]) for parent in ("one", "two")]
    page = page_of(runs, tmp_path / "report.html")
    assert page_of(runs, tmp_path / "again.html").source == page.source  # the same input gives the same page
    assert [row[0] for row in page.rows["results"][1:]] == ["one/<b>x", "two/<b>x"]
    assert not {"i", "u"} & {tag for tag, _ in page.tags}
    assert "<b>x" not in page.source
    assert "<i>$x$" in page.texts["degrees"]
    # Addresses of a page: those inside it (#...), and data.
    wanted = [a[key] for _, a in page.tags for key in ("src", "href", "srcset", "xlink:href", "data") if key in a]
    wanted += re.findall(r"url\(([^)]*)\)", page.source)
    assert [address for address in wanted if not address.startswith(("#", "data:"))] == []
    assert "@import" not in page.source
    assert "http" not in page.source.replace("http-equiv", "")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert sorted(set(ids)) == sorted(ids)
    assert {address[1:] for address in wanted if address.startswith("#")} <= set(ids)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium or google-chrome on PATH")
def test_page_in_a_browser(tmp_path):
    """The script moves the slider's label to the last iteration, and nothing is reported on the console."""
    runs = [make_run(tmp_path / "<b>x", grids=[0, 1000, 2000]), make_run(tmp_path / "y", grids=[1000])]
    output, moved = tmp_path / "report.html", tmp_path / "moved.html"
    report(runs, output)
    # As if the reader had moved the slider to the first stop.
    script = 'slider.value = 0; slider.dispatchEvent(new Event("input"));'
    moved.write_text(output.read_text().replace("</script>", f"{script}</script>"))
    for path, label, shown in ((output, "iteration 2,000", [2000, 1000]), (moved, "iteration 0", [0, 1000])):
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        command = [CHROMIUM, *flags, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert "CONSOLE" not in result.stderr
        page = Page(result.stdout)
        assert re.search(r"<output[^>]*>([^<]*)<", result.stdout)[1] == label
        assert page.grids()[1] == shown
        (slider,) = [attributes for tag, attributes in page.tags if attributes.get("class") == "slider"]
        assert "hidden" not in slider


OWN_FILES = ["config.yaml", "environment.json", "metrics.csv", "samples/iteration_0000005.png", "evaluations/0.json"]


@pytest.mark.parametrize("name", [*OWN_FILES, "samples", "evaluations"])
def test_links_are_not_followed_out_of_a_run(tmp_path, name):
    run = make_run(tmp_path / "run", config={}, environment={}, evaluations=[{}], grids=[5])
    inside, outside = run / "elsewhere", tmp_path / "secret"
    (run / name).rename(inside)
    (run / name).symlink_to(inside)
    assert len(read_runs([run])) == 1
    inside.rename(outside)
    (run / name).unlink()
    (run / name).symlink_to(outside)
    with pytest.raises(ValueError, match=f"argument `runs` must hold files of their own, got .*{name}.*, a link to .*"):
        read_runs([run])
