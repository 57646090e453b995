from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from analysis import checked
from analysis.events import Thresholds
from analysis.stability import summarize
from analysis.stats import compare
from analysis.terms import Terms
from sngan.config import InputError


def arrow(values: list[object], kind: pa.DataType | None = None) -> pd.Series:
    return pd.Series(pd.arrays.ArrowExtensionArray(pa.array(values, kind)))


NO_NUMBERS = {
    "words": ["1", "2"], "objects": [object(), 1], "lists": [[1], [2]], "complex": [1j, 2j], "too large": [10**400, 1],
    "dates": pd.date_range("2026", periods=2), "texts": pd.array(["1", "2"], "string"),
    "Arrow's text": arrow(["1", "2"], pa.string()), "large text": arrow(["1", "2"], pa.large_string()),
    "bytes": arrow([b"1", b"2"], pa.binary()), "a dictionary": arrow(["1", "2"], pa.dictionary(pa.int8(), pa.string())),
    "categories": pd.Categorical(["1", "2"]), "sparse text": pd.arrays.SparseArray(np.array(["1", "2"], object)),
    "times": [np.timedelta64(1, "s"), 1], "Arrow's lists": arrow([[1], [2]]),
    "a wide float": np.array(["1e4000", "1"], np.longdouble), "a large decimal": [Decimal("1e400"), 1],
}  # fmt: skip


@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_number(kind: str) -> None:
    values = pd.Series(NO_NUMBERS[kind], dtype=object if kind == "times" else None)
    for check in (checked.numbers, checked.steps):
        with pytest.raises(InputError, match=r"^score"):
            check(values, "score")
    with pytest.raises(InputError, match=r"^score"):
        compare(pd.DataFrame({"arm": ["a", "b"], "seed": [0, 0], "score": values}), "a")
    rows = pd.DataFrame({"run_id": "r", "dataset": "d", "arm": "a", "setting": "s", "seed": 0, "step": [0, 1]})
    for column in ("step", "loss/d"):
        with pytest.raises(InputError, match=f"^{column}"):
            summarize(rows.assign(**{column: values}))


def test_numbers_of_every_type_are_floats() -> None:
    for values in (
        [1, 2],
        [1.0, 2.0],
        [True, 2],
        pd.array([1, 2], "Int64"),
        np.array([1, 2], object),
        np.float32([1, 2]),
        np.array([np.True_, Decimal(2)], object),
        pd.Categorical([1, 2]),
        pd.arrays.SparseArray([1.0, 2.0]),
        arrow([1, 2], pa.int32()),
        arrow([Decimal(1), Decimal(2)]),
    ):
        assert checked.numbers(pd.Series(values), "x").tolist() == [1.0, 2.0]
    for absent in ([None, 1], [np.nan, 1], pd.array([None, 1], "Int64"), np.array([None, 1], object), arrow([None, 1])):
        assert checked.numbers(pd.Series(absent), "x").isna().tolist() == [True, False]


@pytest.mark.parametrize("value", [-1, 0.5, np.inf, np.nan, None, 2.0**60])
def test_steps_are_whole_numbers(value: object) -> None:
    with pytest.raises(InputError, match="step: expected whole numbers from 0 on, got"):
        checked.steps(pd.Series([1, value]), "step")


@pytest.mark.parametrize("table", [None, "x", [1], {}, np.ones((3, 3)), pd.Series([1])])
def test_what_is_no_table(table: object) -> None:
    for call in (lambda: compare(table, "a"), lambda: summarize(table)):  # type: ignore[arg-type]
        with pytest.raises(InputError, match="expected a table"):
            call()


def test_columns_that_are_there_twice_and_names_that_are_none() -> None:
    scores = pd.DataFrame({"arm": ["a", "b"], "seed": [0, 0], "score": [1.0, 2.0]})
    for wrong, message in (
        (pd.concat([scores, scores], axis=1), "scores: there is 'arm' more than once"),
        (scores.assign(arm=[["a"], ["b"]]), r"arm: \['a'\] is no name"),
        (scores.assign(arm=arrow([[1], [2]])), r"arm: \[1\] is no name"),
        (scores.assign(seed=arrow([{"a": 1}, {"a": 2}])), r"seed: \{'a': 1\} is no name"),
        (scores.set_axis(pd.MultiIndex.from_product([scores, [""]]), axis=1), "the columns are a MultiIndex"),
        (scores.set_axis(pd.MultiIndex.from_arrays([scores.columns]), axis=1), "the columns are a MultiIndex"),
        (scores.assign(arm=["a", None]), r"arm: (None|nan) is no name"),
        (scores.assign(seed=[np.nan, 0]), r"seed: .*nan.* is no name"),
        (scores.assign(arm=[1, 2]), r"baseline 'a' is not among the arms \(1, 2\)"),
    ):
        with pytest.raises(InputError, match=message):
            compare(wrong, "a")


