"""Anyone's runs, from a table or a W&B project -> the frames of `analysis.study`.

A table has a row per logged step, or a row per run. What its columns mean: `analysis.sources.columns`.

Without `state` a run has diverged by what `analysis.sources.lost` says.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.sources import formats
from analysis.sources.columns import (
    COLUMNS,
    IN_NAME,
    METRICS,
    NAMES,
    REQUIRED,
    RUN_NAMES,
    Reading,
    advice,
    may_be_negative,
    quality_doubts,
)
from analysis.sources.lost import NAN_WORDS, Lost, lost_runs
from analysis.study import ATTEMPT, STATES, Study
from analysis.terms import Terms
from sngan.config import InputError, shown, suggestion
from sngan.files import visible

_NOT_THERE = ("", "na", "n/a", "#n/a", "<na>", "none", "null")
_MOST_DIGITS = 400  # of a number, of which a float has at most 309
_LARGEST = 2**63 - 1


def read(path: Path, reading: Reading, folder: Path) -> Study:
    """A file of runs (`analysis.sources.formats`) as a study whose report belongs into `folder`.

    Raises InputError if it cannot be read.
    """
    mapping = reading.mapping
    cells = formats.read(path, {mapping.get(known, known) for known in COLUMNS})
    known_metrics = [mapping[known] for known in METRICS if known in mapping]
    named = any(column in cells.columns for column in mapping.values())
    table = cells if named else formats.chart(cells, known_metrics)
    if table is not cells:  # a chart: its axis is the step, and if it has one metric, that is the quality
        metrics = [name for name in table.columns if name not in ("run", table.columns[0])]
        implied = {"step": table.columns[0]} | ({"quality": metrics[0]} if len(metrics) == 1 else {})
        reading = reading._replace(implied=implied)
    command = f"sngan report {shlex.quote(f'table:{path.name}')}{reading.arguments()}"
    study = from_table(table.frame, reading, formats.name_of(path), folder, command, table.columns)
    return replace(study, warnings=[*table.notes, *study.warnings])


def from_table(
    table: pd.DataFrame,
    reading: Reading,
    name: str,
    folder: Path,
    command: str = "",
    columns: Collection[str] | None = None,
) -> Study:
    """A study from a table as described above; its baseline is the reading's, else the first arm by name.

    `command` made it; its page says so. `columns`: of the file, if the table has only some of them.

    Raises InputError for a column that is missing, there twice, or holds something else than it should; for rows that
    nothing tells apart. What is only doubtful is in the study's `warnings`.
    """
    columns = [visible(str(called)) for called in (table if columns is None else columns)]
    table = table.set_axis([visible(str(called)) for called in table], axis=1)
    reading = reading._replace(
        mapping={known: visible(called) for known, called in reading.mapping.items()},
        implied={known: visible(called) for known, called in reading.implied.items()},
        baseline=visible(reading.baseline),
    )
    rows, column = _columns(table, reading, name, columns)
    if rows.empty:
        raise InputError(f"{name} has no rows")
    rows, words = _typed(rows, column, name)
    taken = set(re.compile(reading.run_name).groupindex)  # from the runs' names, whatever columns there are
    used = {column[known] for known in rows if known in column and known not in taken}
    unused = [called for called in columns if called not in used]
    terms = _terms(rows, column, reading, name)
    rows = _told_apart(rows.assign(**{f"{known}?": of for known, of in words.items()}), unused, name)
    rows = rows.sort_values(["run_id", "step"], kind="stable", ignore_index=True)
    words = {known: rows.pop(f"{known}?").to_numpy(bool) for known in words}
    if reading.baseline and reading.baseline not in set(rows["arm"]):
        arms = sorted(rows["arm"].unique())
        raise InputError(f"{name}: no arm {reading.baseline!r}{suggestion(reading.baseline, arms)} ({', '.join(arms)})")
    baseline = reading.baseline or min(rows["arm"])
    found, doubts = lost_runs(rows, words, {known: column[known] for known in METRICS})
    runs = _runs(rows, found, name)
    finite = {known: rows[known].where(~np.isinf(rows[known])) for known in words}  # an infinity has said what it says
    history = rows.assign(**finite).rename(columns=METRICS).drop(columns=["state", "run"], errors="ignore")
    account = runs["state"].value_counts().reindex(STATES, fill_value=0).rename("runs")
    warnings = [*quality_doubts(column["quality"], reading.maximize), *_alike(rows), *doubts]
    warnings += _left_out(rows, baseline, unused)
    side = "higher" if terms.maximize else "lower"
    return Study(
        name, f"By {terms.quality}, of which {side} is better.", folder, runs, history, account, [],
        baseline=baseline, command=command, foreign=True, terms=terms, warnings=warnings,
    )  # fmt: skip


def _typed(rows: pd.DataFrame, column: Mapping[str, str], name: str) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Names as texts, seeds and steps as whole numbers, metrics as numbers; and in which cells of these NaN stands."""
    words = {}
    for known in set(rows) & {*NAMES}:
        texts = _texts(rows[known])
        rows[known] = texts.map({text: visible(text) for text in texts.unique()})
        if (lacking := rows[known].str.strip() == "").any():
            raise InputError(f"{name}: {known} (column {column[known]!r}) is empty in row {lacking.argmax() + 1}")
    for known in ("seed", "step"):
        if known in rows:
            rows[known] = _whole(rows[known], f"{name}: {known} (column {column[known]!r})")
    for known in METRICS.keys() & set(rows):
        rows[known], words[known] = _numbers(rows[known], f"{name}: {known} (column {column[known]!r})")
    return rows, words


