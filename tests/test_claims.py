"""Verdicts on synthetic studies whose truth is known: supported, contradicted, inconclusive and not tested."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis import claims as claims_module
from analysis.claims import CLAIMS, Evidence, conclude, judge
from analysis.load import Study
from analysis.stability import summarize
from analysis.stats import Interval
from analysis.synthetic import study

ALL = ("dcgan", "sn_dcgan", "plain", "sn", "penalty", "penalty_dcgan")


def verdicts(of: Study) -> dict[str, str]:
    claims = judge(of, summarize(of.history, of.runs))
    return dict(zip(claims["claim"], claims["verdict"], strict=True))


def few(claims: Iterable[str]) -> list[Any]:
    """All claims, of which the fast suite has three."""
    return [c if c in ("C1", "C7", "C8") else pytest.param(c, marks=pytest.mark.slow) for c in claims]


def truths(common: dict[str, float] | None = None, **arms: dict[str, float]) -> dict[str, dict[str, float]]:
    return {arm: {**(common or {}), **arms.get(arm, {})} for arm in ALL}


SUPPORTING = {
    "C1": truths(sn={"sigma": 1.0}, sn_dcgan={"sigma": 1.0}),
    "C2": truths(sn={"sigma_conv": 1.6, "tightness": 0.1}),
    "C3": truths(plain={"sigma": 3, "sigma_growth": 2}, penalty={"sigma": 2, "sigma_growth": 1}),
    "C4": truths(sn={"growth": 0.7}, sn_dcgan={"growth": 0.7}),
    "C5": truths(plain={"spikes": 0.3, "vanishing": 0.3}, dcgan={"spikes": 0.3, "vanishing": 0.3}),
    "C7": truths(dcgan={"fd_sd": 0.5, "failure": 0.6}, sn_dcgan={"fd_sd": 0.02}),
    "C8": truths({"fd_sd": 0.02}, dcgan={"fd": 14}, sn_dcgan={"fd": 14}),
    "C11": truths({"fd_sd": 0.02}, sn={"fd": 14}),
    "C13": truths(sn={"coverage": 0.7, "modes": 9.8}, sn_dcgan={"coverage": 0.7, "modes": 9.8}),
}
CONTRADICTING = {
    "C1": truths(sn={"sigma": 1.2}, sn_dcgan={"sigma": 1.2}),
    "C2": truths(sn={"sigma_conv": 0.8}),
    "C3": truths(plain={"sigma": 1, "sigma_growth": -1}, sn={"sigma": 3}),
    "C4": truths(sn={"growth": -0.5}, sn_dcgan={"growth": -0.5}),
    "C5": truths(sn={"spikes": 0.3, "vanishing": 0.3}, sn_dcgan={"spikes": 0.3}),
    "C7": truths(sn_dcgan={"fd_sd": 0.5, "failure": 0.6}, dcgan={"fd_sd": 0.02}),
    "C8": truths({"fd_sd": 0.02}, sn={"fd": 14}),
    "C11": truths({"fd_sd": 0.02}, sn_dcgan={"fd": 14}),
    "C13": truths(plain={"coverage": 0.7, "modes": 9.8}, dcgan={"coverage": 0.7, "modes": 9.8}),
}
UNCLEAR = {  # a difference that is there but not seen in this noise, none at all, or a part that cannot be tested
    "C1": {"sn": {"sigma": 1.0}},
    "C2": truths(sn={"sigma_conv": 1.6, "tightness": 0.7}),
    "C3": {"plain": {"sigma": 3, "sigma_growth": 2}, "sn": {}},
    "C4": {"sn": {"growth": 0.7}},
    "C5": truths(),
    "C7": truths({"fd_sd": 0.1}),
    "C8": truths({"fd_sd": 0.5}),
    "C11": truths({"fd_sd": 0.5}),
    "C13": truths(),
}


@pytest.mark.parametrize("claim", few(SUPPORTING))
def test_a_true_claim_is_supported(claim: str, tmp_path: Path) -> None:
    assert verdicts(study(tmp_path, SUPPORTING[claim], seeds=30 if claim == "C7" else 14))[claim] == "supported"


@pytest.mark.parametrize("claim", few(CONTRADICTING))
def test_the_opposite_contradicts_it(claim: str, tmp_path: Path) -> None:
    assert verdicts(study(tmp_path, CONTRADICTING[claim], seeds=20 if claim == "C7" else 8))[claim] == "contradicted"


@pytest.mark.parametrize("claim", few(UNCLEAR))
def test_noise_is_inconclusive(claim: str, tmp_path: Path) -> None:
    assert verdicts(study(tmp_path, UNCLEAR[claim], seeds=10))[claim] == "inconclusive"


@pytest.mark.parametrize(("factor", "verdict"), [(3.0, "supported"), (0.5, "contradicted"), (1.4, "inconclusive")])
@pytest.mark.slow
def test_robustness_to_the_learning_rate(factor: float, verdict: str, tmp_path: Path) -> None:
    of = study(tmp_path, {arm: {} for arm in ("dcgan", "plain", "sn")}, settings={"C": 1.0, "E": factor})
    assert verdicts(of)["C6"] == verdict


def test_a_claim_whose_views_differ_in_direction_depends_on_the_view(tmp_path: Path) -> None:
    """The same runs by fd_pixels: as by fd, and the other way round."""
    of = study(tmp_path, SUPPORTING["C8"], seeds=14)
    of.runs["trivial_fd_pixels"] = 20.0
    of.history["eval/fd_pixels"] = of.history["eval/fd"] ** 1.1
    same = verdicts(of)
    of.history["eval/fd_pixels"] = 100 / of.history["eval/fd"]
    claims = judge(of, summarize(of.history, of.runs))
    opposite = dict(zip(claims["claim"], claims["verdict"], strict=True))
    assert (same["C8"], opposite["C8"]) == ("supported", "depends on the view")
    assert (same["C7"], opposite["C7"]) == ("inconclusive", "inconclusive")
    shown = claims[(claims["claim"] == "C8") & claims["evidence"].str.endswith("by fd_pixels")]
    assert len(shown) == 3
    by_fd = claims[(claims["claim"] == "C8") & (claims["evidence"] == "log fd at the end: dcgan - sn")].iloc[0]
    assert shown["effect"].iloc[0] == pytest.approx(-by_fd["effect"])
    others = claims[claims["claim"].isin(["C1", "C4", "C12", "C13"])]
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
    part = Evidence("", expected, 0.1, Interval(*by_fd), 9, 0.001, p_adjusted=0.001)
    assert part.verdict == verdict
    other = Evidence("", expected, 0.1, Interval(*by_pixels), n, 0.001)
    assert claims_module._opposed(part, other) == opposed


def test_modes_of_a_thousand(tmp_path: Path) -> None:
    of = study(tmp_path, {"sn": {}, "dcgan": {}}, seeds=10, dataset="stacked_mnist")
    rng = np.random.default_rng(0)
    for low, verdict in ((300.0, "supported"), (500.0, "inconclusive"), (700.0, "contradicted")):
        noise = of.history["seed"].map(dict(enumerate(rng.normal(size=10)))) * of.history["arm"].eq("sn")
        of.history["eval/modes"] = of.history["arm"].map({"sn": 500.0, "dcgan": low}) + noise
        assert verdicts(of)["C10"] == verdict
    assert verdicts(study(tmp_path, {"sn": {}, "dcgan": {}}))["C10"] == "not tested"


def test_one_power_iteration_against_more(tmp_path: Path) -> None:
    truth = {"fd_sd": 0.01}
    of = study(tmp_path, {"sn": truth, "plain": truth, "penalty": truth}, seeds=12)
    renamed = {
        "plain": "sn, n_power_iterations 2",
        "penalty": "sn, n_power_iterations 5",
        "sn": "sn, n_power_iterations 1",
    }
    for frame in (of.runs, of.history):
        frame["variant"] = frame["variant"].map(renamed)
    claims = judge(of, summarize(of.history, of.runs))
    parts = claims[claims["claim"] == "C9"].set_index("evidence")["part"]
    assert parts.tolist() == ["supported", "supported", "not tested"]  # no sn_svd here
    noisy = study(tmp_path, {"sn": {"fd_sd": 0.5}, "plain": {"fd": 30.0, "fd_sd": 0.01}}, seeds=12)
    for effect, verdict in ((1.0, "contradicted"), (0.28, "inconclusive")):
        claims = judge(noisy, _as_iterations(noisy, effect))
        assert claims.set_index("claim").loc["C9", "verdict"].iloc[0] == verdict


def _as_iterations(of: Study, effect: float) -> pd.DataFrame:
    """`plain` renamed to two iterations, its fd moved by a factor."""
    names = {"plain": "sn, n_power_iterations 2", "sn": "sn, n_power_iterations 1"}
    of.runs["variant"] = of.runs["arm"].map(names)
    of.history["variant"] = of.history["arm"].map(names)
    summary = summarize(of.history, of.runs)
    moved = summary["arm"] == "plain"
    summary.loc[moved, "log_q_end"] += np.log(effect)
    return summary


@pytest.mark.parametrize("seeds", [1, 3, 6])
def test_too_few_seeds_cannot_support_anything(seeds: int, tmp_path: Path) -> None:
    every = {arm: {name: v for truth in SUPPORTING.values() for name, v in truth[arm].items()} for arm in ALL}
    assert set(verdicts(study(tmp_path, every, seeds=seeds)).values()) == {"not tested"}


def test_a_study_without_the_arms_tests_nothing(tmp_path: Path) -> None:
    assert set(verdicts(study(tmp_path, {"penalty": {}}, seeds=10)).values()) == {"not tested"}


def test_cost_comes_from_benchmarks(tmp_path: Path) -> None:
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "broken.json").write_text("{")
    of = study(tmp_path / "study", {"sn": {}}, seeds=2)
    rng = np.random.default_rng(0)
    for sn, noise, verdict in ((1.1, 0.01, "supported"), (1.4, 0.01, "contradicted"), (1.2, 0.1, "inconclusive")):
        for i in range(8):
            seconds = {"plain": 1.0, "sn": sn, "penalty": 0.95 * sn}
            rows = {arm: {"step_seconds": value * (1 + noise * rng.normal())} for arm, value in seconds.items()}
            (folder / f"{i}.json").write_text(json.dumps({"rows": rows}))
        assert verdicts(of)["C12"] == verdict


def test_failed_runs_are_not_dropped(tmp_path: Path) -> None:
    """Half of sn_dcgan's runs diverge: without them its spread would be the smaller one."""
    of = study(tmp_path, truths(dcgan={"fd_sd": 0.2}, sn_dcgan={"fd_sd": 0.05}), seeds=20)
    lost = (of.runs["arm"] == "sn_dcgan") & (of.runs["seed"] % 2 == 0)
    of.runs.loc[lost, "state"] = "diverged"
    claims = judge(of, summarize(of.history, of.runs))
    assert claims.set_index("claim").loc["C7", "verdict"].iloc[0] == "contradicted"
    assert (claims[claims["claim"] == "C7"]["n"] == 20).all()