def history(**columns: object) -> pd.DataFrame:
    keys = {"run_id": ["r", "r", "q", "q"], "dataset": "d", "arm": "a", "setting": "s", "seed": 0}
    return pd.DataFrame({**keys, "step": [0, 900, 0, 900], "loss/d": 0.5, "eval/fd": 8.0, **columns})


def test_the_index_of_a_table_does_not_matter() -> None:
    scores = pd.DataFrame({"arm": np.repeat(["a", "b"], 9), "seed": [*range(9)] * 2, "score": np.arange(18) ** 0.5})
    for column in ("arm", "seed", ["arm", "seed"]):
        pd.testing.assert_frame_equal(compare(scores.set_index(column, drop=False), "a"), compare(scores, "a"))
    for column in ("run_id", "step", "arm", ["run_id", "step"]):
        pd.testing.assert_frame_equal(summarize(history().set_index(column, drop=False)), summarize(history()))
    planned = pd.DataFrame({"run_id": ["r", "q"], "state": "finished"})
    given = summarize(history(), planned.set_index("run_id", drop=False))
    pd.testing.assert_frame_equal(given, summarize(history(), planned))


def test_columns_of_a_history_that_are_none() -> None:
    for wrong, message in (
        (
            history().set_axis(pd.MultiIndex.from_product([history(), [""]]), axis=1),
            "history: the columns are a MultiIndex",
        ),
        (history(**{"sigma/l": 1.0}, d_updates=["0", "1", "0", "1"]), "d_updates: '0' is no number"),
        (history(**{"sigma/l": 1.0}, d_updates=1j), "d_updates: 1j is no number"),
        (history(arm=arrow([[1]] * 4)), r"arm: \[1\] is no name"),
        (history(run_id=[object(), object()] * 2), "run_id: expected names that have an order"),
    ):
        with pytest.raises(InputError, match=message):
            summarize(wrong)
    found = summarize(history(**{"sigma/l": 1.0}, d_updates=pd.Series([0, None] * 2, dtype=object)))
    pd.testing.assert_frame_equal(found, summarize(history(**{"sigma/l": 1.0}, d_updates=[0, np.nan] * 2)))
    assert len(summarize(history().assign(x="a word").rename(columns={"x": ("a/b", "c")}))) == 2


