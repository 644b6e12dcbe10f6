"""R-LACE stays in the Fantope, finds one dimension for a binary label, and hides it as well as LEACE does."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interventions import LEACE, RLACE
from interventions._rlace import to_fantope


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(2, 8), st.data())
def test_the_fantope_projection_is_feasible_and_nearest(seed, d, data):
    rank = data.draw(st.integers(1, d - 1))
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(d, d, generator=generator, dtype=torch.float64)
    A = A + A.T
    P = to_fantope(A, rank)
    values = torch.linalg.eigvalsh(P)
    assert values.min() > -1e-12 and values.max() < 1 + 1e-12 and abs(float(P.trace()) - rank) < 1e-10
    torch.testing.assert_close(to_fantope(P, rank), P, rtol=0, atol=1e-10)
    for _ in range(20):  # nearest: the line to any other point of the set makes an obtuse angle
        q = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0][:, :rank]
        assert float(((A - P) * (q @ q.T - P)).sum()) < 1e-9


def test_one_dimension_hides_a_binary_label_and_is_the_difference_of_means():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 800)
    X = (rng.normal(size=(800, 8)) + 0.8 * rng.normal(size=(2, 8))[y]) @ rng.normal(size=(8, 8)) + 2
    fit, dev = slice(0, None, 2), slice(1, None, 2)
    rlace = RLACE.fit(X[fit], y[fit], 1, (X[dev], y[dev]), n_steps=80)
    history = rlace.history
    assert rlace.rank == 1 and history["accuracy"].min() < history["majority"].iloc[0] + 0.04
    assert history["loss"].iloc[-1] > 0.6  # log 2 is 0.69
    assert rlace.removed.angles(LEACE.fit(X[fit], y[fit]).removed)[0] < 10
    np.testing.assert_allclose(rlace.transform(X[fit]).mean(0), X[fit].mean(0), atol=1e-9)
    with pytest.raises(ValueError, match="rank must lie in 1..7"):
        RLACE.fit(X, y, 8)
