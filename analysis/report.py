"""Records -> one self-contained HTML page, the same tables as CSV and Markdown, figures and statistics.json."""

from __future__ import annotations

import base64
import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import plots
from analysis.load import Study, load, sound
from analysis.stability import STATISTICS, summarize
from analysis.stats import APPROXIMATE_BELOW, bands, binned, compare, rate_interval
from experiments.record import STATES, to_json, write_atomically
from sngan.config import ARMS

SIGMA_TOLERANCE, SIGMA_FROM_UPDATES = 1.05, 500  # claim C1
# what is compared between arms: of all of these lower is better
_QUALITY = (
    *("fd", "kd", "precision", "recall", "density", "coverage", "modes", "modes_5", "effective_modes", "mode_kl"),
    "diversity",
)
_SCORES = [name for name in STATISTICS if not name.endswith(("_end", "_best"))]


@dataclass(frozen=True)
class Table:
    """A table of the report; `file` is its CSV's name."""

    file: str
    title: str
    caption: str
    frame: pd.DataFrame
    needs: str = "records that hold it"  # where there are no rows

    @property
    def shown(self) -> pd.DataFrame:
        """Without the context where there is only one; the CSV has it always."""
        single = "context" in self.frame and self.frame["context"].nunique() == 1
        return self.frame.drop(columns="context") if single else self.frame

    def cells(self) -> list[list[str]]:
        return [[_text(value) for value in row] for row in self.shown.itertuples(index=False)]


@dataclass(frozen=True)
class Picture:
    """A figure of the report: what to see, and the same in words for those who do not see it."""

    file: str
    title: str
    caption: str
    data_uri: str


def write_report(folder: str | Path) -> Path:
    """Write <folder>/report/ from the study's records and return the page's path.

    Runs whose metrics were changed after they ended are named and left out of every number.

    Raises InputError where there are no records, or one cannot be read.
    """
    study = sound(load(folder))
    out = Path(folder) / "report"
    for sub in ("tables", "figures"):
        (out / sub).mkdir(parents=True, exist_ok=True)
    summary = summarize(study.history)
    comparisons = compare_arms(study, summary)
    tables = [account_table(study), quality_table(study), protocol_table(study)]
    tables += [sigma_table(study), operator_table(study), lipschitz_table(study)]
    tables += [*_statistics_tables(study, summary, comparisons), runs_table(study)]
    pictures = _pictures(study, summary, out / "figures")
    for table in tables:
        write_atomically(out / "tables" / f"{table.file}.csv", table.frame.to_csv(index=False))
    write_atomically(out / "index.html", rendered(study, tables, pictures))
    write_atomically(out / "report.md", _markdown(_content(study, tables), pictures))
    statistics = {
        "study": study.name,
        "account": study.account.to_dict(),
        "extra": study.extra,
        "quality": quality_table(study).frame.to_dict("records"),
        "protocols": protocol_table(study).frame.to_dict("records"),
        "sigma": sigma_table(study).frame.to_dict("records"),
        "operators": operator_table(study).frame.to_dict("records"),
        "lipschitz": lipschitz_table(study).frame.to_dict("records"),
        "runs": summary.to_dict("records"),
        "comparisons": comparisons.to_dict("records"),
    }
    write_atomically(out / "statistics.json", to_json(statistics, indent=1) + "\n")
    return out / "index.html"


