"""Verdicts on studies whose truth is known: supported, contradicted, inconclusive, refused and not tested."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from others import own_images
from scipy import stats

from analysis import claims as claims_module
from analysis import power
from analysis.claims import CLAIMS, Part, judge, judge_runs
from analysis.comparisons import compare_arms
from analysis.inference import MARGIN, paired_rates_p
from analysis.stability import summarize
from analysis.stats import Interval, signed_rank_p
from analysis.study import Study
from analysis.synthetic import outcomes, study
from experiments.record import State

ALL = ("dcgan", "sn_dcgan", "plain", "sn", "penalty", "penalty_dcgan")
POWERS = ("sn, n_power_iterations 1", "sn, n_power_iterations 2", "sn, n_power_iterations 5")
TRIVIAL = 37.0


def judged(of: Study) -> pd.DataFrame:
    return judge(of, summarize(of.history, of.runs))


def verdicts(claims: pd.DataFrame) -> dict[str, str]:
    return dict(zip(claims["claim"], claims["verdict"], strict=True))


def few(claims: Iterable[str]) -> list[Any]:
    """All claims, of which the fast suite has three."""
    return [c if c in ("C1", "C7a", "C8") else pytest.param(c, marks=pytest.mark.slow) for c in claims]


def truths(common: dict[str, float] | None = None, **arms: dict[str, float]) -> dict[str, dict[str, float]]:
    return {arm: {**(common or {}), **arms.get(arm, {})} for arm in ALL}


SUPPORTING = {
    "C1": truths(sn={"sigma": 1.0}, sn_dcgan={"sigma": 1.0}),
    "C2": truths(sn={"steepness": -1.0}),
    "C3": truths(plain={"sigma": 3, "sigma_growth": 2}, penalty={"sigma": 2, "sigma_growth": 1}),
    "C4": truths(sn={"growth": 0.7}, plain={"growth": 0.2}),
    "C5": truths(plain={"spikes": 0.3, "vanishing": 0.3}, dcgan={"spikes": 0.3, "vanishing": 0.3}),
    "C7a": truths(dcgan={"failure": 0.8}),
    "C7b": truths(dcgan={"fd_sd": 0.5}, sn_dcgan={"fd_sd": 0.02}),
    "C8": truths({"fd_sd": 0.02}, dcgan={"fd": 14}, sn_dcgan={"fd": 14}, plain={"fd": 14}),
    "C9": {arm: {"fd_sd": 0.01} for arm in POWERS},
    "C11": truths({"fd_sd": 0.02}, sn={"fd": 14}),
    "C13": truths(sn={"modes": 9.5}, sn_dcgan={"modes": 9.5}),
    "C14a": truths(plain={"failure": 0.8}),
    "C14b": truths(dcgan={"failure": 0.8}),
    "C15": truths(sn={"late": -0.3}),
    "C16": truths(),
}
CONTRADICTING = {
    "C1": truths(sn={"sigma": 1.2}, sn_dcgan={"sigma": 1.2}),
    "C2": truths(sn={"steepness": 1.0}),
    "C3": truths(plain={"sigma": 2, "sigma_growth": 1}, penalty={"sigma": 3, "sigma_growth": 2}),
    "C4": truths(sn={"growth": -0.5}),
    "C5": truths(sn={"spikes": 0.3, "vanishing": 0.3}, sn_dcgan={"spikes": 0.3}),
    "C7a": truths(sn_dcgan={"failure": 0.8}),
    "C7b": truths(sn_dcgan={"fd_sd": 0.5}, dcgan={"fd_sd": 0.02}),
    "C8": truths({"fd_sd": 0.02}, sn={"fd": 14}),
    "C9": {POWERS[0]: {"fd_sd": 0.02}, POWERS[1]: {"fd": 20, "fd_sd": 0.02}, POWERS[2]: {"fd_sd": 0.02}},
    "C11": truths({"fd_sd": 0.02}, sn_dcgan={"fd": 14}),
    "C13": truths(plain={"modes": 9.5}, dcgan={"modes": 9.5}),
    "C14a": truths(sn={"failure": 0.8}),
    "C14b": truths(sn={"failure": 0.8}),
    "C15": truths(sn={"late": 0.3}),
    "C16": truths(sn={"slow": 4.0}),
}
UNCLEAR = {  # no difference, or one that is not seen in this noise
    "C2": truths(),
    "C4": truths(),
    "C5": truths(),
    "C7a": truths(),
    "C7b": truths(),
    "C8": truths({"fd_sd": 0.5}),
    "C9": {arm: {"fd_sd": 0.4} for arm in POWERS},
    "C11": truths({"fd_sd": 0.5}),
    "C13": truths(),
    "C14a": truths(),
    "C14b": truths(),
    "C15": truths(),
    "C16": truths({"fd_sd": 0.3}, sn={"slow": 1.25}),
}


@pytest.mark.parametrize("claim", few(SUPPORTING))
def test_a_true_claim_is_supported(claim: str, tmp_path: Path) -> None:
    seeds = 30 if claim.startswith("C7") else 20
    assert verdicts(judged(study(tmp_path, SUPPORTING[claim], seeds=seeds)))[claim] == "supported"


@pytest.mark.parametrize("claim", few(CONTRADICTING))
def test_the_opposite_contradicts_it(claim: str, tmp_path: Path) -> None:
    seeds = 30 if claim.startswith("C7") else 20
    assert verdicts(judged(study(tmp_path, CONTRADICTING[claim], seeds=seeds)))[claim] == "contradicted"


@pytest.mark.parametrize("claim", few(UNCLEAR))
def test_noise_is_inconclusive(claim: str, tmp_path: Path) -> None:
    assert verdicts(judged(study(tmp_path, UNCLEAR[claim], seeds=10)))[claim] == "inconclusive"


# --- on statistics of runs, which is all that claims look at ---


def table(arms: dict[str, dict[str, Any]], n: int = 10, **fields: Any) -> pd.DataFrame:
    """Runs by arm (or arm and a parameter): `fd` and any statistic, one value or one per seed."""
    frames = []
    for place, (variant, columns) in enumerate(arms.items()):
        arm, _, parameter = variant.partition(", ")
        wobble = 0.02 * np.random.default_rng(place).normal(size=n)
        given = {"ended": True, "failure": False, "healthy_step": 500.0, "healthy_end": True, "fd": 10.0} | columns
        frame = pd.DataFrame(
            {"arm": arm, "seed": np.arange(n), "n_power_iterations": 1, "penalty_weight": 0.01, **given}
        )
        if parameter:
            name, value = parameter.split(" ")
            frame[name] = json.loads(value)
        log_q = np.log(frame["fd"]) + (wobble if "exact" not in columns else 0)
        frame["log_q_end"] = np.where(frame["ended"], log_q, np.nan)
        frame["gain"] = np.where(frame["ended"], np.maximum(0, np.log(TRIVIAL) - log_q), 0.0)
        frames.append(frame)
    runs = pd.concat(frames, ignore_index=True)
    fields = {"dataset": "mnist", "context": "c", "setting": "C", "lr": 0.01, "trivial_fd": TRIVIAL} | fields
    return runs.assign(**fields, run_id=lambda of: of["context"] + of.index.astype(str))


def claim(runs: pd.DataFrame, name: str, **primary: str) -> pd.DataFrame:
    found = judge_runs(runs, primary)
    return found[found["claim"] == name].reset_index(drop=True)


def test_quality_over_dcgan_is_not_contradicted_by_quality_over_plain() -> None:
    """sn at fd 8, dcgan and plain at 14, ten seeds: better than DCGAN, and better than plain is no contradiction."""
    found = claim(
        table({"sn": {"fd": 8.0}, "dcgan": {"fd": 14.0}, "plain": {"fd": 14.0}, "sn_dcgan": {"fd": 14.0}}), "C8"
    )
    assert found["verdict"].iloc[0] == "supported"
    assert found.loc[0, "effect"] == pytest.approx(np.log(14 / 8), abs=0.05)
    beside = found[~found["decides"]]
    assert beside["evidence"].str.contains("sn - plain").any()
    assert beside["evidence"].str.contains("sn_dcgan - dcgan").any()


def test_survivors_with_better_coverage_do_not_show_less_collapse() -> None:
    """24 of 40 SN runs diverge: of those that are left, all have more modes and more coverage."""
    rng, lost = np.random.default_rng(0), np.arange(40) < 24
    good = {"effective_modes_low": 9 + 0.1 * rng.normal(size=40), "coverage_end": 0.8, "effective_modes_end": 8.5}
    poor = {"effective_modes_low": 7 + 0.1 * rng.normal(size=40), "coverage_end": 0.5, "effective_modes_end": 8.5}
    diverging = {**good, "ended": ~lost, "failure": lost}
    arms = {"sn": diverging, "sn_dcgan": diverging, "plain": poor, "dcgan": poor}
    found = claim(table(arms, 40), "C13")
    assert found["verdict"].iloc[0] != "supported"
    assert (found.loc[found["decides"], "n"] == 40).all()
    kept = claim(table(arms | {"sn": good, "sn_dcgan": good}, 40), "C13")
    assert kept["verdict"].iloc[0] == "supported"


@pytest.mark.parametrize("name", ["C1", "C2", "C3", "C4", "C10", "C13"])
def test_no_claim_looks_at_finished_runs_only(name: str) -> None:
    """All runs of the data set's seeds are in n, though half of them diverge."""
    lost = np.arange(12) % 2 == 0
    columns = {"sigma_share": 0.01, "grad_x_p99_late": 0.0, "sigma_growth": 0.3, "sigma_max": 1.0, "weight_growth": 0.1,
               "modes_end": 500.0, "effective_modes_low": 8.0, "effective_modes_end": 8.0}  # fmt: skip
    arms = {arm: {**columns, "ended": ~lost, "failure": lost} for arm in ALL}
    found = claim(table(arms, 12, dataset="stacked_mnist" if name == "C10" else "mnist"), name)
    assert (found.loc[found["decides"], "n"] == 12).all()


