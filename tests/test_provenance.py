"""Where runs were trained, and whether outcomes differ by device."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.load import load
from analysis.provenance import devices, machines, provenance
from analysis.study import Study
from experiments.record import Record
from sngan.config import TRAINING_VERSION


def a_study(shift: float = 0.0, seeds: int = 12, on_b: int = 5, **changes: object) -> tuple[Study, pd.DataFrame]:
    """Two arms in two contexts; the last `on_b` seeds ran on device B, where gains are higher by `shift`."""
    random, rows = np.random.default_rng(1), []
    for seed in range(seeds):
        own = random.normal()  # what a seed's runs share
        for context, arm in itertools.product(("one", "two"), ("dcgan", "sn")):
            on = "B" if seed >= seeds - on_b else "A"
            gain = own + random.normal() + shift * (on == "B") + 5 * (context == "two") + 3 * (arm == "sn")
            rows.append({"run_id": f"{context}-{arm}-{seed}", "context": context, "variant": arm, "seed": seed,
                         "device_name": on, "gain": gain, "failure": bool(seed % 2)} | changes)  # fmt: skip
    frame = pd.DataFrame(rows)
    study = Study("s", "", Path(), frame[["run_id", "device_name"]], pd.DataFrame(), pd.Series(), [])
    return study, frame.drop(columns="device_name")


def test_every_run_says_where_and_how_it_was_trained(mixed_study: Path) -> None:
    table = provenance(load(mixed_study)).set_index("run_id")
    assert len(table) == 5  # one of the six has not begun
    for run_id, row in table.iterrows():
        status = Record(mixed_study / str(run_id)).status()
        first, last = status["attempts"][0], status["attempts"][-1]
        assert (row["device"], row["threads"], row["torch"]) == (last["device_name"], 1, last["torch"])
        assert (row["training_version"], row["git_tree"]) == (TRAINING_VERSION, status["git_tree"])
        assert (row["started"], row["ended"], row["exact"]) == (first["started"], last["ended"], True)


def test_a_shift_between_devices_is_found_and_its_size_is_that_of_the_shift() -> None:
    study, summary = a_study(shift=4.0)
    table = devices(study, summary).set_index("outcome")
    assert list(table.index) == ["failures", "gain"]
    assert (table["device"] == "B").all()
    assert (table["against"] == "A").all()
    assert tuple(table.loc["gain", ["n", "n_against", "seeds", "seeds_against"]]) == (20, 28, 5, 7)
    assert table.loc["gain", "difference"] == pytest.approx(4.0, abs=1.0)
    assert table.loc["gain", "p_adjusted"] < 0.02
    assert table.loc["failures", "p"] > 0.2
    text = machines(study, summary, table.reset_index())
    assert text.startswith("The runs that ended are from at least 2 machines, which their devices tell apart: 28 on A,")
    assert "Gain: higher on B than on A (p 0.0" in text
    assert "Failures" not in text


def test_the_difference_is_that_of_the_cells_and_the_p_that_of_all_permutations() -> None:
    study, summary = a_study(shift=1.0, seeds=10, on_b=5)
    of_b = summary["seed"] >= 5
    cells = summary.groupby(["context", "variant"])
    by_hand = np.mean([cell.loc[of_b, "gain"].mean() - cell.loc[~of_b, "gain"].mean() for _, cell in cells])
    row = devices(study, summary).set_index("outcome").loc["gain"]
    assert row["difference"] == pytest.approx(by_hand)
    by_seed = summary.groupby("seed")["gain"].mean()  # every seed has all cells, so that this is the same contrast
    found = [by_seed[list(b)].mean() - by_seed.drop(list(b)).mean() for b in itertools.combinations(range(10), 5)]
    assert row["p"] == pytest.approx(np.mean(np.abs(found) >= abs(by_hand) - 1e-12))


def test_where_nothing_differs_it_is_said_in_about_one_study_of_twenty() -> None:
    """The runs of a seed are alike: they are one seed, not four."""
    found = []
    for i in range(40):
        study, summary = a_study(seeds=10, on_b=5)
        random = np.random.default_rng(i)
        of_seed = dict(zip(range(10), random.normal(size=10), strict=True))
        summary["gain"] = summary["seed"].map(of_seed) + 0.1 * random.normal(size=len(summary))
        found.append(devices(study, summary).set_index("outcome").loc["gain", "p"])
    assert np.mean(np.array(found) <= 0.05) <= 0.15


def test_cells_weigh_as_much_as_they_can_tell() -> None:
    """Mantel and Haenszel's weights: of a cell with one run of B among ten of A, and one with five of each."""
    study, summary = a_study(seeds=10, on_b=5)
    summary = summary[(summary["variant"] == "sn") & ((summary["context"] == "two") | (summary["seed"] < 6))]
    summary["gain"] = [1.0 if seed >= 5 and context == "one" else 0.0
                       for seed, context in zip(summary["seed"], summary["context"], strict=True)]  # fmt: skip
    row = devices(study, summary).set_index("outcome").loc["gain"]
    one, two = 5 * 1 / 6, 5 * 5 / 10
    assert row["difference"] == pytest.approx(one / (one + two))


def test_whole_separation_is_found_with_the_fewest_seeds_that_are_tested() -> None:
    study, summary = a_study(shift=100.0, seeds=10, on_b=5)
    assert devices(study, summary).set_index("outcome").loc["gain", "p_adjusted"] <= 0.05
    summary.loc[0, "gain"] = float("inf")
    assert devices(study, summary).set_index("outcome").loc["gain", "n_against"] == 19
    text = machines(study, summary.assign(gain=0.0), devices(study, summary.assign(gain=0.0)))
    assert "No difference by device was found (smallest adjusted p 1; at least 5 seeds a side)." in text


def test_one_device_few_seeds_and_split_seeds_are_said() -> None:
    study, summary = a_study(device_name="AMD")
    assert devices(study, summary).empty
    assert machines(study, summary, devices(study, summary)) == (
        "All 48 runs that ended are from one machine, or several alike: AMD."
    )
    study, summary = a_study(on_b=3)
    text = machines(study, summary, devices(study, summary))
    assert "Whether outcomes differ by device is not tested: a side has fewer than 5 seeds." in text
    assert "pairings" not in text
    study, summary = a_study()
    study.runs["device_name"] = ["A" if "-dcgan-" in run_id else "B" for run_id in study.runs["run_id"]]
    text = machines(study, summary, devices(study, summary))
    assert "cannot be told: no arm ran on two of them in one context" in text
    assert "In 24 of 24 pairings of arms (context and seed) the runs are of different devices" in text
    study.runs["device_name"] = None
    assert machines(study, summary, devices(study, summary)) == ""


def test_it_stands_on_the_page(page: Path) -> None:
    markdown, html = (page.with_name(name).read_text() for name in ("report.md", "index.html"))
    assert "runs that ended are from one machine, or several alike: " in markdown
    assert '<p id="machines">All ' in html
    assert '<details id="provenance">' in html
    header = pd.read_csv(page.parent / "tables" / "provenance.csv").columns
    assert {"device", "torch", "training_version", "git_tree", "started", "ended", "exact"} <= set(header)
