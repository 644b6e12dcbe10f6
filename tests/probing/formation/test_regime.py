"""What did not move is lazy, what was replaced is not."""

import numpy as np
import pytest

from probing.formation import kernel_regime, regime, stable_rank


def test_a_scaled_matrix_has_changed_by_the_scale_and_kept_its_rank():
    W = np.random.default_rng(0).normal(size=(6, 9))
    found = regime({"l": 3 * W, "same": W}, {"l": W, "same": W}).set_index("layer")
    assert found.loc["l", "weight_change"] == pytest.approx(2) and found.loc["same", "weight_change"] == 0
    assert found.loc["l", "stable_rank"] == pytest.approx(found.loc["l", "stable_rank_at_start"])
    assert stable_rank(np.eye(5)) == pytest.approx(5) and stable_rank(np.outer([1, 2], [3, 4])) == pytest.approx(1)


def test_states_that_only_turned_are_lazy_and_new_ones_are_not():
    rng = np.random.default_rng(0)
    X, other = rng.normal(size=(2, 400, 12))
    turned = 2 * X @ np.linalg.qr(rng.normal(size=(12, 12)))[0]
    found = kernel_regime({"lazy": turned, "rich": other}, {"lazy": X, "rich": X}).set_index("layer")
    assert found.loc["lazy", "kernel_alignment"] == pytest.approx(1)
    assert abs(found.loc["rich", "kernel_alignment"]) < 0.05
    assert found.loc["lazy", "participation_ratio"] == pytest.approx(found.loc["lazy", "participation_ratio_at_start"])


def test_other_architectures_are_refused():
    with pytest.raises(ValueError, match="one architecture"):
        regime({"l": np.ones((2, 3))}, {"l": np.ones((3, 3))})
    with pytest.raises(ValueError, match="'b' is absent"):
        kernel_regime({"a": np.ones((5, 2))}, {"a": np.ones((5, 2)), "b": np.ones((5, 2))})