def test_diverging_in_every_seed_is_not_better_than_finishing_badly(tmp_path: Path) -> None:
    """The trivial sampler's fd is 37: sn diverges in all ten seeds, dcgan finishes at 57. Neither is worth anything."""
    arms = {
        "sn": {"ended": False, "failure": True, "healthy_step": np.nan},
        "dcgan": {"fd": 57.0, "healthy_step": np.nan},
    }
    found = claim(table(arms), "C8")
    assert found.loc[0, ["effect", "p_part"]].tolist() == [0, 1]
    assert (found.loc[0, "verdict"], found.loc[0, "reason"]) == (
        "refused", "neither arm was ever healthy in half of its runs: sn 0 of 10, dcgan 0 of 10"
    )  # fmt: skip
    of = study(tmp_path, {"dcgan": {"fd": 57.0}, "sn": {"fd": 57.0}}, seeds=10)
    of.runs["trivial_fd"] = TRIVIAL
    of.runs.loc[of.runs["arm"] == "sn", "state"] = "diverged"
    row = compare_arms(of, summarize(of.history, of.runs)).set_index("statistic").loc["gain"]
    assert (row["shift"], row["p_location"], row["prob_improvement"], row["at_floor"]) == (0, 1, 0.5, 1)
    assert row["n_both_ended"] == 0
    assert "neither arm was ever healthy" in row["refused"]


