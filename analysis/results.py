"""What experiments/results says of the reference study, all of it made of what is frozen there.

`python -m analysis.results` writes the page, statistics.json, the tables and the key figures beside the frozen data,
and renews what stands between `<!-- NAME -->` and `<!-- end -->` in experiments/results/README.md, and README's answer.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from shutil import copyfile

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import observations, plots, sensitivity, stats
from analysis.answer import REFERENCE, RESULTS, opened, with_answer
from analysis.claims import CLAIMS, NAMED, judge
from analysis.page import panels, report
from analysis.page.tables import interval, written
from analysis.stability import summarize
from analysis.study import Study
from sngan.config import InputError
from sngan.files import write_atomically

_COPIED = ("index.html", "statistics.json")  # of the report
_FIGURES = ("sigma", "steepness", "gradients", "distance", "causes", "coverage")  # that claims name, of one context
_SEVERAL = 7  # effective classes of samples, of 10
_LOWEST_SLOPE = 1e-4  # that is drawn
_UNMOVED = ("C1", "C2", "C3", "C4", "C5", "C12", "C13")  # they go by nothing that a view varies
_SHOWN_AT, _SHOWN_AT_FILE = "lr 0.01", "lr_0_01"


@dataclass(frozen=True)
class Findings:
    """A frozen study with its outcomes. `folder` holds its `data`; benchmarks lie in `bench` beside it."""

    folder: Path

    @cached_property
    def study(self) -> Study:
        return opened(self.folder / "data")

    @cached_property
    def summary(self) -> pd.DataFrame:
        return summarize(self.study.history, self.study.runs, terms=self.study.terms)

    @cached_property
    def claims(self) -> pd.DataFrame:
        return judge(self.study, self.summary)

    @cached_property
    def views(self) -> pd.DataFrame:
        return sensitivity.verdicts(self.study)

    @cached_property
    def observed(self) -> pd.DataFrame:
        return observations.replicate(self.summary, self.study.history)

    @cached_property
    def rates(self) -> list[str]:
        """The contexts, by learning rate."""
        lrs = self.study.runs.drop_duplicates("context").set_index("context")["lr"].astype(float)
        return [str(context) for context in lrs.sort_values().index]


# --- tables of README ---


def verdict_table(found: Findings) -> Iterator[str]:
    """A row per part that decides: effect, interval, n and the claim's verdict at each learning rate."""
    yield f"| claim | measured | {' | '.join(found.rates)} | figure |"
    yield f"|---|---|{'---|' * len(found.rates)}---|"
    judged = sensitivity.at_every_rate(found.study, found.summary)
    judged = judged[judged["decides"] & judged["context"].isin(found.rates) & (judged["verdict"] != "not tested")]
    primary = {claim: found.study.primary.get(outcome) for claim, outcome in NAMED.items()}
    for claim in CLAIMS:
        parts = judged[judged["claim"] == claim.id]
        places = parts.groupby("context", sort=False).cumcount()
        for place, of in parts.groupby(places):
            cells = {
                row["context"]: _cell(row, place == 0, row["context"] == primary.get(claim.id)) for row in _dicts(of)
            }
            words = _without_counts(of["evidence"].iloc[0])
            figure = f"[{claim.figure}](mnist-short/{claim.figure}.png)" if claim.figure in _FIGURES else ""
            first = f"{claim.id}. {claim.statement}" if place == 0 else ""
            yield f"| {first} | {words} | {' | '.join(cells.get(c, '') for c in found.rates)} | {figure} |"