def test_the_order_of_sn_penalty_and_baseline_is_shown_and_does_not_decide(tmp_path: Path) -> None:
    """A penalty that spreads most is out of order; sn_dcgan against dcgan stays what it is."""

    def parts(penalty: float) -> tuple[str, list[str]]:
        of = study(tmp_path, SUPPORTING["C7"] | {"penalty_dcgan": {"fd_sd": penalty}}, seeds=30)
        claim = judge(of, summarize(of.history, of.runs))
        claim = claim[claim["claim"] == "C7"]
        return claim["verdict"].iloc[0], claim["part"].tolist()[2:]

    verdict, (spread, _) = parts(0.15)
    assert (verdict, spread) == ("supported", "supported")
    verdict, (spread, _) = parts(3.0)
    assert verdict == "supported"
    assert spread == "contradicted"  # from the penalty to the baseline it falls


@pytest.mark.slow
def test_shuffled_labels_support_no_comparison_beyond_chance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = study(tmp_path, {arm: {"fd_sd": 0.2} for arm in ("dcgan", "sn_dcgan", "plain", "sn")}, seeds=14)
    summary, rng, found = summarize(of.history, of.runs), np.random.default_rng(0), []
    compared = {"C7", "C8", "C11"}
    monkeypatch.setattr(claims_module, "CLAIMS", [claim for claim in CLAIMS if claim.id in compared])
    for _ in range(200):
        shuffled = summary.copy()
        names = {}
        for _, runs in summary.groupby("seed"):
            names |= dict(zip(runs["run_id"], rng.permutation(runs["variant"].to_numpy()), strict=True))
        shuffled["variant"] = shuffled["run_id"].map(names)
        claims = judge(of, shuffled).drop_duplicates("claim")
        found.append(set(claims.loc[claims["verdict"] == "supported", "claim"]) & compared)
    assert sum(map(bool, found)) <= 0.05 * 200


