"""The report: its numbers against the records."""

import csv
import dataclasses
import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import HOSTILE, small
from others import own_images

from analysis import measured
from analysis.comparisons import compare_arms
from analysis.load import load
from analysis.page.pictures import Picture
from analysis.page.report import write_report
from analysis.stability import summarize
from analysis.study import Study
from analysis.synthetic import write_records
from analysis.variants import labelled
from experiments.record import Record, run_folders
from experiments.run import execute
from sngan.config import InputError


def table(page: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(page.parent / "tables" / f"{name}.csv")


@pytest.fixture
def records(page: Path) -> dict[str, Record]:
    """Of the page's study, by run id."""
    assert page == page.parent.parent / "report" / "index.html"
    return {record.run_id: record for record in run_folders(page.parent.parent)}


def test_the_account_counts_every_planned_run(page: Path) -> None:
    account = table(page, "account").set_index("arm")
    assert account.loc["sn", ["planned", "finished", "diverged", "failed", "missing"]].tolist() == [3, 1, 1, 0, 1]
    assert account.loc["sn", "failure_rate"] == 0.5  # of the two that ended
    assert account.loc["dcgan", "failure_rate"] == pytest.approx(1 / 3)


def test_quality_is_of_the_records_last_evaluations(page: Path, records: dict[str, Record]) -> None:
    quality = table(page, "quality").set_index("arm")
    ends = [[row for row in r.rows() if "eval/fd" in row][-1] for r in records.values() if r.config().arm == "dcgan"]
    assert quality.loc["dcgan", "n"] == len(ends) == 3  # the failed one with the last that it had
    names = ("fd", "fd_pixels", "kd", "precision", "recall", "density", "coverage", "modes", "modes_5",
             "effective_modes", "mode_kl", "diversity")  # fmt: skip
    for name in names:
        assert quality.loc["dcgan", name] == pytest.approx(np.median([row[f"eval/{name}"] for row in ends]))
    assert quality.loc["dcgan", "fd_high"] == max(row["eval/fd"] for row in ends)


def test_the_scale_of_quality_is_the_protocols(page: Path, records: dict[str, Record]) -> None:
    quality = table(page, "quality").set_index("arm")
    protocol = next(iter(records.values())).protocol()
    assert quality.loc["real against real", "fd"] == protocol["real_against_real"]["fd"]
    assert quality.loc["trivial sampler", "fd"] == protocol["trivial_fd"]
    (judged,) = table(page, "protocol").to_dict("records")
    assert (judged["runs"], judged["feature_net_sha256"]) == (5, protocol["feature_net_sha256"])
    assert (judged["n_fake"], judged["real_against_real_fd"]) == (100, protocol["real_against_real"]["fd"])


@pytest.mark.parametrize(
    ("name", "column", "metric", "over_seeds"),
    [
        ("sigma", "sigma", "sigma/conv2", np.median),
        ("sigma", "sigma_raw_high", "sigma_raw/conv2", max),
        ("operators", "sigma_conv", "sigma_conv/conv2", np.median),
        ("operators", "stable_rank", "stable_rank/conv2", np.median),
    ],
)
def test_norms_are_of_the_records_last_rows(
    name: str, column: str, metric: str, over_seeds: Callable, page: Path, records: dict[str, Record]
) -> None:
    shown = table(page, name).set_index(["arm", "layer"]).loc[("sn", "conv2")]
    last = last_rows_of_sn(page, records)
    assert shown["n"] == len(last) == 2
    assert shown[column] == pytest.approx(over_seeds([row[metric] for row in last]))


def test_tightness_is_the_median_of_the_runs_ratios(page: Path, records: dict[str, Record]) -> None:
    steep = table(page, "lipschitz").set_index("arm").loc["sn"]
    ratios = [row["lipschitz/empirical"] / row["lipschitz/product"] for row in last_rows_of_sn(page, records)]
    assert (steep["n"], steep["tightness"]) == (2, pytest.approx(np.median(ratios)))


def last_rows_of_sn(page: Path, records: dict[str, Record]) -> list[dict[str, Any]]:
    """Of the planned runs; one more is there."""
    runs = load(page.parent.parent).runs
    return [records[r].rows()[-1] for r in runs[runs["arm"] == "sn"]["run_id"] if records.get(r)]


def test_every_run_is_listed_with_its_reason_and_its_statistics(page: Path) -> None:
    runs = table(page, "runs").set_index("run_id")
    assert set(runs["state"]) == {"finished", "diverged", "failed", "missing"}
    assert HOSTILE in set(runs["error"])
    study = load(page.parent.parent)
    per_run = table(page, "runs_statistics").set_index("run_id")
    expected = summarize(study.history, study.runs).set_index("run_id")
    pd.testing.assert_series_equal(per_run["loss_g_roughness"], expected["loss_g_roughness"])


def test_failed_and_diverged_runs_count_as_worst(page: Path) -> None:
    comparisons = table(page, "comparisons")
    row = comparisons[comparisons["statistic"] == "loss_d_roughness"].iloc[0]
    assert (row["arm"], row["baseline"], row["n_pairs"]) == ("sn", "dcgan", 2)  # sn's seed 2 is missing
    assert row["prob_improvement"] <= 0.5  # its diverged run beats nothing
    assert row["shift"] == np.inf


def test_arms_count_runs_without_an_end(page: Path) -> None:
    arms = table(page, "arms").set_index("arm")
    assert arms.loc["sn", ["n", "ended", "failures"]].tolist() == [2, 1, 2]
    assert arms.loc["dcgan", ["n", "ended"]].tolist() == [3, 2]
    assert arms.loc["sn", "q_centre"] == np.inf  # of two runs one has no end


def test_failures_are_counted_by_cause(page: Path) -> None:
    causes = table(page, "failures").set_index("arm")
    assert causes.loc["sn", "divergence"] == causes.loc["dcgan", "error"] == 1
    assert causes["without_end"].to_dict() == {"dcgan": 1, "sn": 1}


def test_three_seeds_test_nothing(page: Path) -> None:
    evidence = table(page, "evidence")
    assert set(evidence["verdict"]) == {"not tested"}
    assert evidence.loc[evidence["claim"].isin(["C7a", "C7b"]), "n"].tolist() == [0, 0]  # no such arms


def test_every_run_that_ended_says_what_became_of_it(page: Path) -> None:
    runs = table(page, "runs_statistics").set_index("run_id")
    assert runs["failure"].notna().sum() == 5
    assert {"cause", "causes", "failure_step", "ended", "healthy_step", "healthy_end", "notes"} <= set(runs)
    assert runs.loc[runs["cause"] == "divergence", "causes"].item().startswith("divergence at ")


def synthetic(states: dict[tuple[str, int], str], **metrics: Callable[[np.ndarray], np.ndarray]) -> Study:
    """A study of runs of 1,000 steps; a metric is a function of the steps."""
    runs = pd.DataFrame(
        [{"run_id": f"{arm}-{seed}", "arm": arm, "variant": arm, "context": "c", "seed": seed, "state": state}
         for (arm, seed), state in states.items()]
    )  # fmt: skip
    history = runs.drop(columns="state").merge(pd.DataFrame({"step": np.arange(0, 1001, 100)}), how="cross")
    history = history.assign(dataset="digits", setting="C", d_updates=history["step"])
    for name, value in metrics.items():
        history[name.replace("__", "/")] = value(history["step"].to_numpy())
    return Study("synthetic", "", Path(), runs, history, pd.Series(dtype=int), [])


def test_the_share_above_the_tolerance_is_of_rows_from_the_first_update_on() -> None:
    sigma = lambda step: np.where(step < 100, 2.0, np.where(step == 700, 1.06, 1.0))  # noqa: E731
    study = synthetic({("sn", 0): "finished"}, sigma__conv1=sigma, sigma_raw__conv1=sigma)
    row = measured.sigmas(study).iloc[0]
    assert row["share_above_1.05"] == pytest.approx(1 / 10)  # of 100, 200, .. 1000
    assert (row["sigma"], row["n"]) == (1, 1)


def test_a_seed_without_the_statistic_costs_its_pair_and_no_more() -> None:
    states = {(arm, seed): "finished" for arm in ("dcgan", "sn") for seed in range(3)}
    study = synthetic(states | {("sn", 2): "failed"}, loss__d=lambda step: 0.5 + step / 1000)
    study.history.loc[study.history["run_id"] == "sn-0", "loss/d"] -= 1  # no logarithm: no degradation
    comparisons = compare_arms(study, summarize(study.history)).set_index("statistic")
    assert comparisons.loc["loss_d_roughness", "n_pairs"] == 2  # the failed run ranks worst, and counts
    assert comparisons.loc["loss_d_degradation", "n_pairs"] == 2
    assert "loss_g_roughness" not in comparisons.index  # nobody measured it
    failed = synthetic(dict.fromkeys(states, "failed"), loss__d=lambda step: 0.5 + step / 1000)
    comparisons = compare_arms(failed, summarize(failed.history))
    assert (comparisons["n_pairs"] == 3).all()
    assert (comparisons["shift"] == 0).all()  # all are equally bad


def test_statistics_json_holds_the_same_numbers(page: Path) -> None:
    statistics = json.loads((page.parent / "statistics.json").read_text())
    assert statistics["account"] == load(page.parent.parent).account.to_dict()
    assert statistics["extra"] == [small(arm="penalty", steps=60).run_id]
    sigma = table(page, "sigma")
    assert [row["sigma"] for row in statistics["sigma"]] == sigma["sigma"].tolist()
    assert {row["run_id"] for row in statistics["runs"]} == set(table(page, "runs_statistics")["run_id"])


def cell(value: str, whole: bool = False) -> str:
    """As page and Markdown show a value of the CSV: three digits; `whole`: of a column that counts."""
    if value in ("True", "False"):
        return {"True": "yes", "False": "no"}[value]
    try:
        number = float(value)
    except ValueError:
        return " ".join(value.split())
    if number == 0:
        return "0"
    if whole or re.fullmatch(r"-?\d+", value) or 999.5 <= abs(number) < 1e7:
        return f"{number:,.0f}"
    return f"{number:#.3g}".removesuffix(".")


def counts(values: list[str]) -> bool:
    """Whether all that is a number is a whole one."""
    try:
        return all(
            math.isfinite(float(v)) and float(v) == int(float(v)) for v in values if v not in ("", "inf", "-inf")
        )
    except ValueError:
        return False


def limits_of(header: list[str], rows: list[list[str]]) -> dict[str, tuple[str, str]]:
    """Estimate -> the two columns behind it that are its limits."""
    found = {}
    for name, low, high in zip(header, header[1:], header[2:], strict=False):
        if low.endswith("low") and high == f"{low[:-3]}high" and not name.endswith(("low", "high")):
            found[name] = (low, high)
    texts = {
        name for name in found if any(not re.match(r"^(-?[\d.]|inf|-inf|$)", row[header.index(name)]) for row in rows)
    }
    return {name: ends for name, ends in found.items() if name not in texts}


def expected(header: list[str], rows: list[list[str]]) -> dict[str, list[str]]:
    """Column -> its cells as people are to read them, of those that are not a limit."""
    limits = limits_of(header, rows)
    ends = {name for pair in limits.values() for name in pair}
    shown: dict[str, list[str]] = {}
    for name in header:
        if name in ends:
            continue
        of = [name, *limits.get(name, ())]
        whole = all(counts([row[header.index(column)] for row in rows]) for column in of)
        column = [cell(row[header.index(name)], whole) for row in rows]
        if name in limits:
            pairs = [[cell(row[header.index(end)], whole) for end in limits[name]] for row in rows]
            column = [
                f"{c} [{', '.join(pair)}]" if c and all(pair) else c for c, pair in zip(column, pairs, strict=True)
            ]
        shown[name] = column
    return shown


def tables_of(page: Path) -> dict[str, tuple[list[str], list[list[str]]]]:
    """name -> header and rows of the CSV."""
    found = {}
    for path in sorted((page.parent / "tables").glob("*.csv")):
        header, *rows = list(csv.reader(io.StringIO(path.read_text())))
        assert len(header) > 1, path.stem
        assert list(pd.read_csv(path).columns) == header  # an empty one is read by pandas too
        found[path.stem] = header, rows
    return found


def test_every_number_is_the_same_in_csv_and_json(page: Path) -> None:
    statistics, compared = json.loads((page.parent / "statistics.json").read_text()), 0
    for name, (header, rows) in tables_of(page).items():
        if name == "runs":  # whose JSON is that of the statistics by run
            continue
        records = statistics[{"account": "account_table"}.get(name, name)]
        assert len(records) == len(rows), name
        for row, record in zip(rows, records, strict=True):
            assert list(record) == header
            for text, value in zip(row, record.values(), strict=True):
                if value is None or value == "":
                    assert text == "", (name, text)
                elif isinstance(value, bool) or (isinstance(value, str) and value not in ("inf", "-inf")):
                    assert text == str(value), (name, text)
                else:
                    assert float(text) == float(value), (name, text, value)
                    compared += 1
    assert compared > 500


def test_every_number_is_the_same_in_csv_html_and_markdown(page: Path) -> None:
    """Of every table, all parts of it on the page: each column that says anything, and no other."""
    from justhtml import JustHTML

    document, compared = JustHTML(page.read_text()), 0
    sections = re.split(r"^## ", (page.parent / "report.md").read_text(), flags=re.MULTILINE)
    for name, (header, rows) in tables_of(page).items():
        ids = [f"#table-{name}", *(f"#table-{name}-{i}" for i in range(2, 20))]
        parts = [part for id_ in ids for part in document.query(id_)]
        if name in ("verdicts", "evidence", "sensitivity", "paired_failures"):
            continue  # of which only rows that say something are shown
        if not rows:
            assert not parts, name
            continue
        on_page: dict[str, list[str]] = {}
        for part in parts:
            heads = [th.to_text().strip() for th in part.query("thead th")]
            cells = [[" ".join(td.to_text().split()) for td in tr.query("td")] for tr in part.query("tbody tr")]
            for head, column in zip(heads, zip(*cells, strict=True), strict=True):
                assert on_page.setdefault(head, list(column)) == list(column)  # what names the rows is repeated
        wanted = {}
        for column, of in expected(header, rows).items():
            if any(of) and not (column == "context" and len(set(of)) == 1):
                head = re.sub("^q ", "fd ", column.replace("_", " "))
                wanted[head] = of if column == "run_id" else [labelled(text) for text in of]
        quiet = {head for head in wanted if head not in on_page}
        assert all(set(wanted[head]) == {"0"} for head in quiet), (name, quiet)  # counts of nothing
        for head, column in on_page.items():
            if head == "wandb url":
                continue
            texts = [" ".join(row[header.index(head.replace(" ", "_"))].split()) if head == "error" else want
                     for row, want in zip(rows, wanted[head], strict=True)]  # fmt: skip
            assert column == texts, (name, head)
            compared += len(column)
        (section,) = [part for part in sections if f"| {' | '.join(on_page)} |" in part]
        lines = [line for line in section.splitlines() if line.startswith("|")][2:]
        for i, line in enumerate(lines):
            written = [
                part.strip().replace("\\|", "|").replace("]\\(", "](")
                for part in re.split(r"(?<!\\)\|", line.replace("&lt;", "<"))[1:-1]
            ]
            for column, text in zip(on_page.items(), written, strict=True):
                assert column[0] == "wandb url" or column[1][i] == text, (name, column[0])
    assert compared > 400


def test_latex_has_every_row(page: Path) -> None:
    for name, (_, rows) in tables_of(page).items():
        text = (page.parent / "tables" / f"{name}.tex").read_text()
        if rows and name not in ("verdicts", "evidence", "sensitivity", "paired_failures"):
            assert text.count(r" \\") == len(rows) + 1, name


def test_one_median_is_one_number(page: Path) -> None:
    """Of fd at the end by arm, where the number of runs is even too; and spread over seeds is of these runs."""
    statistics = table(page, "statistics")
    of = statistics[statistics["statistic"] == "q_end"].set_index("arm")["median"]
    arms = table(page, "arms").set_index("arm")
    assert of.to_dict() == arms["q_ended"].dropna().to_dict()
    runs = table(page, "runs_statistics")
    assert of["dcgan"] == runs.loc[runs["arm"] == "dcgan", "q_end"].median()


def test_the_page_is_valid_html(page: Path) -> None:
    """By a parser that reports every error of the HTML standard's; names of things are there once."""
    from justhtml import JustHTML

    content = page.read_text()
    JustHTML(content, strict=True)  # raises at an error
    with pytest.raises(Exception, match="end tag"):
        JustHTML(content.replace("</body>", "</span></body>"), strict=True)
    ids = re.findall(r'\bid="([^"]*)"', content)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'href="#([^"]*)"', content)) <= set(ids)