def test_failing_is_never_called_better() -> None:
    """Both arms at 57, one of them diverging in 60 % of the seeds, ten seeds, 300 studies."""
    rng = np.random.default_rng(0)
    for _ in range(300):
        q, lost = 57 * np.exp(0.2 * rng.normal(size=(2, 10))), rng.random(10) < 0.6
        gains = np.maximum(0, np.log(TRIVIAL / q))
        d = np.where(lost, 0.0, gains[0]) - gains[1]
        assert signed_rank_p(d) > 0.05 or np.median(d) < 0


def test_gains_by_brute_force() -> None:
    """max(0, log(trivial / Q)), 0 without an end; the shift is the median of all means of two differences."""
    rng = np.random.default_rng(1)
    fd, lost = rng.uniform(5, 60, (2, 12)), rng.random((2, 12)) < 0.3
    arms = {
        arm: {"fd": fd[i], "ended": ~lost[i], "failure": lost[i], "exact": 1} for i, arm in enumerate(("sn", "dcgan"))
    }
    found = claim(table(arms, 12), "C8").iloc[0]
    gains = [[0.0 if lost[i, s] else max(0.0, np.log(TRIVIAL) - np.log(fd[i, s])) for s in range(12)] for i in (0, 1)]
    d = [x - y for x, y in zip(*gains, strict=True)]
    walsh = sorted((d[i] + d[j]) / 2 for i in range(12) for j in range(i, 12))
    assert found["effect"] == pytest.approx((walsh[38] + walsh[39]) / 2)
    assert (found["low"], found["high"]) == (pytest.approx(walsh[13]), pytest.approx(walsh[-14]))  # critical value 13


def test_a_penalty_that_raises_sigma_is_no_fall() -> None:
    """plain 3, penalty 6, sn 1: a trend test is content with the two ends, the weakest step is not."""
    rng = np.random.default_rng(0)
    ends = {arm: np.log(value) + 0.02 * rng.normal(size=10) for arm, value in (("plain", 3), ("penalty", 6), ("sn", 1))}
    arms = {
        arm: {"sigma_max": values, "sigma_growth": 0.5 + 0.01 * rng.normal(size=10)} for arm, values in ends.items()
    }
    assert claim(table(arms), "C3")["verdict"].iloc[0] == "contradicted"
    arms["penalty"]["sigma_max"] = np.log(2) + 0.02 * rng.normal(size=10)
    assert claim(table(arms), "C3")["verdict"].iloc[0] == "supported"
    weak, strong = "penalty, penalty_weight 0.01", "penalty, penalty_weight 0.1"
    two = {"plain": arms["plain"], weak: arms["penalty"], strong: arms["penalty"] | {"sigma_max": ends["penalty"]}}
    assert claim(table(two), "C3")["verdict"].iloc[0] == "contradicted"  # plain > 0.01, but 0.01 < 0.1


def test_where_every_run_diverges_nothing_is_equal() -> None:
    lost = {"ended": False, "failure": True, "healthy_step": np.nan}
    found = judge_runs(table(dict.fromkeys((*ALL, *POWERS[1:]), lost)), {})
    equal = found[found["expected"] == "within"]
    assert set(equal["part"]) == {"refused"}
    assert equal["part_reason"].str.contains("10 of 10 pairs lack an end, more than a fifth").all()
    assert set(found["verdict"]) <= {"refused", "inconclusive", "not tested"}


def test_equality_counts_a_run_without_an_end_as_far() -> None:
    def verdict(lost: int, both: bool = False) -> tuple[str, int]:
        ended = np.arange(20) >= lost
        arms: dict[str, dict[str, Any]] = {name: {"ended": ended if both else True} for name in POWERS}
        arms[POWERS[1]] = {"ended": ended}
        found = claim(table(arms, 20), "C9")
        return found["verdict"].iloc[0], int(found["n"].iloc[0])

    assert verdict(0) == ("supported", 20)
    assert verdict(2) == ("supported", 20)  # two infinite differences, eighteen of nothing
    assert verdict(4) == ("inconclusive", 20)
    assert verdict(5)[0] == "refused"
    assert verdict(4, both=True) == ("supported", 16)  # two runs without an end say nothing


def test_one_power_iteration_needs_no_svd_and_judges_it_where_it_is() -> None:
    equal = {name: {} for name in POWERS}
    assert claim(table(equal), "C9")["verdict"].iloc[0] == "supported"
    assert claim(table(equal | {"sn_svd": {}}), "C9")["verdict"].iloc[0] == "supported"
    assert claim(table(equal | {"sn_svd": {"fd": 20.0}}), "C9")["verdict"].iloc[0] == "contradicted"
    lacking = claim(table({name: {} for name in POWERS[:2]}), "C9").iloc[0]
    assert (lacking["verdict"], lacking["reason"]) == ("not tested", "needs sn with n_power_iterations 5")


def test_spread_is_a_claim_of_its_own_and_needs_no_failure() -> None:
    rng = np.random.default_rng(0)
    arms = {
        "sn_dcgan": {"fd": 10 * np.exp(0.05 * rng.normal(size=20))},
        "dcgan": {"fd": 10 * np.exp(rng.normal(size=20) / 2)},
    }
    found = verdicts(judge_runs(table(arms, 20), {}))
    assert (found["C7a"], found["C7b"]) == ("inconclusive", "supported")


