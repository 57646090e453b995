"""Variants: their names, order and baseline."""

import pandas as pd
import pytest

from analysis.plots import look_of
from analysis.variants import against, arm_of, groups, in_order, label_of, labelled, norm_of
from sngan.arms import ARMS, DASHES


def test_names_say_the_arm_and_what_differs() -> None:
    variant = "penalty, penalty_weight 0.3"
    assert arm_of(variant) == "penalty"
    assert label_of(variant) == f"{ARMS['penalty'].label} 0.3"
    assert label_of("penalty_dcgan, penalty_weight 0.1, n_power_iterations 2") == (
        f"{ARMS['penalty_dcgan'].label} 0.1, n power iterations 2"
    )
    assert label_of("someone's") == "someone's"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gain by fd: sn_dcgan - dcgan", "gain by fd: SN-DCGAN - DCGAN"),
        ("share of layer-rows of sn with a sigma", "share of layer-rows of SN with a sigma"),
        ("penalty with penalty_weight 0.1 - plain", "penalty 0.1 - plain"),
        ("penalty_dcgan with penalty_weight 0.01", "penalty-DCGAN 0.01"),
        ("spread: penalty_dcgan, penalty_weight 0.01 looks tighter", "spread: penalty-DCGAN 0.01 looks tighter"),
        ("sn_dcgan, n_power_iterations 5", "SN-DCGAN, n power iterations 5"),
        ("mnist-sn_dcgan-C-s00-1f2e3d4c failed", "mnist-sn_dcgan-C-s00-1f2e3d4c failed"),
        ("runs/x/sn/config.json", "runs/x/sn/config.json"),
        ("snow, dcgan28", "snow, dcgan28"),
    ],
)
def test_in_texts_arms_have_their_labels_and_run_ids_stay(text: str, shown: str) -> None:
    assert labelled(text) == shown


def test_order_is_that_of_the_arm_table_and_of_others_behind_it() -> None:
    variants = pd.Series(["zeta", "sn", "alpha", *reversed(ARMS), "sn, n_power_iterations 2"])
    order = in_order(variants)
    assert [v for v in order if v in ARMS] == list(ARMS)
    assert order.index("sn, n_power_iterations 2") == order.index("sn") + 1
    assert order[-2:] == ["alpha", "zeta"]
    assert against(variants, "") == order
    assert against(variants, "sn")[0] == "sn"
    assert sorted(against(variants, "sn")) == sorted(order)


def test_groups_are_every_context_and_variant_with_its_rows() -> None:
    frame = pd.DataFrame({"context": ["b", "a", "b", "b"], "variant": ["sn", "sn", "dcgan", "sn"], "x": [1, 2, 3, 4]})
    assert [(key, of["x"].tolist()) for key, of in groups(frame)] == [
        (("b", "dcgan"), [3]), (("b", "sn"), [1, 4]), (("a", "sn"), [2]),
    ]  # fmt: skip


def test_another_norm_is_told_in_words_and_by_its_dashes() -> None:
    said = {
        "gp, d_norm own": "GP, no norm in D",
        "gp, d_norm layer": "GP, layer norm in D",
        "clip, d_norm batch": "clipping, batch norm in D",
        "clip, d_norm own, clip_value 0.1": "clipping, no norm in D, clip value 0.1",
    }
    look = look_of(said)
    assert dict(look.labels) == said
    assert [look.dashes[v] for v in said] == [DASHES[norm] for norm in ("none", "layer", "batch", "none")]


@pytest.mark.parametrize(
    "variants",
    [
        [f"gp, d_norm {norm}, penalty_weight {weight}" for norm in ("own", "layer") for weight in (1.0, 10.0)],
        [f"penalty, penalty_weight {weight}" for weight in (0.0001, 0.001, 0.01, 0.1, 1.0)],
        ["wn, norm_scale fixed", "wn, norm_scale learned"],
    ],
)
def test_variants_of_an_arm_are_told_apart_by_dashes_that_are_no_other_norms(variants: list[str]) -> None:
    dashes = look_of(variants).dashes
    assert len(set(dashes.values())) == len(variants)
    assert all(dash in (DASHES[norm_of(v)], *set(dashes.values()) - {*DASHES.values()}) for v, dash in dashes.items())  # type: ignore[index]