def test_the_page_is_one_file_that_needs_nothing_else(page: Path) -> None:
    text = page.read_text()
    assert not re.findall(r"(?:src|href)=\"(?:https?:)?//", text)
    assert len(re.findall(r"<script>", text)) == len(re.findall(r"<script", text)) == 1  # the page's own
    assert HOSTILE not in text
    assert "&lt;/td&gt;&lt;script&gt;" in text
    assert "3 seeds per arm: this report describes; it cannot support a claim." in text
    scale = run_folders(page.parent.parent)[0].protocol()
    assert text.count(f"Reals against reals have an fd of {scale['real_against_real']['fd']:.3g}, the trivial") >= 2
    for figure in ("losses", "distance", "coverage", "sigma", "gradients", "samples", "samples-all", "differences"):
        for kind in ("png", "svg"):
            assert (page.parent / "figures" / f"{figure}.{kind}").stat().st_size > 1000


@pytest.mark.slow
def test_figures_and_tables_are_the_same_bytes_again(page: Path, mixed_study: Path) -> None:
    again = write_report(mixed_study)
    assert again.parent != page.parent
    for path in page.parent.rglob("*.*"):
        if path.suffix in (".svg", ".png", ".csv", ".json"):
            assert path.read_bytes() == (again.parent / path.relative_to(page.parent)).read_bytes(), path