def test_survivors_that_look_tight_are_refused_in_that_direction_only() -> None:
    rng = np.random.default_rng(0)
    tight, wide = 10 * np.exp(0.05 * rng.normal(size=20)), 10 * np.exp(rng.normal(size=20) / 2)
    some = np.arange(20) < 6

    def of(sn: np.ndarray, dcgan: np.ndarray, failing: str) -> pd.Series:
        arms = {arm: {"fd": fd, "failure": some & (arm == failing)} for arm, fd in (("sn_dcgan", sn), ("dcgan", dcgan))}
        return claim(table(arms, 20), "C7b").iloc[0]

    row = of(tight, wide, "sn_dcgan")
    assert (row["verdict"], row["n"]) == ("refused", 14)
    assert row["reason"].startswith("sn_dcgan looks tighter after 6 of its 20 runs failed, of the other arm 0")
    assert of(tight, wide, "dcgan")["verdict"] == "supported"  # the tighter arm failed less
    assert of(wide, tight, "sn_dcgan")["verdict"] == "contradicted"
    assert of(wide, tight, "dcgan")["verdict"] == "refused"
    unhealthy = {"healthy_step": np.where(np.arange(20) < 11, np.nan, 100.0)}
    arms = {"sn_dcgan": {"fd": tight, **unhealthy}, "dcgan": {"fd": wide}}
    assert "ever healthy in 9 of its 20 runs" in claim(table(arms, 20), "C7b")["reason"].iloc[0]
    most = {"failure": np.arange(20) < 13}
    row = claim(table({"sn_dcgan": {"fd": tight, **most}, "dcgan": {"fd": wide}}, 20), "C7b").iloc[0]
    assert row["reason"] == "7 of 20 seeds in which neither arm failed, 8 are needed"


def test_a_claim_with_one_untested_part_is_not_tested_and_names_it() -> None:
    columns = {"grad_g_spikes": 1.0, "grad_g_p1": -1.0}
    row = claim(table({"sn": columns, "plain": columns, "sn_dcgan": columns}), "C5").iloc[0]
    assert (row["verdict"], row["reason"]) == ("not tested", "needs dcgan")
    row = claim(table({"sn": {}, "plain": {}}), "C4").iloc[0]  # the arms are there, the measurement is not
    assert row["reason"] == "needs log growth of the raw weights' norm since update 500 of D, mean over layers"
    unseen = {"q_best": np.nan, "healthy_step": np.nan}  # without an evaluation health is not known
    assert claim(table({"sn": unseen, "dcgan": unseen}), "C16")["verdict"].iloc[0] == "not tested"
    few_seeds = claim(table({"sn": {}, "dcgan": {}}, 6), "C8").iloc[0]
    assert (few_seeds["verdict"], few_seeds["reason"]) == ("not tested", "6 paired seeds, 7 are needed")


def test_pairs_are_of_runs_that_differ_in_nothing_else() -> None:
    """Settings C and E, losses bce and hinge: each loss has its own numbers of robustness, and no other's."""
    frames = []
    for loss, factor in (("bce", 3.0), ("hinge", 0.5)):
        for setting, lr in (("C", 2e-4), ("E", 1e-3)):
            harm = factor if setting == "E" else 1.0
            arms = {"sn": {}, "dcgan": {"fd": 10 * harm}, "plain": {"fd": 10 * harm}}
            context = f"mnist, setting {setting}, loss {loss}"
            frames.append(table(arms, 12, context=context, setting=setting, lr=lr, loss=loss))
    found = claim(pd.concat(frames, ignore_index=True), "C6")
    by_loss = {context.rpartition(" ")[2]: of for context, of in found[found["decides"]].groupby("context")}
    assert set(by_loss) == {"bce", "hinge"}
    assert by_loss["bce"]["verdict"].iloc[0] == "supported"
    assert by_loss["hinge"]["verdict"].iloc[0] != "supported"
    worst = by_loss["bce"].iloc[0]
    assert "dcgan (setting E)" in worst["evidence"]
    assert worst["effect"] == pytest.approx(np.log(3), abs=0.05)


def test_the_width_of_the_discriminator_stands_in_the_context() -> None:
    frames = [
        table({"sn": {"modes_end": 500.0}, "dcgan": {"modes_end": modes}}, dataset="stacked_mnist", d_width=width,
              context=f"stacked_mnist, d_width {width}")
        for width, modes in ((16, 80.0 + np.arange(10)), (32, 600.0 + np.arange(10)))
    ]  # fmt: skip
    found = claim(pd.concat(frames, ignore_index=True), "C10").set_index("context")
    assert found["verdict"].to_dict() == {
        "stacked_mnist, d_width 16": "supported",
        "stacked_mnist, d_width 32": "contradicted",
    }
    lost = np.arange(10) < 6
    arms = {"sn": {"modes_end": 500.0, "ended": ~lost, "failure": lost}, "dcgan": {"modes_end": 80.0 + np.arange(10)}}
    assert claim(table(arms, dataset="stacked_mnist"), "C10")["verdict"].iloc[0] != "supported"  # six have no mode


def test_arms_are_found_by_their_columns_and_not_by_their_names() -> None:
    runs = table({"sn": {}, "dcgan": {"fd": 20.0}, "plain": {}, "penalty, penalty_weight 0.3": {}}).assign(variant="x")
    assert claim(runs, "C8")["verdict"].iloc[0] == "supported"
    two = table({"sn, n_power_iterations 2": {}, "sn, n_power_iterations 3": {}, "dcgan": {"fd": 20.0}})
    row = claim(two, "C8").iloc[0]  # which of them is meant, nobody says
    assert (row["verdict"], row["reason"]) == ("not tested", "needs sn")