def rendered(study: Study, tables: list[Table], pictures: list[Picture]) -> str:
    """The page; the first table is the account."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("report.html.j2").render(**_content(study, tables), pictures=pictures)


def account_table(study: Study) -> Table:
    """Runs of each variant by state, with the failure rate over the runs that ended."""
    rows = []
    for (context, variant), runs in _groups(study.runs):
        counts = runs["state"].value_counts().reindex(STATES, fill_value=0)
        bad, ended = counts["diverged"] + counts["failed"], counts[["finished", "diverged", "failed"]].sum()
        rate = rate_interval(int(bad), int(ended))
        row = {"context": context, "arm": variant, "planned": len(runs)} | counts.to_dict()
        rows.append(row | {"failure_rate": rate.estimate, "low": rate.low, "high": rate.high})
    caption = (
        "Every planned run is counted. The failure rate is that of diverged and failed runs among those that "
        "ended, with its exact (Clopper-Pearson) 95 % interval."
    )
    return Table("account", "Account of runs", caption, pd.DataFrame(rows))


def quality_table(study: Study) -> Table:
    """How good and varied the samples are at the end, between what reals and the trivial sampler score."""
    rows = []
    for (context, variant), history in _groups(study.history) if "eval/fd" in study.history else ():
        last = history.groupby("seed").last()  # of every column its last value
        fd = last["eval/fd"].dropna()
        row = {"context": context, "arm": variant, "n": len(fd)}
        row |= {"fd": fd.median(), "fd_low": fd.min(), "fd_high": fd.max()}
        row |= {name: last[f"eval/{name}"].median() for name in _QUALITY[1:] if f"eval/{name}" in last}
        rows.append(row)
    for context, _, protocol in _protocols(study):
        for name in ("real_against_real", "trivial_sampler"):
            scores = protocol.get(name, {})
            rows.append(
                {"context": context, "arm": name.replace("_", " ")} | {key: scores.get(key) for key in _QUALITY}
            )
    caption = (
        "Of each run's last evaluation: the median over n seeds, of fd also the range. fd (Frechet distance) and kd "
        "(kernel distance, unbiased: it may be negative) compare samples with real images in the features of the "
        "classifier that the next table names; they are no FID. precision and density: whether samples lie among the "
        "reals; recall and coverage: whether all reals are near some sample; modes: classes hit (modes_5: at least "
        "five times), effective_modes: exp of the entropy over classes, mode_kl: from the data's classes, in nats; "
        "diversity: mean distance between samples over that between reals. Two rows give the scale: what reals score "
        "against other reals, and a sampler that knows each pixel's mean and spread and nothing else. A run that "
        "diverged or failed counts with the last evaluation that it had."
    )
    return Table("quality", "Samples at the end", caption, pd.DataFrame(rows))


def protocol_table(study: Study) -> Table:
    """How samples were judged: a row per context, or more where its runs were judged differently."""
    rows = []
    for context, runs, protocol in _protocols(study):
        row = {"context": context, "runs": runs} | {k: v for k, v in protocol.items() if not isinstance(v, dict)}
        rows.append(row | {"real_against_real_fd": protocol.get("real_against_real", {}).get("fd")})
    caption = (
        "The same for every run of a data set and number of samples; numbers of different protocols cannot be "
        "compared. "
        "Distances use n_real reals and n_fake samples, modes n_labels samples; the generator's batch norm uses its "
        "running statistics; k is the neighbour of precision, recall, density and coverage. The classifier is known by "
        "its accuracy on images that it was not trained on and by the SHA-256 of its weights."
    )
    return Table("protocol", "How samples were judged", caption, pd.DataFrame(rows))


def _judged(study: Study, context: str) -> str:
    """The protocol of a context in two sentences: what belongs beside every number."""
    sentences = [
        f"{p.get('n_fake', 0):,} samples against {p.get('n_real', 0):,} reals in the features of "
        f"{p.get('feature_net')} (accuracy {p.get('feature_net_accuracy', np.nan):.2%}, SHA-256 "
        f"{str(p.get('feature_net_sha256'))[:8]}), batch norm by its {p.get('batch_norm')}. Reals against reals have "
        f"an fd of {p.get('real_against_real', {}).get('fd', np.nan):.3g}, the trivial sampler one of "
        f"{p.get('trivial_fd', np.nan):.3g}. "
        for c, _, p in _protocols(study)
        if c == context
    ]
    return "".join(sentences)


def _protocols(study: Study) -> list[tuple[str, int, dict[str, Any]]]:
    """(context, number of runs, protocol) of each distinct protocol."""
    context_of = study.runs.set_index("run_id")["context"]
    found = Counter((context_of[run_id], json.dumps(protocol)) for run_id, protocol in study.protocols.items())
    return [(context, runs, json.loads(protocol)) for (context, protocol), runs in found.items()]


def sigma_table(study: Study) -> Table:
    """Exact spectral norms of D's layers at the last row of each run: median and range over seeds."""
    rows = []
    layers = [name.removeprefix("sigma/") for name in study.history if name.startswith("sigma/")]
    for (context, variant), history in _groups(study.history):
        last = history.groupby("seed").tail(1)
        late = history[history["d_updates"] >= SIGMA_FROM_UPDATES]
        for layer in layers:
            used, raw = last[f"sigma/{layer}"].dropna(), last[f"sigma_raw/{layer}"].dropna()
            late_values = late[f"sigma/{layer}"].dropna()
            row = {"context": context, "arm": variant, "layer": layer, "n": len(used)}
            row |= {"sigma": used.median(), "sigma_low": used.min(), "sigma_high": used.max()}
            row |= {"sigma_raw": raw.median(), "sigma_raw_low": raw.min(), "sigma_raw_high": raw.max()}
            row["share_above_1.05"] = (late_values > SIGMA_TOLERANCE).mean() if len(late_values) else np.nan
            rows.append(row)
    caption = (
        "Exact largest singular value of each discriminator layer's matrix at the run's last row: of the weight the "
        "forward pass uses (sigma) and of the parameter itself (sigma_raw); median over n seeds, low and high are "
        f"their range. The last column is the share of rows after {SIGMA_FROM_UPDATES} discriminator updates whose "
        f"sigma exceeds {SIGMA_TOLERANCE}."
    )
    return Table("sigma", "Spectral norms at the end", caption, pd.DataFrame(rows))


