"""What measured things are called, and which side is better."""

import math
from dataclasses import replace

from analysis.terms import OURS


def test_a_ratio_is_compared_by_its_logarithm_and_more_is_better_by_difference() -> None:
    assert (OURS.location, OURS.scale, OURS.worst, OURS.better) == ("log_q_end", "log fd", math.inf, "lower")
    score = replace(OURS, quality="score", maximize=True, ratio=False)
    assert (score.location, score.scale, score.worst, score.better) == ("q_end", "score", -math.inf, "higher")


def test_words_are_filled_in() -> None:
    score = replace(OURS, quality="score", maximize=True, ratio=False, loss_d="critic")
    assert score.fill("{best} {q} as {mean} of {scale}, {loss_d}") == "highest score as mean of score, critic"
    assert OURS.fill("{best} {q} as {mean}") == "lowest fd as exp of the mean log"