def test_cost_comes_from_one_benchmark_with_its_rounds(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "old.json").write_text(json.dumps({"made": "2026-12-31", "rows": {"sn": {"step_seconds": 1.0}}}))
    rng = np.random.default_rng(0)

    def verdict(sn: float, noise: float, rounds: int = 9, **further: float) -> pd.Series:
        costs = {"plain": 1.0, "sn": sn, "penalty": 0.95 * sn} | further
        each = {arm: (value * (1 + noise * rng.normal(size=rounds))).tolist() for arm, value in costs.items()}
        content = {
            "made": "2026-11-27",
            "machine": {"device": "a machine"},
            "rows": {a: {"each": of} for a, of in each.items()},
        }
        (tmp_path / "bench.json").write_text(json.dumps(content))
        found = judge_runs(table({"sn": {}}), {}, tmp_path)
        return found[found["claim"] == "C12"].iloc[0]

    row = verdict(1.1, 0.01)
    assert (row["verdict"], row["n"]) == ("supported", 9)
    assert "a machine" in row["evidence"]
    assert verdict(1.4, 0.01)["verdict"] == "contradicted"
    assert verdict(1.2, 0.1)["verdict"] == "inconclusive"
    assert verdict(1.1, 0.01, rounds=6)["verdict"] == "not tested"
    assert verdict(1.1, 0.01, gp=1.6, r1=1.5)["verdict"] == "supported"
    assert verdict(1.1, 0.01, gp=1.6, r1=1.2)["verdict"] == "contradicted"  # the paper's gradient penalties cost more


def rates(**worked: list[int]) -> pd.DataFrame:
    """Seeds at four learning rates; the arm's runs are healthy at the end up to so many of them, by seed."""
    frames = []
    for place, lr in enumerate((0.005, 0.01, 0.02, 0.03)):
        arms = {arm: {"healthy_end": np.array(counts) > place} for arm, counts in worked.items()}
        frames.append(table(arms, len(next(iter(worked.values()))), context=f"mnist, lr {lr}", setting="custom", lr=lr))
    return pd.concat(frames, ignore_index=True)


def test_the_range_of_learning_rates_is_counted_per_seed() -> None:
    wide, narrow = [3, 4] * 8, [1, 2, 2, 1] * 4
    found = claim(runs := rates(sn=wide, plain=narrow, sn_dcgan=wide, dcgan=narrow), "C17")
    assert (found["verdict"].iloc[0], found["effect"].tolist()) == ("supported", [2, 2])
    assert claim(rates(sn=wide, plain=narrow, sn_dcgan=narrow, dcgan=wide), "C17")["verdict"].iloc[0] == "contradicted"
    row = claim(runs[runs["lr"] < 0.02], "C17").iloc[0]
    assert (row["verdict"], row["reason"]) == ("not tested", "needs three learning rates")
    lacking = runs[~((runs["arm"] == "sn") & (runs["lr"] == 0.03) & (runs["seed"] < 2))]
    assert claim(lacking, "C17")["n"].tolist() == [14, 16]  # a seed counts where all its rates ended


def test_learning_speed_where_neither_learns_is_refused_and_where_one_does_is_seen() -> None:
    never = {"healthy_step": np.nan}
    assert claim(table({"sn": never, "dcgan": never}), "C16")["verdict"].iloc[0] == "refused"
    assert claim(table({"sn": {}, "dcgan": never}), "C16")["verdict"].iloc[0] == "supported"
    assert claim(table({"sn": never, "dcgan": {}}), "C16")["verdict"].iloc[0] == "contradicted"
    slower = {"healthy_step": 500 * 1.1 * (1 + 0.001 * np.arange(10))}  # by less than a quarter
    assert claim(table({"sn": slower, "dcgan": {}}), "C16")["verdict"].iloc[0] == "supported"


def test_modes_that_all_arms_have_are_saturated() -> None:
    full = {
        arm: {"effective_modes_low": 9.5, "effective_modes_end": 9.6} for arm in ("sn", "plain", "sn_dcgan", "dcgan")
    }
    row = claim(table(full), "C13").iloc[0]
    assert (row["verdict"], row["reason"][:9]) == ("refused", "saturated")
    full["plain"] = {"effective_modes_low": 5.0, "effective_modes_end": 6.0}
    assert claim(table(full), "C13")["verdict"].iloc[0] == "inconclusive"


# --- families ---


def test_a_claims_p_is_the_largest_of_its_parts_and_its_contradictions_the_smallest_times_their_number() -> None:
    found = judge_runs(outcomes(np.random.default_rng(3), 15, _null_truth), {})
    for _, of in found[found["p"].notna()].groupby(["claim", "context"]):
        parts = of[of["decides"]]
        assert of["p"].iloc[0] == parts["p_part"].max()
        assert of["p_contradicted"].iloc[0] <= 1


def test_families_are_adjusted_apart_and_primary_ones_are_named_by_the_study() -> None:
    runs = outcomes(np.random.default_rng(3), 30, _null_truth)
    primary = {"failures": "mnist, lr 1", "spread": "mnist, lr 0", "C14": "mnist, lr 1"}
    found = judge_runs(runs, primary).drop_duplicates(["claim", "context"])
    families = found.set_index(["claim", "context"])["family"]
    assert families["C7a", "mnist, lr 1"] == families["C7b", "mnist, lr 0"] == "primary"
    assert families["C7a", "mnist, lr 0"] == families["C7b", "mnist, lr 1"] == "outcome"
    assert set(found.loc[found["claim"].str.startswith("C14"), "context"]) == {"mnist, lr 1"}
    tested = found[found["p"].notna()]
    for family in ("outcome", "mechanism and cost"):
        own = tested[tested["family"] == family]
        assert own["context"].nunique() > 1  # over all contexts
        assert own["p_adjusted"].to_numpy() == pytest.approx(stats.false_discovery_control(own["p"]))
    rest = tested[tested["family"] != "primary"]
    expected = stats.false_discovery_control(rest["p_contradicted"])
    assert rest["p_contradicted_adjusted"].to_numpy() == pytest.approx(expected)
    own = tested[tested["family"] == "primary"]
    smaller, larger = sorted(own["p"])
    assert sorted(own["p_adjusted"]) == pytest.approx(sorted([min(1, 2 * smaller), min(1, max(larger, 2 * smaller))]))
    unnamed = judge_runs(runs, {})
    assert "primary" not in set(unnamed["family"])
    sceptic = unnamed[unnamed["claim"].str.startswith("C14")]
    assert set(sceptic["verdict"]) == {"not tested"}
    assert sceptic["reason"].str.startswith("needs a context that the study's file names").all()
    alone = judge_runs(runs[runs["context"] == "mnist, lr 0"], {})
    assert set(alone.loc[alone["family"] == "primary", "claim"]) == {"C7a", "C7b"}


