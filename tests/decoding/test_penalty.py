"""Length penalties are their formulas."""

import numpy as np
import pytest

from jaxembed.decoding.penalty import penalty_table


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("none", lambda length: 1.0),
        ("length", lambda length: length),
        ("length^0.75", lambda length: length**0.75),
        ("length^-1", lambda length: 1 / length),
        ("length^.5", lambda length: length**0.5),
        ("gnmt", lambda length: (5 + length) / 6),
        ("gnmt^0.6", lambda length: ((5 + length) / 6) ** 0.6),
    ],
)
def test_penalty_is_its_formula(name, formula):
    table = penalty_table(name, 50)
    np.testing.assert_allclose(table[1:], [formula(length) for length in range(1, 51)], rtol=1e-6)


@pytest.mark.parametrize("name", ["", "Length", "length^", "length^x", "gnmt0.6", "0.75"])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ValueError, match="write none, length"):
        penalty_table(name, 5)
