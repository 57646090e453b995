"""Tables as people read and copy them."""

import numpy as np
import pandas as pd

from analysis.page.tables import Table


def test_latex_has_the_cells_and_nothing_that_latex_would_run() -> None:
    frame = pd.DataFrame({"run_id": ["a_b", "\\input{x} 5 % & $y$"], "fd": [1.23456, np.nan]})
    lines = Table("t", "", "", frame).latex().splitlines()
    assert lines[0] == r"\begin{tabular}{ll}"
    assert r"run id & fd \\" in lines
    assert r"a\_b & 1.235 \\" in lines
    assert r"\textbackslash input\{x\} 5 \% \& \$y\$ &  \\" in lines