def test_a_primary_context_without_runs_is_not_tested_and_stays_primary() -> None:
    arms = {arm: {} for arm in ALL}
    found = judge_runs(table(arms), {"failures": "c2", "spread": "c2", "C14": "c2"}).drop_duplicates(
        ["claim", "context"]
    )
    primary = found[found["family"] == "primary"].set_index("claim")
    assert set(primary.index) == {"C7a", "C7b"}
    assert set(primary["context"]) == {"c2"}
    assert set(primary["reason"]) == set(found.loc[found["claim"].str.startswith("C14"), "reason"])
    assert primary["reason"].iloc[0] == "needs a run of c2 that has ended"


def test_each_claim_has_its_own_seeds(tmp_path: Path) -> None:
    """A benchmark's rounds, and another context's seeds, put nothing in reach."""
    each = {arm: {"each": [1.0] * 25} for arm in ("plain", "sn", "penalty")}
    (tmp_path / "bench.json").write_text(json.dumps({"made": "x", "rows": each}))
    found = judge_runs(table({arm: {} for arm in ALL}, 7), {}, tmp_path)
    reach = power.reach(found).set_index("claim")
    assert (reach.loc["C12", "n"], reach.loc["C8", "n"]) == (25, 7)
    assert reach.loc["C8", "decidable"] == "hardly: 7 seeds, fewer than 10"


def test_what_is_refused_or_not_tested_is_in_no_family() -> None:
    arms = {name: {"sigma_share": 0.0, "ended": False, "failure": True, "healthy_step": np.nan} for name in ALL}
    found = judge_runs(table(arms), {})
    out = found["verdict"].isin(["refused", "not tested"])
    assert found.loc[out, ["p", "p_adjusted"]].isna().all(axis=None)
    assert found.loc[~out, "p_adjusted"].notna().all()


def _null_truth(arm: str, parameters: Any, context: int) -> Any:
    from analysis.synthetic import Truth

    return Truth()


def test_contradicted_needs_an_adjusted_p_too() -> None:
    """One claim that is the other way round by chance, among many that are not: at p = .03 it is not contradicted."""
    runs = outcomes(np.random.default_rng(5), 20, _null_truth)
    found = judge_runs(runs, {}).drop_duplicates(["claim", "context"])
    by_chance = found[(found["p_contradicted"] <= 0.05) & (found["p_contradicted_adjusted"] > 0.05)]
    assert not (by_chance["verdict"] == "contradicted").any()
    assert (found.loc[found["verdict"] == "contradicted", "p_contradicted_adjusted"] <= 0.05).all()


def test_failures_are_judged_by_the_unconditional_test() -> None:
    x, y = np.arange(20) < 0, np.arange(20) < 5
    arms = {"sn_dcgan": {"failure": x}, "dcgan": {"failure": y}}
    row = claim(table(arms, 20), "C7a").iloc[0]
    assert row["p_part"] == paired_rates_p(x, y) <= 0.05
    assert (row["effect"], row["n"]) == (-0.25, 20)
    assert row["high"] < 0
    assert "(0 and 5)" in row["evidence"]
    worse = claim(table({"sn_dcgan": {"failure": y}, "dcgan": {"failure": x}}, 20), "C7a").iloc[0]
    assert (worse["p_part"], worse["verdict"]) == (
        1,
        "contradicted" if 2 * paired_rates_p(x, y) <= 0.05 else "inconclusive",
    )


# --- two views of quality ---


def test_a_claim_whose_views_differ_in_direction_depends_on_the_view(tmp_path: Path) -> None:
    """The same runs by fd_pixels: as by fd, and the other way round."""
    of = study(tmp_path, SUPPORTING["C8"], seeds=14)
    of.runs["trivial_fd_pixels"] = 60.0
    of.history["eval/fd_pixels"] = of.history["eval/fd"] ** 1.1
    same = verdicts(judged(of))
    of.history["eval/fd_pixels"] = 200 / of.history["eval/fd"]
    claims = judged(of)
    assert (same["C8"], verdicts(claims)["C8"]) == ("supported", "depends on the view")
    assert claims.loc[claims["claim"] == "C8", "reason"].iloc[0] == "supported by fd, the other way round by fd_pixels"
    shown = claims[(claims["claim"] == "C8") & claims["evidence"].str.contains("fd_pixels")]
    assert len(shown) == 1
    by_fd = claims[(claims["claim"] == "C8") & claims["decides"]].iloc[0]
    assert shown["effect"].iloc[0] == pytest.approx(-by_fd["effect"], abs=1e-6)
    others = claims[claims["claim"].isin(["C1", "C4", "C12", "C13", "C16", "C17"])]
    assert not others["evidence"].str.contains("fd_pixels").any()