def operator_table(study: Study) -> Table:
    """What a layer does as it runs, and the shape of its spectrum, at the last row that has it."""
    rows = []
    layers = [name.removeprefix("sigma_conv/") for name in study.history if name.startswith("sigma_conv/")]
    for (context, variant), history in _groups(study.history) if layers else ():
        last = history.groupby("seed").last()  # of every column its last value
        for layer in layers:
            values = last[f"sigma_conv/{layer}"].dropna()
            row = {"context": context, "arm": variant, "layer": layer, "n": len(values)}
            row |= {"sigma_conv": values.median(), "sigma_conv_low": values.min(), "sigma_conv_high": values.max()}
            for name in ("sigma_bn", "stable_rank", "effective_rank", "spectrum_share"):
                row[name] = last[f"{name}/{layer}"].median() if f"{name}/{layer}" in last else np.nan
            rows.append(row)
    caption = (
        "sigma_conv: operator norm of the convolution at its stride and input size, a lower bound within about 0.1 %; "
        "it lies between sigma and a multiple of it that kernel and stride decide, so a sigma of 1 does not make the "
        "layer 1-Lipschitz. sigma_bn: the matrix's sigma with the gain of the batch norm that follows. Stable rank, "
        "effective rank and the share of singular values above half the largest are of the raw parameter. Medians "
        "over n seeds, low and high are the range."
    )
    return Table("operators", "Operator norms and spectra at the end", caption, pd.DataFrame(rows))


