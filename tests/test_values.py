from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.masked import masked_tensor

from sngan.values import numbers, whole


@pytest.mark.parametrize(
    "value",
    [
        *(3.0, "3", None, True, np.bool_(True), [3], 2.5, float("nan")),
        *(np.array(3.0), np.array([3, 3]), torch.tensor(3.0), torch.tensor(True), torch.tensor([3, 3])),
    ],
    ids=str,
)
def test_what_is_no_whole_number(value: object) -> None:
    with pytest.raises(ValueError, match="k must be a whole number, got"):
        whole(value, "k", 1)


def test_whole_numbers_of_any_type() -> None:
    assert [whole(value, "k", 1) for value in (3, np.int64(3), np.uint8(3), torch.tensor(3))] == [3] * 4
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        whole(0, "k", 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("12", "x must be numbers"),
        ([["1", "2"]], "x must be numbers"),
        ([[1, 2], [3]], "x must be numbers"),
        ([[None]], "x must be numbers"),
        (np.array([object()]), "x must be numbers"),
        (np.array([["3", 4.0]], dtype=object), "there is '3' among them"),
        (pd.Series(["3", "4"], dtype="category"), "there is '3' among them"),
        ([np.ma.masked_array([1e9, 2.0], [True, False])], "x has masked entries"),
        ([1.0, np.ma.masked], "x has masked entries"),
        (masked_tensor(torch.ones(2), torch.tensor([True, False])), "x is a masked tensor"),
        (np.zeros(2, "M8[s]"), "x must be numbers"),
        ({"a": 1}, "x must be numbers"),
        (np.ones(2, complex), "x must be real numbers"),
        (torch.ones(2, dtype=torch.complex64), "x must be real numbers"),
        (np.ma.masked_array([1, 2], mask=[0, 1]), "x has masked entries"),
        (torch.ones(2, device="meta"), "without values"),
        (torch.nested.nested_tensor([torch.ones(1), torch.ones(2)], layout=torch.jagged), "unequal lengths"),
    ],
)
def test_what_is_no_numbers(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numbers(values, "x")


def test_numbers_are_the_same_from_whatever_they_come() -> None:
    array = np.array([[1.0, 2.0], [0.0, 4.0]])
    whatever = [
        array.astype(">f4")[:, ::-1][:, ::-1],
        np.ma.masked_array(array),
        array.tolist(),
        torch.from_numpy(array).bfloat16().requires_grad_(),
        torch.from_numpy(array).to_sparse(),
    ]
    for values in whatever:
        assert numbers(values, "x").dtype == torch.float64
        assert np.array_equal(numbers(values, "x").numpy(), array)
    assert numbers(array * 1j, "x", complex_too=True).numpy() == pytest.approx(array * 1j)