def _dicts(frame: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def _cell(row: Mapping[str, object], first: bool, named: bool) -> str:
    """The claim's verdict, once, and the part's numbers; of a contradicted claim the parts that contradict it."""
    effect = interval(row["effect"], row["low"], row["high"])
    said = f"**{row['verdict']}**" if row["verdict"] in ("supported", "contradicted") else str(row["verdict"])
    opposite = row["verdict"] == "contradicted" and row["part"] == "opposite"
    number = f"{effect}, n {row['n']}{' (opposite)' if opposite else ''}" if effect else ""
    return f"{'(named) ' if named else ''}{said if first else ''}{': ' if first and number else ''}{number}"


def _without_counts(evidence: object) -> str:
    return re.sub(r" \(\d+ and \d+\)$", "", str(evidence)).replace("|", "\\|")


def spanning_table(found: Findings) -> Iterator[str]:
    """The claims that are judged over all learning rates together, or by a benchmark."""
    yield from ("| claim | measured | effect [95 %] | n | verdict | figure |", "|---|---|---|---|---|---|")
    rows = found.claims[found.claims["decides"] & ~found.claims["context"].isin(found.rates)]
    for row in _dicts(rows[rows["verdict"] != "not tested"]):
        reason = f" ({row['reason']})" if row["reason"] else ""
        effect = interval(row["effect"], row["low"], row["high"])
        measured = _without_counts(row["evidence"])
        figure = "" if row["claim"] == "C12" else "[answer](mnist-short/answer.png)"
        claim = f"{row['claim']}. {row['statement']}"
        yield f"| {claim} | {measured} | {effect} | {row['n']} | {row['verdict']}{reason} | {figure} |"


def untested(found: Findings) -> Iterator[str]:
    """Claims that this study cannot test, with what they lack."""
    tested = set(found.claims.loc[found.claims["verdict"] != "not tested", "claim"])
    for row in _dicts(found.claims[~found.claims["claim"].isin(tested)].drop_duplicates("claim")):
        yield f"- {row['claim']}. {row['statement']} Not tested: {row['reason']}."


def flip_table(found: Findings) -> Iterator[str]:
    """Claims whose verdict is another under some view."""
    table = sensitivity.flips(found.views[~found.views["claim"].isin(_UNMOVED)])
    order = [claim.id for claim in CLAIMS]
    places = {context: i for i, context in enumerate(found.rates)}
    table = table.assign(place=table["claim"].map(order.index), rate=table["context"].map(places))
    table = table.sort_values(["place", "rate"], ignore_index=True)
    of, changed = len(table), table[table["flips"] > 0]
    n = int(table["of"].iloc[0])
    usual = dict(zip(zip(table["claim"], table["context"], strict=True), table["verdict"], strict=True))
    turned = sum(
        {row["verdict"], usual[row["claim"], row["context"]]} == {"supported", "contradicted"}
        for row in found.views.to_dict("records")
        if row["claim"] not in _UNMOVED
    )
    same = f"Of {of} verdicts that could change, {of - len(changed)} are the same under all {n} other views"
    between = "support into contradiction, or contradiction into support"
    yield f"{same}; {turned} times a view turns {between}." if turned else f"{same}. No view turns {between}."
    yield from ("", "| claim | judged at | verdict | another one under | which |", "|---|---|---|---|---|")
    for row in _dicts(changed):
        yield (
            f"| {row['claim']} | {row['context']} | {row['verdict']} | {row['flips']} of {row['of']} | {row['which']} |"
        )


def observation_table(found: Findings) -> Iterator[str]:
    yield from (
        "| seen | measured | seeds 0 to 6 | held-back seeds [95 %] | n | p, Holm | |",
        "|---|---|---|---|---|---|---|",
    )
    last = ""
    for row in _dicts(found.observed):
        first, last = (f"{row['id']}. {row['statement']}" if row["id"] != last else ""), str(row["id"])
        held = interval(row["effect"], row["low"], row["high"])
        verdict = f"[{row['verdict']}](mnist-short/{row['figure']}.png)" if first else ""
        yield (
            f"| {first} | {row['part']} | {written(row['seen'])} | {held} | {row['n']} {row['of']} | "
            f"{written(row['p_adjusted']) if first else ''} | {verdict} |"
        )


def outside_table(found: Findings) -> Iterator[str]:
    """What others published, beside what is measured here."""
    yield from ("| quantity | published | here |", "|---|---|---|")
    c1 = found.claims[(found.claims["claim"] == "C1") & found.claims["effect"].notna()]
    if len(c1):
        yield (
            "| sigma of the weight that SN uses | 1 to 1.05 (SN, C.1) | above 1.05 in "
            f"{100 * c1['effect'].min():.2g} to {100 * c1['effect'].max():.2g} % of layer-rows, by arm and learning "
            f"rate; the largest is {_largest_sigma(found):.2f} |"
        )
    for row in _dicts(found.claims[(found.claims["claim"] == "C12") & found.claims["effect"].notna()]):
        arms, _, machine = (
            str(row["evidence"]).removeprefix("step time, ").partition(", over rounds of a benchmark on ")
        )
        limit, effect, ends = row["threshold"], row["effect"], (row["low"], row["high"])
        if arms.startswith("plain / "):  # a gradient penalty's, turned so that it reads like the others
            arms = f"{arms.removeprefix('plain / ')} / plain"
            published, numbers = f"at least {1 / limit:.2g}", [1 / effect, 1 / ends[1], 1 / ends[0]]  # type: ignore[operator]
        else:
            published, numbers = f"at most {limit:.2g}", [effect, *ends]
        measured = f"{interval(*numbers)}, {row['n']} rounds on {machine}"
        yield f"| step time, {arms} | {published} (SN, Fig. 10) | {measured} |"
    c8 = found.claims[(found.claims["claim"] == "C8") & found.claims["decides"] & found.claims["effect"].notna()]
    said = "; ".join(
        f"{row['context']}: {interval(row['effect'], row['low'], row['high'])}" for row in _dicts(_in_order(c8, found))
    )
    published = (
        "SN better on CIFAR-10: FID 29.3 against 56.3 (SN, Table 2, batch norm), 23.6 against 34.3 (chainer-gan-lib)"
    )
    yield f"| gain by fd, `sn` - `dcgan` (above 0: SN is better) | {published} | {said} |"
    yield "| modes of Stacked-MNIST, of 1,000 | DCGAN 79 to 99; for SN none published | not run |"


def _largest_sigma(found: Findings) -> float:
    """Of the weight as used, in `sn` and `sn_dcgan`, from the first update on."""
    rows = found.study.history[found.study.history["arm"].isin(["sn", "sn_dcgan"]) & (found.study.history["step"] > 0)]
    return float(rows[[name for name in rows if name.startswith("sigma/")]].max().max())


def counts(found: Findings) -> Iterator[str]:
    """What happened to the runs, in numbers."""
    ended = found.summary[found.summary["failure"].notna()]
    failed = ended[ended["failure"].astype(bool)]
    normed = failed[failed["arm"].str.endswith("dcgan")]
    never = int((normed["cause"] == "never learned").sum())
    drew = int((normed["effective_modes_end"] >= _SEVERAL).sum())
    yield (
        f"- With batch norm {len(normed)} of {int(ended['arm'].str.endswith('dcgan').sum())} runs failed, "
        f"{'all' if never == len(normed) else never} of them because they were never healthy; {drew} of these ended "
        f"with samples of at least {_SEVERAL} effective classes that are not good enough, the others with fewer."
    )
    for arm in ("sn", "plain"):
        of = failed[failed["variant"] == arm]
        diverged = int(of["causes"].str.contains("divergence").sum())
        drew = int((of["effective_modes_end"] >= _SEVERAL).sum())
        yield (
            f"- `{arm}`: {len(of)} of {int((ended['variant'] == arm).sum())} runs failed; {diverged} diverged, and "
            f"{drew} ended with samples of at least {_SEVERAL} effective classes that are not good enough."
        )
    for arm, other in (("sn", "plain"), ("sn_dcgan", "dcgan")):
        healthy = ended.assign(healthy=ended["healthy_end"].astype(float))
        table = healthy.pivot_table(index=["seed", "variant"], columns="context", values="healthy").dropna().sum(axis=1)
        d = (table.unstack()[arm] - table.unstack()[other]).dropna()
        yield (
            f"- Of {len(d)} seeds, `{arm}` ends healthy at more learning rates than `{other}` in {int((d > 0).sum())}, "
            f"at fewer in {int((d < 0).sum())}, at as many in {int((d == 0).sum())}."
        )


def fate(found: Findings) -> Iterator[str]:
    """The first observation's rule in the held-back seeds, as a table in words, and with runs of a seed as one."""
    held = found.summary[found.summary["failure"].notna() & ~found.summary["seed"].isin(observations.LOOKED_AT)]
    held = observations.with_early_accuracy(held, found.study.history)
    of = observations.fated(held)
    told, failed = of["told"], of["failed"]
    p = observations.fate_by_seed_p(held)
    yield (
        f"Of the {int(told.sum())} held-back runs of which the rule says that they fail, {int((told & failed).sum())} "
        f"failed; of the {int((~told).sum())} others {int((~told & failed).sum())} failed. Runs of one seed are not "
        f"independent: where whole seeds are permuted, p is {written(p)}, before Holm."
    )


def _in_order(frame: pd.DataFrame, found: Findings) -> pd.DataFrame:
    return frame.sort_values("context", key=lambda names: names.map(found.rates.index))


# --- figures ---


def figures(found: Findings) -> Iterator[tuple[str, Figure]]:
    """The answer's, then those of the observations."""
    look = plots.look_of(found.study.runs["variant"])
    ended = found.summary[found.summary["failure"].notna()]
    trivial = float(found.study.runs["trivial_fd"].median())
    yield "answer", panels.ends(_ends(ended, found.rates), look, {"trivial sampler": trivial})
    yield "fate", _fate(found, ended)
    shares = ended.assign(failed=ended["failure"].astype(float), arm=ended["variant"].map(look.labels))
    shares["diverged"] = shares["causes"].str.contains("divergence").astype(float)
    order = [look.labels[variant] for variant in look.colours]
    titles = {"failed": "share of runs that failed", "diverged": "share of runs that diverged"}
    tables = {
        words: shares.pivot_table(index="arm", columns="context", values=name)[found.rates].loc[order]
        for name, words in titles.items()
    }
    yield "failures", panels.matrices(tables)
    slopes = found.study.history[found.study.history["context"] == _SHOWN_AT]
    flat = slopes[slopes["arm"].isin(["plain", "sn", "penalty", "penalty_dcgan"]) & (slopes["lipschitz/empirical"] > 0)]
    title = f"largest |dD/dx| found, {_SHOWN_AT}"
    bands = {title: stats.bands(flat, "lipschitz/empirical")}
    drawn = panels.curves(bands, look, logarithmic={title}, columns=1)
    drawn.axes[0].set_ylim(bottom=_LOWEST_SLOPE)
    yield "slopes", drawn
    yield "delay", panels.differences(_delays(ended), look)


def _ends(ended: pd.DataFrame, rates: list[str]) -> dict[str, pd.DataFrame]:
    """With and without batch norm: variant, context, value (fd at the end; NaN without an end), failed."""
    frame = ended.assign(value=ended["q_end"], failed=ended["failure"].astype(bool))
    frame = frame[frame["context"].isin(rates)].sort_values(
        "context", key=lambda names: names.map(rates.index), kind="stable"
    )
    normed = frame["arm"].str.endswith("dcgan")
    columns = ["variant", "context", "seed", "value", "failed"]
    return {"with batch norm in D": frame.loc[normed, columns], "without": frame.loc[~normed, columns]}


def _fate(found: Findings, ended: pd.DataFrame) -> Figure:
    """D's accuracy on generated images early in training, of the runs that learned and of those that never did."""
    of = observations.fated(observations.with_early_accuracy(ended, found.study.history))
    named = of["failed"].map({True: "never learned", False: "learned"})
    early = found.study.history[found.study.history["step"].between(1, 1000)].dropna(subset="accuracy/d_fake")
    own = early[early["run_id"].isin(of["run_id"])]
    names, lines = dict(zip(of["run_id"], named, strict=True)), dict(zip(of["run_id"], range(len(of)), strict=True))
    seeds = own.assign(variant=own["run_id"].map(names), seed=own["run_id"].map(lines), value=own["accuracy/d_fake"])
    quantiles = seeds.groupby(["variant", "step"])["value"].quantile([0.25, 0.5, 0.75]).unstack().reset_index()
    bands = quantiles.rename(columns={0.25: "low", 0.5: "centre", 0.75: "high"})
    title = "share of generated images that D recognizes, by run"
    look = plots.foreign_look(["learned", "never learned"], "step")
    return panels.curves({title: bands}, look, columns=1, seeds={title: seeds})


def _delays(ended: pd.DataFrame) -> dict[str, pd.DataFrame]:
    at = ended[ended["context"] == observations.WORKS]
    at = at.assign(log_healthy=np.log(at["healthy_step"].astype(float).fillna(np.inf)))
    pairs = [("sn_dcgan", "dcgan"), ("sn", "plain")]
    titles = {
        "log_healthy": "log step of the first healthy evaluation, minus that without SN",
        "gain": "gain, minus that without SN",
    }
    found_of = {}
    for name, title in titles.items():
        table = at.pivot_table(index="seed", columns="variant", values=name, aggfunc="first")
        frames = [
            (table[arm] - table[other]).dropna().rename("difference").to_frame().assign(variant=arm)
            for arm, other in pairs
        ]
        found_of[title] = pd.concat(frames)
    return found_of


# --- writing ---


def cost(found: Findings) -> Iterator[str]:
    runs = found.study.runs[found.study.runs["wall_seconds"].notna()]
    hours = {device: of["wall_seconds"].sum() / 3600 for device, of in runs.groupby(runs["device"] == "cpu")}
    cpu, gpu = hours.get(True, 0.0), hours.get(False, 0.0)
    yield f"The {len(runs)} runs took {cpu:.1f} hours of a CPU core and {gpu:.1f} hours of a GPU in all."


BLOCKS = {
    "counts": counts,
    "fate": fate,
    "cost": cost,
    "verdicts": verdict_table,
    "spanning": spanning_table,
    "untested": untested,
    "flips": flip_table,
    "observations": observation_table,
    "outside": outside_table,
}


def with_blocks(text: str, found: Findings) -> str:
    """The text with each of BLOCKS renewed. Raises InputError if one has no place."""
    places = {name: re.compile(rf"(?<=<!-- {name} -->\n).*?(?=<!-- end -->)", re.DOTALL) for name in BLOCKS}
    if lacking := [name for name, place in places.items() if not place.search(text)]:
        raise InputError(f"no place for {lacking[0]}: expected <!-- {lacking[0]} --> and <!-- end --> in the text")
    for name, lines in BLOCKS.items():
        said = "\n".join(lines(found)) + "\n"
        text = places[name].sub(lambda _, said=said: said, text, count=1)
    return text


def write(folder: Path = RESULTS / REFERENCE) -> None:
    """The page, statistics.json, tables and figures of the study in `folder`, the README beside it, and the answer."""
    found = Findings(folder)
    write_atomically(folder / "sensitivity.csv", found.views.to_csv(index=False))
    write_atomically(folder / "observations.csv", found.observed.to_csv(index=False))
    for name, figure in figures(found):
        write_atomically(folder / f"{name}.png", panels.rendered(figure, "png"))
    with tempfile.TemporaryDirectory() as place:
        report.write(replace(found.study, folder=Path(place)), kinds=("png",))
        made = Path(place) / "report"
        for name in _COPIED:
            copyfile(made / name, folder / name)
        for kind in _FIGURES:
            if (drawn := made / "figures" / f"{kind}-{_SHOWN_AT_FILE}.png").exists():
                copyfile(drawn, folder / f"{kind}.png")
    readme = folder.parent / "README.md"
    write_atomically(readme, with_blocks(readme.read_text(), found))
    if folder == RESULTS / REFERENCE:
        front = RESULTS.parents[1] / "README.md"
        write_atomically(front, with_answer(front.read_text()))


def main() -> None:
    try:
        write()
    except InputError as error:
        sys.exit(f"results: {error}")


if __name__ == "__main__":
    main()