RUNS = pd.DataFrame({"run_id": ["r", "q"], "state": "finished", "trivial_fd": 60.0, "lost_step": np.nan})


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({}, "runs: expected a table"),
        ([], "runs: expected a table"),
        (RUNS["run_id"], "runs: expected a table"),
        (RUNS.set_index("run_id"), "runs lack the columns run_id"),
        (RUNS.drop(columns="state"), "runs lack the columns state"),
        (pd.concat([RUNS, RUNS["state"]], axis=1), "runs: there is 'state' more than once"),
        (pd.concat([RUNS, RUNS]), "runs: 'r' is there more than once"),
        (RUNS.assign(run_id=[["r"], ["q"]]), r"run_id: \['r'\] is no name"),
        (RUNS.assign(run_id=None), "run_id: None is no name"),
        (RUNS.assign(state="wat"), r"state 'wat' is not among those of a run \('finished', 'diverged', "),
        (RUNS.assign(state="Finished"), "did you mean 'finished'"),
        (RUNS.assign(state=""), "state '' is not among"),
        (RUNS.assign(state=1), "state 1 is not among"),
        (RUNS.assign(state=None), "state: None is no name"),
        (RUNS.assign(state=[["a"], ["b"]]), r"state: \['a'\] is no name"),
        (RUNS.assign(dataset=[["a"], ["b"]]), r"dataset: \['a'\] is no name"),
        (RUNS.assign(lost_step="5"), "lost_step: '5' is no number"),
        (RUNS.assign(lost_step=np.inf), "lost_step: expected whole numbers from 0 on, got inf"),
        (RUNS.assign(lost_step=-1), "lost_step: expected whole numbers from 0 on, got -1"),
        (RUNS.assign(lost_step=0.5), "lost_step: expected whole numbers from 0 on, got 0.5"),
        (RUNS.assign(lost_step=pd.NaT), "lost_step: NaT is no number"),
        (RUNS.assign(trivial_fd=1j), "trivial_fd: 1j is no number"),
        (RUNS.assign(trivial_fd="60"), "trivial_fd: '60' is no number"),
        (RUNS.assign(trivial_fd_pixels="60"), "trivial_fd_pixels: '60' is no number"),
    ],
)
def test_what_is_no_planned_run(runs: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        summarize(history(), runs)  # type: ignore[arg-type]


def test_numbers_of_planned_runs_of_every_type() -> None:
    expected = summarize(history(), RUNS)
    assert (expected["gain"] > 0).all()
    for same in (60, Decimal(60), pd.array([60, 60], "Int64"), arrow([60, 60]), pd.Series([60.0, 60.0], dtype=object)):
        pd.testing.assert_frame_equal(summarize(history(), RUNS.assign(trivial_fd=same)), expected)
    for kind in ("category", "string", pd.ArrowDtype(pa.string())):
        pd.testing.assert_frame_equal(summarize(history(), RUNS.astype({"state": kind})), expected)
    nan = history(**{"loss/d": [0.5, np.nan, 0.5, 0.5]})
    for lost, failed in ((None, True), (np.nan, False), (900, True)):  # None: the rows tell
        of_r = summarize(nan, RUNS.assign(lost_step=lost)).set_index("run_id").loc["r"]
        assert (of_r["failure"], of_r["cause"]) == ((True, "divergence") if failed else (False, None))


def test_a_planned_run_without_rows_needs_no_more_than_its_state() -> None:
    planned = pd.DataFrame({"run_id": ["r", "q", "x", "y"], "state": ["finished", "finished", "missing", "diverged"]})
    found = summarize(history(), planned).set_index("run_id")
    assert found.loc["x", "notes"] == "missing: no end"
    assert found.loc["y", "causes"] == "divergence at 0"
    assert found.loc[["x", "y"], ["dataset", "arm", "setting", "seed"]].isna().all(axis=None)
    assert summarize(history(), planned.assign(seed=7))["seed"].tolist() == [0, 0, 7, 7]


@pytest.mark.parametrize("value", ["x", 3, 0, False, {}, [], Thresholds, Terms])
def test_what_is_no_thresholds_and_no_terms(value: object) -> None:
    with pytest.raises(InputError, match="thresholds: expected Thresholds, got"):
        summarize(history(), thresholds=value)  # type: ignore[arg-type]
    for terms in (value, None):
        with pytest.raises(InputError, match="terms: expected Terms, got"):
            summarize(history(), terms=terms)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "baseline",
    [pd.NA, pd.NaT, np.array(["a"]), np.array(["a", "b"]), pd.Series(["a"]), pd.Series(["a", "b"]), ["a"], {}],
)
def test_what_is_no_baseline(baseline: object) -> None:
    with pytest.raises(InputError, match=r"^baseline"):
        compare(pd.DataFrame({"arm": ["a", "b"], "seed": [0, 0], "score": [1.0, 2.0]}), baseline)  # type: ignore[arg-type]


def test_arms_are_told_apart_by_type_and_value() -> None:
    of = {"seed": [*range(9)] * 2, "score": np.arange(18) ** 0.5}
    whole, words, truths = (
        pd.DataFrame({"arm": np.repeat(arms, 9), **of}) for arms in ([0, 1], ["0", "1"], [False, True])
    )
    with pytest.raises(InputError, match=r"baseline '0' is not among the arms \(0, 1\)"):
        compare(whole, "0")
    with pytest.raises(InputError, match=r"baseline 0 is not among the arms; did you mean '0'\? \('0', '1'\)"):
        compare(words, 0)  # type: ignore[arg-type]
    expected = compare(words, "0").drop(columns=["arm", "baseline"])
    for scores, baseline in ((whole, 0), (whole, 0.0), (whole, False), (truths, False)):
        found = compare(scores, baseline)  # type: ignore[arg-type]
        assert found[["arm", "baseline"]].values.tolist() == [[1, 0]]
        pd.testing.assert_frame_equal(found.drop(columns=["arm", "baseline"]), expected)


FAILED = np.arange(20) >= 15  # five of the ten runs of b


@pytest.mark.parametrize(
    "failed",
    [
        FAILED.astype(str),
        np.where(FAILED, "yes", "no"),
        np.where(FAILED, "diverged", ""),
        pd.Categorical(np.where(FAILED, "1", "0")),
        FAILED * 2,
        FAILED * 1j,
        FAILED.astype("timedelta64[s]"),
        np.where(FAILED, 1.0, np.nan),
        pd.array(np.where(FAILED, True, None), "boolean"),
        [[]] * 20,
    ],
)
def test_whether_a_run_failed_is_true_or_false(failed: object) -> None:
    scores = pd.DataFrame({"arm": np.repeat(["a", "b"], 10), "seed": [*range(10)] * 2, "score": np.arange(20) ** 0.5})
    with pytest.raises(InputError, match="failed: expected True or False, got"):
        compare(scores.assign(failed=failed), "a")
    for same in (FAILED, FAILED * 1, FAILED.astype(object), pd.array(FAILED, "boolean"), pd.Categorical(FAILED)):
        assert compare(scores.assign(failed=same), "a")["n_spread"].item() == 5