@pytest.mark.parametrize(
    ("expected", "verdict", "by_fd", "by_pixels", "n", "opposed"),
    [
        ("above", "supported", (0.3, 0.2, 0.4), (-0.1, -0.3, 0.1), 9, True),
        ("above", "supported", (0.3, 0.2, 0.4), (0.05, -0.3, 0.4), 9, False),
        ("above", "supported", (0.3, 0.2, 0.4), (-0.1, -0.3, 0.1), 6, False),  # too few seeds to say so
        ("above", "supported", (0.3, 0.2, 0.4), (-0.1, np.nan, np.nan), 9, False),
        ("below", "contradicted", (0.3, 0.2, 0.4), (-0.3, -0.4, -0.2), 9, True),
        ("within", "supported", (0.01, -0.05, 0.05), (-0.01, -0.05, 0.05), 9, False),
        ("within", "supported", (0.01, -0.05, 0.05), (0.4, 0.3, 0.5), 9, True),
        ("within", "contradicted", (0.4, 0.3, 0.5), (0.01, -0.05, 0.05), 9, True),
        ("within", "contradicted", (0.4, 0.3, 0.5), (-0.4, -0.5, -0.3), 9, True),
        ("within", "contradicted", (0.4, 0.3, 0.5), (0.3, 0.2, 0.4), 9, False),
        ("within", "contradicted", (0.4, 0.3, 0.5), (0.0, -0.2, 0.2), 9, False),
    ],
)
def test_what_opposite_views_are(
    expected: str, verdict: str, by_fd: tuple, by_pixels: tuple, n: int, opposed: bool
) -> None:
    part = Part("", expected, 0.1, Interval(*by_fd), 9, 0.001, 0.001)
    assert part.holds if verdict == "supported" else part.opposite
    other = Part("", expected, 0.1, Interval(*by_pixels), n, 0.001, 0.001)
    assert claims_module.opposed(part, other, verdict) == opposed


# --- the rest ---


@pytest.mark.parametrize("seeds", [1, 3, 6])
def test_too_few_seeds_cannot_support_anything(seeds: int, tmp_path: Path) -> None:
    every = {arm: {name: v for truth in SUPPORTING.values() for name, v in truth.get(arm, {}).items()} for arm in ALL}
    assert set(verdicts(judged(study(tmp_path, every, seeds=seeds))).values()) == {"not tested"}


def test_a_study_without_the_arms_tests_nothing(tmp_path: Path) -> None:
    assert set(verdicts(judged(study(tmp_path, {"penalty": {}}, seeds=10))).values()) == {"not tested"}


def test_failed_runs_are_not_dropped(tmp_path: Path) -> None:
    """Half of sn's runs diverge: without them it would be the better one."""
    of = study(tmp_path, truths({"fd_sd": 0.05}, sn={"fd": 7.0}), seeds=20)
    whole = judged(of)
    of.runs.loc[(of.runs["arm"] == "sn") & (of.runs["seed"] % 2 == 0), "state"] = "diverged"
    lost = judged(of)
    assert (verdicts(whole)["C8"], verdicts(lost)["C8"]) == ("supported", "inconclusive")
    assert (lost[lost["claim"] == "C8"]["n"] == 20).all()


def test_the_order_of_sn_penalty_and_baseline_is_shown_and_does_not_decide() -> None:
    """A penalty that spreads most is out of order; sn_dcgan against dcgan stays what it is."""
    rng = np.random.default_rng(0)
    spread = {"sn_dcgan": 0.03, "penalty_dcgan": 0.15, "dcgan": 0.7}

    def parts(**other: float) -> pd.DataFrame:
        arms = {arm: {"fd": 10 * np.exp(sd * rng.normal(size=30))} for arm, sd in (spread | other).items()}
        return claim(table(arms, 30), "C7b")

    found = parts()
    assert found["verdict"].iloc[0] == "supported"
    assert found["part"].tolist() == ["holds", "holds"]
    assert found.loc[1, "evidence"].startswith("weakest step of sn_dcgan < penalty_dcgan")
    assert "Page's p" in found.loc[1, "evidence"]
    found = parts(penalty_dcgan=4.0)
    assert found["verdict"].iloc[0] == "supported"
    assert found["part"].tolist() == ["holds", "opposite"]  # from the penalty to the baseline it falls


@pytest.mark.parametrize(
    ("low", "high", "expected", "p", "against", "verdict"),
    [
        (0.6, 0.9, "above", 0.01, 0.01, "holds"), (0.6, 0.9, "above", 0.2, 0.01, "open"),
        (0.4, 0.9, "above", 0.01, 0.01, "open"), (-0.9, -0.1, "above", 0.01, 0.01, "opposite"),
        (-0.9, -0.1, "above", 0.01, 0.2, "open"), (-0.9, 0.1, "above", 0.01, 0.01, "open"),
        (-0.3, 0.3, "within", 0.01, 0.01, "holds"), (0.6, 0.9, "within", 0.01, 0.01, "opposite"),
        (0.3, 0.9, "within", 0.01, 0.01, "open"), (np.nan, np.nan, "above", 0.01, 0.01, "open"),
    ],
)  # fmt: skip
def test_rules_of_a_part(low: float, high: float, expected: str, p: float, against: float, verdict: str) -> None:
    interval = Interval((low + high) / 2, low, high)
    assert Part("", expected, 0.5, interval, 10, p, against, 0.0).verdict == verdict


def test_what_is_untested_or_refused_has_that_for_a_verdict() -> None:
    whole = Part("", "above", 0.5, Interval(0.7, 0.6, 0.9), 10, 0.01, 1.0)
    assert replace(whole, untested="needs sn", refused="too few").verdict == "not tested"
    assert replace(whole, refused="too few").verdict == "refused"