def test_rules_of_a_part_and_of_a_claim() -> None:
    def part(low: float, high: float, expected: str = "above", n: int = 10, p: float = 0.01, **more: Any) -> str:
        interval = Interval((low + high) / 2, low, high)
        return Evidence("", expected, more.get("t", 0.5), interval, n, p, more.get("zero", 0.0), p).verdict

    assert part(0.6, 0.9) == "supported"
    assert part(0.6, 0.9, p=0.2) == "inconclusive"  # after adjustment
    assert part(0.4, 0.9) == "inconclusive"
    assert part(-0.9, -0.1) == "contradicted"
    assert part(-0.9, 0.1) == "inconclusive"
    assert part(0.6, 0.9, n=6) == "not tested"
    assert part(-0.3, 0.3, "within") == "supported"
    assert part(0.6, 0.9, "within") == "contradicted"
    assert part(0.3, 0.9, "within") == "inconclusive"
    assert part(np.nan, np.nan) == "inconclusive"
    assert conclude(["supported", "supported"]) == "supported"
    assert conclude(["supported", "inconclusive"]) == "inconclusive"
    assert conclude(["supported", "not tested"]) == "inconclusive"
    assert conclude(["supported", "contradicted"]) == "contradicted"
    assert conclude(["not tested"] * 2) == conclude([]) == "not tested"


def test_every_claim_is_there_once() -> None:
    assert [claim.id for claim in CLAIMS] == [f"C{i}" for i in range(1, 14)]
    assert [claim.id for claim in CLAIMS if claim.primary] == ["C7"]


def test_primary_parts_are_adjusted_by_holm_and_the_rest_by_benjamini_hochberg(tmp_path: Path) -> None:
    from scipy import stats

    claims = judge(of := study(tmp_path, SUPPORTING["C7"], seeds=20), summarize(of.history, of.runs))
    order = claims["evidence"].str.startswith("weakest step")
    assert order.sum() == 2  # beside the primary parts, with the rest
    primary = claims[(claims["claim"] == "C7") & ~order]
    p = primary["p"].to_numpy()
    smaller, larger = min(p), max(p)
    assert sorted(primary["p_adjusted"]) == pytest.approx(sorted([2 * smaller, max(larger, 2 * smaller)]))
    rest = claims[((claims["claim"] != "C7") | order) & claims["p"].notna()]
    assert rest["p_adjusted"].to_numpy() == pytest.approx(stats.false_discovery_control(rest["p"]))