def lipschitz_table(study: Study) -> Table:
    """Bounds of D's Lipschitz constant from both sides, at the last row that has them."""
    rows = []
    kinds = {"product": "lipschitz/product", "empirical": "lipschitz/empirical"}
    for (context, variant), history in _groups(study.history) if set(kinds.values()) <= set(study.history) else ():
        last = history.groupby("seed").last().dropna(subset=list(kinds.values()))
        values = {kind: last[metric] for kind, metric in kinds.items()}
        values["tightness"] = values["empirical"] / values["product"]
        row = {"context": context, "arm": variant, "n": len(last)}
        for kind, of in values.items():
            row |= {kind: of.median(), f"{kind}_low": of.min(), f"{kind}_high": of.max()}
        rows.append(row)
    caption = (
        "product: of the layers' operator norms and batch-norm gains, an upper bound; empirical: the largest norm of "
        "dD/dx over real, generated and interpolated images, a lower bound; tightness: empirical over product. D in "
        "eval mode: batch norm uses its running statistics, which mix real and generated images. Median and range "
        "over n seeds."
    )
    return Table("lipschitz", "How steep the discriminator is", caption, pd.DataFrame(rows))


def compare_arms(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    """`stats.compare` of every statistic within every context; a failed or diverged run's score is +inf."""
    frames = [pd.DataFrame()]
    for context, statistic, scores, baseline in _scores(study, summary):
        frame = compare(scores, baseline)
        frame.insert(0, "context", context)
        frame.insert(1, "statistic", statistic)
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def _scores(study: Study, summary: pd.DataFrame) -> list[tuple[str, str, pd.DataFrame, str]]:
    """(context, statistic, frame with arm, seed, score, baseline) of everything that can be compared."""
    result = []
    keyed = summary.set_index("run_id")
    ended = study.runs[study.runs["state"].isin(["finished", "diverged", "failed"])]
    for context, runs in ended.groupby("context", sort=False):
        variants = plots.in_order(runs["variant"])
        if len(variants) < 2:
            continue
        for statistic in _SCORES:
            values = keyed[statistic].reindex(runs["run_id"]).to_numpy()
            scores = pd.DataFrame({"arm": runs["variant"], "seed": runs["seed"], "score": values})
            scores.loc[runs["state"] != "finished", "score"] = np.inf
            measured = np.isfinite(scores["score"]).any() or not (runs["state"] == "finished").any()
            scores = scores.dropna()  # a finished run that the statistic is not defined for: its pair is left out
            if measured and variants[0] in set(scores["arm"]) and scores["arm"].nunique() > 1:
                result.append((context, statistic, scores, variants[0]))
    return result


def _statistics_tables(study: Study, summary: pd.DataFrame, comparisons: pd.DataFrame) -> list[Table]:
    rows = []
    present = [name for name in STATISTICS if summary[name].notna().any()]
    for (context, variant), runs in _groups(summary):
        for name in present:
            values = runs[name].dropna()
            row = {"context": context, "arm": variant, "statistic": STATISTICS[name], "n": len(values)}
            rows.append(row | {"median": values.median(), "low": values.min(), "high": values.max()})
    per_arm = Table(
        "statistics",
        "Stability statistics by arm",
        "Median and range over n seeds of each run's statistic, diverged and failed runs up to where they came.",
        pd.DataFrame(rows),
    )
    shown = comparisons.assign(statistic=comparisons["statistic"].map(STATISTICS)) if len(comparisons) else comparisons
    against = Table(
        "comparisons",
        "Arms compared, paired by seed",
        "Hodges-Lehmann shift of the arm against the baseline (below zero: the arm is the steadier one), with 95 % "
        "interval and Wilcoxon signed rank p, adjusted by Benjamini-Hochberg over the arms of a statistic; spread "
        "ratio by the paired Brown-Forsythe test. Failed and diverged runs rank worst; n_pairs are the seeds in which "
        "both arms have the statistic. "
        f"Fewer than {APPROXIMATE_BELOW} pairs describe, they do not test.",
        shown,
        "at least two arms with runs that ended",
    )
    per_run = Table(
        "runs_statistics",
        "Stability statistics by run",
        "S1, S5 and S6 on the losses, S7 on the generator's gradient norm.",
        summary[["run_id", "last_step", *present]],
    )
    return [per_arm, against, per_run]


def runs_table(study: Study) -> Table:
    columns = [
        "run_id",
        "context",
        "variant",
        "seed",
        "state",
        "step",
        "error",
        "wall_seconds",
        "device_name",
    ]
    frame = study.runs[[*columns, "torch", "git_commit", "git_dirty", "wandb_url"]].rename(columns={"variant": "arm"})
    return Table("runs", "Runs", "Every planned run, with the reason where it did not finish.", frame)


def _pictures(study: Study, summary: pd.DataFrame, out: Path) -> list[Picture]:
    pictures = []
    layers = [name.removeprefix("sigma/") for name in study.history if name.startswith("sigma/")]
    losses = {"loss/d": "loss of the discriminator", "loss/g": "loss of the generator"}
    sigmas = {f"sigma/{layer}": f"{layer}, weight as used" for layer in layers}
    sigmas |= {f"sigma_raw/{layer}": f"{layer}, raw parameter" for layer in layers}
    gradients = {
        "grad_norm/d": "gradient norm of the discriminator",
        "grad_norm/g": "gradient norm of the generator",
    }
    operators = {f"sigma_conv/{layer}": f"{layer}, operator norm" for layer in layers}
    steepness = {"lipschitz/product": "product of norms and gains (upper bound)",
                 "lipschitz/empirical": "largest |dD/dx| found (lower bound)"}  # fmt: skip
    distances = {"eval/fd": "fd (Frechet distance)", "eval/mode_kl": "KL of the classes, nats"}
    coverage = {
        "eval/precision": "precision", "eval/density": "density", "eval/recall": "recall", "eval/coverage": "coverage",
        "eval/effective_modes": "effective modes", "eval/diversity": "diversity",
    }  # fmt: skip
    steepness |= {f"grad_x/{kind}": f"mean |dD/dx|, {kind} images" for kind in ("real", "fake", "interpolated")}
    kinds = (
        ("losses", "Losses", "The discriminator's and the generator's loss.", losses, False, 2),
        ("distance", "Distance of samples from the data",
         "Lower is better.",
         distances, True, 2),
        ("coverage", "Quality and variety of samples",
         "Of reals against reals all but the effective modes would be near 1, and these near the number of classes. "
         "One image repeated can be precise, but not varied.",
         coverage, False, 3),
        ("sigma", "Spectral norms by layer",
         "Exact largest singular value of each layer's matrix; above of the weight as used, below of the raw "
         "parameter. Spectral normalization holds the upper ones at 1.", sigmas, True, max(len(layers), 1)),
        ("operators", "Operator norms by layer",
         "Largest factor by which each convolution, at its stride and input size, stretches an input. Compare with the "
         "matrix's largest singular value above: where that one is held at 1, this one is not.", operators, True,
         max(len(layers), 1)),
        ("steepness", "How steep the discriminator is",
         "Bounds of its Lipschitz constant from above and below, and the mean norm of its gradient with respect to "
         "images.", steepness, True, 2),
        ("gradients", "Gradient norms", "Euclidean norm over all of a network's gradients, mean over updates.",
         gradients, True, 2),
    )  # fmt: skip
    for context, history in study.history.groupby("context", sort=False):
        slug = "" if study.history["context"].nunique() == 1 else "-" + _slug(str(context))
        for file, title, caption, metrics, log_y, columns in kinds:
            present = {m: name for m, name in metrics.items() if m in history and history[m].notna().any()}
            if not present:
                continue
            rows = binned(history, list(present))
            panels = {name: bands(rows, metric) for metric, name in present.items()}
            panels = {name: frame for name, frame in panels.items() if len(frame)}
            if panels:
                figure = plots.curves(panels, log_y, columns)
                judged = _judged(study, str(context)) if metrics in (distances, coverage) else ""
                caption = f"{caption} {judged}{_seeds(history)}"
                pictures.append(_picture(figure, out, file + slug, f"{title}: {context}", caption))
        pictures += _sample_pictures(study, str(context), slug, out)
    if len(frame := _paired_differences(study, summary)):
        titles = {name: STATISTICS[name] for name in _SCORES if (frame["statistic"] == name).any()}
        for context, of in frame.groupby("context", sort=False):
            slug = "" if frame["context"].nunique() == 1 else "-" + _slug(str(context))
            caption = (
                f"Each dot is one seed: the arm's statistic minus that of {of['baseline'].iloc[0]} with the same "
                "initial weights, data order and latents. Left of zero the arm is the steadier one."
            )
            figure = plots.differences(of, titles)
            pictures.append(_picture(figure, out, "differences" + slug, f"Paired differences: {context}", caption))
    return pictures


def _paired_differences(study: Study, summary: pd.DataFrame) -> pd.DataFrame:
    frames = [pd.DataFrame()]
    for context, statistic, scores, baseline in _scores(study, summary):
        table = scores.replace(np.inf, np.nan).pivot(index="seed", columns="arm", values="score")
        delta = table.drop(columns=baseline).sub(table[baseline], axis=0)
        frame = delta.melt(ignore_index=False, var_name="variant", value_name="difference").reset_index()
        frames.append(frame.assign(context=context, statistic=statistic, baseline=baseline).dropna())
    return pd.concat(frames, ignore_index=True)


def _sample_pictures(study: Study, context: str, slug: str, out: Path) -> list[Picture]:
    """All arms and seeds at the last step that they share, and one seed's arms through training."""
    runs = study.runs[study.runs["context"] == context]
    grids = {
        (run.variant, run.seed): {
            int(path.stem.removeprefix("step-")): path
            for path in (study.folder / run.run_id / "samples").glob("step-*.png")
            if path.stem.removeprefix("step-").isdecimal()
        }
        for run in runs.itertuples()
    }
    grids = {key: found for key, found in grids.items() if found}
    if not grids:
        return []
    variants = plots.in_order(pd.Series([variant for variant, _ in grids]))
    shared = sorted(set.intersection(*(set(found) for found in grids.values())))
    last = shared[-1] if shared else max(max(found) for found in grids.values())
    seeds = sorted({seed for _, seed in grids})[:5]
    chosen = {
        (plots.label_of(v), f"seed {s}"): grids[v, s][last]
        for v in variants for s in seeds if last in grids.get((v, s), {})
    }  # fmt: skip
    pictures = []
    if chosen:
        caption = f"The same 64 fixed latents of a seed in every arm, at step {last:,}. Rows: arms; columns: seeds."
        if len(seeds) < runs["seed"].nunique():
            caption += f" The first {len(seeds)} of {runs['seed'].nunique()} seeds."
        figure = plots.sample_matrix(chosen)
        pictures.append(_picture(figure, out, "samples" + slug, f"Samples at step {last:,}: {context}", caption))
    if len(shared) > 2:
        steps = [shared[i] for i in np.unique(np.linspace(0, len(shared) - 1, 5).round().astype(int))]
        first = {
            (plots.label_of(v), f"step {step:,}"): grids[v, seeds[0]][step]
            for v in variants for step in steps if (v, seeds[0]) in grids
        }  # fmt: skip
        caption = f"Seed {seeds[0]}: the same latents through training. Rows: arms; columns: steps."
        figure = plots.sample_matrix(first)
        pictures.append(_picture(figure, out, "evolution" + slug, f"Samples through training: {context}", caption))
    return pictures


def _picture(figure: Figure, out: Path, file: str, title: str, caption: str) -> Picture:
    drawn = {kind: plots.rendered(figure, kind) for kind in ("png", "svg")}
    for kind, content in drawn.items():
        write_atomically(out / f"{file}.{kind}", content)
    uri = "data:image/png;base64," + base64.b64encode(drawn["png"]).decode()
    return Picture(file, title, caption, uri)


def _content(study: Study, tables: list[Table]) -> dict[str, Any]:
    runs = study.runs
    seeds = runs.groupby(["context", "variant"])["seed"].nunique()
    versions = {
        "code": ", ".join(f"{c}{' with changes' if d else ''}" for c, d in _distinct(runs, "git_commit", "git_dirty")),
        "torch": ", ".join(v for (v,) in _distinct(runs, "torch")),
        "devices": ", ".join(v for (v,) in _distinct(runs, "device_name")),
        "training version": ", ".join(str(int(v)) for (v,) in _distinct(runs, "training_version")),
        "seeds per arm": f"{seeds.min()}" if seeds.nunique() == 1 else f"{seeds.min()} to {seeds.max()}",
    }
    problems = runs.loc[(runs["state"] != "finished") | (runs["damage"] != ""), ["run_id", "state", "step"]]
    reasons = [runs.loc[problems.index, name].fillna("") for name in ("error", "damage")]
    problems["error"] = [", ".join(filter(None, pair)) for pair in zip(*reasons, strict=True)]
    judged = Counter(context for context, _, _ in _protocols(study))
    return {
        "mixed_protocols": [context for context, count in judged.items() if count > 1],
        "name": study.name,
        "question": study.description,
        "account": study.account.to_dict(),
        "total": len(runs),
        "extra": study.extra,
        "problems": problems.to_dict("records"),
        "few_seeds": int(seeds.min()) if seeds.min() < APPROXIMATE_BELOW else 0,
        "tables": tables,
        "versions": {key: value for key, value in versions.items() if value},
        "arms": [
            {"slug": arm, "label": ARMS[arm].label, "source": ARMS[arm].source}
            for arm in ARMS if (runs["arm"] == arm).any()
        ],
        "command": f"sngan report {study.name}",
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }  # fmt: skip


def _markdown(content: dict[str, Any], pictures: list[Picture]) -> str:
    states = ", ".join(f"{count} {state}" for state, count in content["account"].items() if count)
    lines = [
        f"# {content['name']}",
        "",
        content["question"],
        "",
        f"{content['total']} planned runs: {states}.",
        "",
    ]
    for picture in pictures:
        lines += [f"![{picture.title}](figures/{picture.file}.png)", "", picture.caption, ""]
    for table in content["tables"]:
        lines += [f"## {table.title}", "", table.caption, ""]
        lines += ["| " + " | ".join(map(str, table.shown)) + " |", "|" + "---|" * table.shown.shape[1]]
        lines += [f"| {' | '.join(map(_markdown_cell, row))} |" for row in table.cells()]
        lines.append("")
    return "\n".join(lines)


def _markdown_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _groups(frame: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """((context, variant), rows) in the order of contexts and of the arm table."""
    return [
        ((str(context), variant), of[of["variant"] == variant])
        for context, of in frame.groupby("context", sort=False)
        for variant in plots.in_order(of["variant"])
    ]


def _distinct(runs: pd.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    return list(runs[list(columns)].dropna().drop_duplicates().itertuples(index=False, name=None))


def _seeds(history: pd.DataFrame) -> str:
    n = history.groupby("variant")["seed"].nunique()
    count = f"{n.min()}" if n.nunique() == 1 else f"{n.min()} to {n.max()}"
    if n.max() == 1:
        return "One seed per arm: no band."
    line, band = ("centre", "its 95 % interval") if n.min() >= APPROXIMATE_BELOW else ("median", "their range")
    return f"Lines: {line} over {count} seeds; bands: {band}; drawn as far as half of the seeds came."


def _slug(text: str) -> str:
    return "".join(c if c.isalnum() else "_" for c in text)


def _text(value: Any) -> str:
    """A cell as people read it: four significant digits, nothing for what is missing."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return ""
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)