@pytest.mark.slow
def test_one_run_of_one_seed_makes_a_report_without_bands(tmp_path: Path) -> None:
    execute(small(), "single", tmp_path / "single", lambda message: None)
    text = write_report(tmp_path / "single").read_text()
    assert "1 seed per arm: this report describes" in text
    assert "One seed per arm: no band." in text
    assert "Nothing to show" not in text
    assert "Arms compared" not in text


@pytest.mark.slow
def test_an_arm_or_a_context_without_some_metrics_makes_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All figures are made; that they can be written is shown elsewhere."""
    monkeypatch.setattr(
        "analysis.page.report.save",
        lambda of, *_: Picture(of.file, of.title, of.caption, b"", "<svg></svg>", of.kind, of.context),
    )
    of = load(write_records(tmp_path / "odd", runs=12, rows=20))
    for frame in (of.runs, of.history):
        frame["context"] = frame["seed"].map({0: "first", 1: "second"})
    sigmas = [name for name in of.history if name.startswith("sigma")]
    for rows in (of.history["arm"] == "dcgan", of.history["context"] == "second"):
        history = of.history.copy()
        history.loc[rows, sigmas] = np.nan
        assert write_report(dataclasses.replace(of, history=history), kinds=("png",)).is_file()
    bare = of.history.drop(columns=["d_updates", *(name for name in sigmas if name.startswith("sigma_raw"))])
    page = write_report(dataclasses.replace(of, history=bare), kinds=("png",)).read_text()
    assert 'id="figure-sigma' in page


def test_runs_that_logged_nothing_make_a_report_without_figures(tmp_path: Path) -> None:
    execute(small(batch_size=1800), "single", tmp_path / "single", lambda message: None)  # more than digits has
    text = write_report(tmp_path / "single").read_text()
    assert "larger than digits" in text


def test_no_records_are_no_report(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no records"):
        write_report(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ([("a", 0, "pixels")], "fd_pixels"),
        ([("a", 0, "inception")], "FID"),
        ([("a", 0, "pixels"), ("b", 3, "labels")], "fd"),
    ],
)
def test_a_report_calls_quality_what_it_is(data: list[tuple[str, int, str]], name: str, tmp_path: Path) -> None:
    """A study that pixels judge speaks neither of fd nor of features."""
    page = write_report(own_images(tmp_path / "own", *data, seeds=8, failure=0.5), kinds=["svg"])
    found = json.loads((page.parent / "statistics.json").read_text())
    assert found["quality_name"] == name
    texts = [page.read_text(), *(path.read_text() for path in page.parent.rglob("*.*") if path.suffix != ".html")]
    if name != "fd":
        for text in texts:
            assert not re.search(r"(?<![/\w])fd(?!\w|\\_pixels| pixels)", text)  # nor `fd pixels` as a column's head
            assert "small classifier" not in text
        modes = {"modes", "modes_5", "effective_modes", "mode_kl"}
        assert not modes & {column for row in found["quality"] for column in row}
    if name == "fd_pixels":
        assert "gain_pixels" not in texts[0]
        assert "mode collapse" not in found["failures"][0]
        assert "Mode collapse could not be seen" in texts[0]
    assert ("not all contexts are judged by the same quality" in texts[0]) == (name == "fd")