def _runs(rows: pd.DataFrame, found: Mapping[str, Lost], name: str) -> pd.DataFrame:
    """`Study.runs`; `found`: which are lost."""
    last = rows.groupby("run_id").tail(1).set_index("run_id")
    states, lost_step, reasons = _states(rows, last, found, name)
    runs = last[["dataset", "setting", "arm", "seed", "variant", "context", "step"]].assign(
        state=states, error=reasons, lost_step=lost_step, damage="", trivial_fd=np.nan, trivial_fd_pixels=np.nan,
        attempts=1, **dict.fromkeys(ATTEMPT),
    )  # fmt: skip
    return runs.reset_index()


def _left_out(rows: pd.DataFrame, baseline: str, unused: list[str]) -> Iterable[str]:
    """What nothing is made of."""
    without = sorted(set(rows["context"]) - set(rows.loc[rows["arm"] == baseline, "context"]))
    if without:
        yield f"without the baseline {baseline}, so nothing is compared there: {', '.join(without)}"
    if unused:
        shown = ", ".join(text or "(without a name)" for text in unused[:12])
        more = f" and {len(unused) - 12} more" if len(unused) > 12 else ""
        yield f"columns that are not used: {shown}{more}"


def _columns(
    table: pd.DataFrame, reading: Reading, name: str, columns: list[str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """The columns that mean something, by what they mean, and what each is called; arm and seed of the runs' names."""
    means = {**reading.implied, **reading.mapping}
    column = {known: means.get(known, known) for known in COLUMNS}
    used = [known for known in COLUMNS if column[known] in columns]
    if twice := [column[known] for known in used if columns.count(column[known]) > 1]:
        raise InputError(f"{name} has {columns.count(twice[0])} columns called {twice[0]!r}: rename all but one")
    rows = pd.DataFrame({known: table[column[known]] for known in used}).reset_index(drop=True)
    if reading.run_name:
        rows = rows.assign(**_of_names(rows, reading.run_name, name, column["run"]))
    missing = [known for known in COLUMNS if (known in REQUIRED or known in reading.mapping) and known not in rows]
    if missing:
        wanted = ", ".join(f"{known} (column {column[known]!r})" for known in missing)
        names = _texts(rows["run"]).unique().tolist() if "run" in rows else []
        said = advice(reading, missing, columns, names)
        raise InputError(f"{name} lacks {wanted}; its columns are {', '.join(columns)}: {said}")
    return rows, column


def _of_names(rows: pd.DataFrame, pattern: str, name: str, column: str) -> dict[str, pd.Series]:
    """Arm and seed, and what else a regular expression names, of the column `run`."""
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--run-name {shlex.quote(pattern)} is no regular expression: {error}") from error
    groups = compiled.groupindex
    if unknown := set(groups) - {*IN_NAME}:
        raise InputError(
            f"--run-name {shlex.quote(pattern)}: the group {unknown.pop()!r} is none of {', '.join(IN_NAME)}"
        )
    if lacking := [known for known in ("arm", "seed") if known not in groups and known not in rows]:
        raise InputError(
            f"--run-name {shlex.quote(pattern)} needs named groups arm and seed, such as {shlex.quote(RUN_NAMES[0])}; "
            f"it lacks {lacking[0]}"
        )
    if "run" not in rows:
        raise InputError(f"{name}: --run-name reads the column {column!r}, which is not there: say which with run=..")
    names = _texts(rows["run"])
    matches = {text: compiled.search(text) for text in names.unique()}
    if wrong := [text for text, match in matches.items() if not match or not all(match[g] for g in groups)]:
        raise InputError(
            f"--run-name {shlex.quote(pattern)} does not match the run {wrong[0]!r} ({len(wrong)} of {len(matches)})"
        )
    return {known: names.map({text: match[known] for text, match in matches.items() if match}) for known in groups}


def _texts(values: pd.Series) -> pd.Series:
    """As they are written; what is missing is empty."""
    if isinstance(values.dtype, pd.StringDtype) and not values.hasnans:
        return values
    return values.map(str).where(values.notna(), "").astype(str)


def _whole(values: pd.Series, what: str) -> pd.Series:
    """Whole numbers of 64 bits, exactly as they are written."""
    if len(distinct := values.drop_duplicates()) < len(values):
        return values.map(dict(zip(distinct, _whole(distinct, what), strict=True))).astype("int64")
    texts = _texts(values).str.strip()
    if (long := texts.str.len() > _MOST_DIGITS).any():
        raise InputError(f"{what} must hold whole numbers, got {shown(texts[long].iloc[0])}")
    plain = texts.str.fullmatch(r"[+-]?\d+")
    numbers = pd.to_numeric(texts.where(~plain, "0"), errors="coerce").astype(float)
    if (bad := values[numbers.isna() | (numbers % 1 != 0)]).size:
        raise InputError(f"{what} must hold whole numbers, got {_shown(bad.iloc[0])}")
    exact = [int(text) if whole else int(number) for text, whole, number in zip(texts, plain, numbers, strict=True)]
    large = [number for number, whole in zip(exact, plain, strict=True)
             if abs(number) > (_LARGEST if whole else 2**53)]  # fmt: skip
    if large:
        raise InputError(f"{what} must hold whole numbers of at most 64 bits, written out: {large[0]} is too large")
    return pd.Series(exact, index=values.index, dtype="int64")


def _shown(value: object) -> str:
    return repr(value.item() if isinstance(value, np.generic) else value)


def _numbers(values: pd.Series, what: str) -> tuple[pd.Series, np.ndarray]:
    """The numbers, NaN for every cell without one, and the cells in which the word NaN is written."""
    if pd.api.types.is_numeric_dtype(values) and values.dtype != bool:
        return values.astype(float), np.zeros(len(values), bool)
    texts = _texts(values).str.strip()
    plain = texts.str.lower()
    words, absent = plain.isin(NAN_WORDS), plain.isin(_NOT_THERE)
    numbers = pd.to_numeric(texts.mask(words | absent, "nan").replace("nan", np.nan), errors="coerce").astype(float)
    if (bad := texts[numbers.isna() & ~words & ~absent]).size:
        raise InputError(
            f"{what} holds {bad.iloc[0]!r}, which is no number: write a point for decimals, and nothing for thousands"
        )
    return numbers, words.to_numpy()


def _terms(rows: pd.DataFrame, column: Mapping[str, str], reading: Reading, name: str) -> Terms:
    """The table's own words, and on which scale its quality is compared."""
    quality, known = column["quality"], rows["quality"][np.isfinite(rows["quality"])]
    positive = bool((known > 0).all())
    if not positive and not may_be_negative(quality) and not reading.maximize:
        raise InputError(
            f"{name}: quality (column {quality!r}) must be positive, lower being better; of a score of which more is "
            "better, say so with --maximize"
        )
    steps = column["step"] if "step" in rows else "step"
    return Terms(quality, reading.maximize, positive and not reading.maximize, column["loss"], column["loss_g"],
                 column["grad_g"], steps)  # fmt: skip


def _told_apart(rows: pd.DataFrame, unused: list[str], name: str) -> pd.DataFrame:
    """With dataset, setting, context, variant, run_id and step; refused if rows are not told apart by these.

    Rows of one run and step that have nothing in common, as a loss and an evaluation that were logged one by one, are
    one row.
    """
    given = [known for known in ("dataset", "setting") if known in rows]
    keys = [*given, "arm", "seed"]
    others = f"; columns that are not used: {', '.join(unused)}" if unused else ""
    rows = rows.assign(variant=rows["arm"], run_id=_joined(rows, keys), context=_joined(rows, given) if given else name)
    rows = rows.assign(**{known: rows.get(known, name if known == "dataset" else "custom")
                          for known in ("dataset", "setting")})  # fmt: skip
    if "step" not in rows:
        rows = rows.assign(step=0)
        if (twice := rows.duplicated("run_id")).any():
            run_id = rows.loc[twice, "run_id"].iloc[0]
            count = int((rows["run_id"] == run_id).sum())
            raise InputError(
                f"{name}: {run_id} has {count} rows, and nothing tells them apart: if they are a curve, map step=..; "
                f"if they are tasks or settings, map dataset=.. or setting=..{others}"
            )
    rows = _merged(rows)
    if (twice := rows.duplicated(["run_id", "step"])).any():
        first = rows[twice].iloc[0]
        places = rows.index[(rows["run_id"] == first["run_id"]) & (rows["step"] == first["step"])] + 1
        raise InputError(
            f"{name}: step {first['step']} of {first['run_id']} appears {len(places)} times (rows {places[0]} and "
            f"{places[1]}): remove the duplicates, or map what tells them apart (dataset=.., setting=..){others}"
        )
    return rows


def _joined(rows: pd.DataFrame, keys: list[str]) -> pd.Series:
    """What the keys say, in one text; numbered if names that hold commas would make two of them alike."""
    numbers = rows.groupby(keys, sort=True).ngroup().to_numpy()
    first = rows[keys].iloc[np.unique(numbers, return_index=True)[1]]
    texts = [", ".join(f"seed {v}" if k == "seed" else v for k, v in of.items()) for of in first.to_dict("records")]
    if len(set(texts)) < len(texts):
        texts = [f"{text} ({i})" for i, text in enumerate(texts, start=1)]
    return pd.Series(np.array(texts, object)[numbers], rows.index)


def _merged(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one run and step as one, if no metric is in two of them."""
    keys = ["run_id", "step"]
    several = rows[rows.duplicated(keys, keep=False)]
    if several.empty:
        return rows
    metrics = [known for known in METRICS if known in rows]
    there = several[metrics].notna()
    apart = there.groupby([several[key] for key in keys]).sum().le(1).all(axis=1)
    apart = several[pd.MultiIndex.from_frame(several[keys]).isin(apart.index[apart])]
    how = {name: "max" if name.endswith("?") else "first" for name in apart if name not in keys}
    merged = apart.assign(at=apart.index).groupby(keys, as_index=False).agg({**how, "at": "first"}).set_index("at")
    for known in metrics:
        merged[f"{known}?"] &= merged[known].isna()
    return pd.concat([rows.drop(apart.index), merged])


def _states(
    rows: pd.DataFrame, last: pd.DataFrame, found: Mapping[str, Lost], name: str
) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Of each run its state, the step from which it is lost, and why."""
    ids = last.index
    if "state" not in rows:
        none = Lost(np.nan, None)
        lost = pd.DataFrame([found.get(run, none) for run in ids], ids, columns=Lost._fields)
        states = pd.Series(np.where(ids.isin(list(found)), "diverged", "finished"), ids)
        return states, lost["step"].astype(float), lost["why"]
    several = rows.groupby("run_id")["state"].nunique()
    if (several > 1).any():
        run = several.idxmax()
        said = " and ".join(rows.loc[rows["run_id"] == run, "state"].unique())
        raise InputError(f"{name}: {run} has the states {said}; a run has one")
    states = last["state"]
    if unknown := set(states) - {"finished", "diverged", "failed"}:
        raise InputError(f"{name}: state {unknown.pop()!r} is none of finished, diverged, failed")
    infinite = rows.loc[np.isinf(rows["quality"]), "run_id"]
    if (wrong := infinite[infinite.map(states) == "finished"]).size:
        raise InputError(f"{name}: {wrong.iloc[0]} is finished, and has an infinite quality; say diverged")
    lost = last["step"].where(states == "diverged").astype(float)
    first = {run: of.step for run, of in found.items() if states[run] == "diverged"}
    return states, lost.where(~ids.isin(list(first)), ids.map(first)), pd.Series(None, ids, dtype=object)


def _alike(rows: pd.DataFrame) -> Iterable[str]:
    """Names that look alike or are one number, and are kept apart."""
    for known, what in (("arm", "arms"), ("dataset", "data sets"), ("setting", "settings")):
        seen: dict[object, list[str]] = {}
        for text in rows[known].unique():
            shown = [c for c in unicodedata.normalize("NFKC", text).casefold() if unicodedata.category(c) != "Cf"]
            plain = re.sub(r"[\s_\-\u2010-\u2015]+", " ", "".join(shown)).strip() if len(shown) > 1 else "".join(shown)
            try:
                seen.setdefault(float(text), []).append(text)
            except ValueError:
                seen.setdefault(plain, []).append(text)
        for texts in seen.values():
            if len(texts) > 1:
                yield f"the {what} {' and '.join(map(repr, sorted(texts)))} look alike, and are kept apart"
