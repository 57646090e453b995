"""What measured things are called, and which side is better."""

import math
from dataclasses import replace

from analysis.terms import OURS, terms_of


def test_a_ratio_is_compared_by_its_logarithm_and_more_is_better_by_difference() -> None:
    assert (OURS.location, OURS.scale, OURS.worst, OURS.better) == ("log_q_end", "log fd", math.inf, "lower")
    score = replace(OURS, quality="score", maximize=True, ratio=False)
    assert (score.location, score.scale, score.worst, score.better) == ("q_end", "score", -math.inf, "higher")


def test_words_are_filled_in() -> None:
    score = replace(OURS, quality="score", maximize=True, ratio=False, loss_d="critic")
    assert score.fill("{best} {q} as {mean} of {scale}, {loss_d}") == "highest score as mean of score, critic"
    assert OURS.fill("{best} {q} as {mean}") == "lowest fd as exp of the mean log"


def test_quality_is_called_what_all_runs_are_judged_by() -> None:
    own = [("mnist", "mnist"), ("stacked_mnist", "mnist"), ("folder", "labels")]
    assert terms_of(own) == OURS
    assert [terms_of([of]).quality for of in [("folder", "pixels"), ("mnist", "inception")]] == ["fd_pixels", "FID"]
    assert terms_of([("folder", "pixels"), ("folder", "labels")]).quality == "fd"
    assert terms_of([("folder", "pixels")]).said("fd, an fd_end, fd_pixels") == "fd_pixels, an fd_end, fd_pixels"


def test_what_cannot_be_seen_is_said() -> None:
    assert OURS.unseen == ""
    assert "pixels alone" in terms_of([("folder", "pixels")]).unseen
    for judged in [("folder", "mnist"), ("mnist", "kmnist"), ("mnist", "inception")]:
        assert "does not know the data's classes" in terms_of([judged]).unseen