@pytest.mark.parametrize(
    ("expected", "threshold", "none"),
    [("above", 0.1, 0.0), ("above", -0.2, -0.2), ("below", -0.1, 0.0), ("below", 0.22, 0.22), ("within", 0.22, 0.0)],
)
def test_no_effect_lies_beyond_the_threshold_or_is_the_threshold(expected: str, threshold: float, none: float) -> None:
    """Else an effect between the two would support a claim and contradict it."""
    assert claims_module.judged_part("", expected, threshold, np.linspace(-1, 1, 9)).none == none


def test_a_parts_p_is_two_sided_and_in_its_direction_only() -> None:
    d = np.random.default_rng(0).normal(0.4, 1, 12)
    above, below = (claims_module.judged_part("", side, 0.0, d) for side in ("above", "below"))
    two_sided = stats.wilcoxon(d, method="exact").pvalue
    assert (above.p, below.p) == (pytest.approx(two_sided), 1)
    assert (above.p_against, below.p_against) == (1, pytest.approx(two_sided))
    equal = claims_module.judged_part("", "within", MARGIN, d)
    ends = [
        stats.wilcoxon(d + s * MARGIN, alternative=a, method="exact").pvalue for s, a in ((1, "greater"), (-1, "less"))
    ]
    assert equal.p == pytest.approx(max(ends))


def test_every_claim_is_there_once() -> None:
    numbers = [claim.id for claim in CLAIMS]
    assert " ".join(numbers) == "C1 C2 C3 C4 C5 C6 C7a C7b C8 C9 C10 C11 C12 C13 C14a C14b C15 C16 C17"
    assert [claim.id for claim in CLAIMS if claim.family == "primary"] == ["C7a", "C7b"]
    assert [claim.id for claim in CLAIMS if claim.family == "mechanism and cost"] == ["C1", "C2", "C3", "C4", "C12"]


@pytest.mark.slow
def test_shuffled_labels_support_and_contradict_no_comparison_beyond_chance() -> None:
    """Of 400 studies in which nothing differs, with one in five runs failing."""
    found = []
    for replicate in range(400):
        runs = outcomes(np.random.default_rng([9, replicate]), 14, _null_truth)
        rng = np.random.default_rng(replicate)
        shuffled = runs.sort_values(["context", "seed"], kind="stable").copy()
        arms = ["dcgan", "sn_dcgan", "plain"]
        chosen = shuffled[shuffled["arm"].isin(arms)]
        names = [rng.permutation(of["arm"].to_numpy()) for _, of in chosen.groupby(["context", "seed"], sort=False)]
        shuffled.loc[chosen.index, "arm"] = np.concatenate(names)
        compared = judge_runs(shuffled, {})
        compared = compared[compared["claim"].isin(["C5", "C7a", "C7b", "C8", "C11", "C13"])]
        found.append(set(compared["verdict"]))
    for verdict in ("supported", "contradicted"):
        assert sum(verdict in of for of in found) <= stats.binom.ppf(0.99, 400, 0.05)


def test_without_a_judge_that_knows_the_classes_modes_are_not_tested(tmp_path: Path) -> None:
    """Whatever became of the runs: those without an end have no modes either."""
    for states in ((State.FINISHED,), (State.DIVERGED,)):
        study = own_images(tmp_path, ("a", 3, "pixels"), arms=ALL[:4], seeds=8, states=states)
        claims = judge(study, summarize(study.history, study.runs, terms=study.terms)).set_index("claim")
        assert claims.loc[["C13"], "reason"].unique().tolist() == ["needs a judge that knows the data's classes"]
        assert set(claims.loc[["C13"], "verdict"]) == {"not tested"}
        assert not claims["evidence"].str.contains("coverage").any()


def test_a_claim_goes_by_fd_pixels_alone_where_nothing_else_judges(tmp_path: Path) -> None:
    study = own_images(tmp_path, ("a", 0, "pixels"), ("b", 3, "labels"), arms=ALL[:4], seeds=8)
    claims = judge(study, summarize(study.history, study.runs))
    of = {
        str(context): parts["evidence"].tolist()
        for context, parts in claims[claims["claim"] == "C8"].groupby("context")
    }
    pixels, labels = (of[f"folder {digit * 8}, judge {judge}"] for digit, judge in (("a", "pixels"), ("b", "labels")))
    assert pixels[:2] == ["gain by fd_pixels: sn - dcgan", "gain by fd_pixels: sn - plain"]
    assert len(pixels) == len(set(pixels)) == 3
    assert labels[:2] == ["gain by fd: sn - dcgan", "gain by fd: sn - plain"]
    assert labels[-1] == "gain by fd_pixels: sn - dcgan"
    lost = own_images(tmp_path, ("a", 0, "pixels"), arms=ALL[:4], seeds=8, states=(State.DIVERGED,))
    claims = judge(lost, summarize(lost.history, lost.runs, terms=lost.terms))
    assert not claims.duplicated(["claim", "evidence"]).any()


def test_saturation_is_of_the_classes_that_there_are(tmp_path: Path) -> None:
    study = own_images(tmp_path, ("a", 3, "labels"), arms=ALL[:4], seeds=8, modes=2.9)
    claims = judge(study, summarize(study.history, study.runs))
    assert "saturated" in claims.loc[claims["claim"] == "C13", "reason"].iloc[0]


def test_learning_rates_are_compared_within_one_folder(tmp_path: Path) -> None:
    data = (("a", 3, "labels"), ("b", 3, "labels"))
    study = own_images(tmp_path, *data, arms=ALL[:4], seeds=7, lrs=(1e-4, 2e-4, 1e-3))
    claims = judge(study, summarize(study.history, study.runs))
    assert set(claims.loc[claims["claim"] == "C17", "context"]) == {
        "folder aaaaaaaa, over learning rates", "folder bbbbbbbb, over learning rates",
    }  # fmt: skip
