"""Relative representations forget rotation and scale, and a probe of one space reads the other."""

import numpy as np
import pytest
from scipy.stats import ortho_group
from sklearn.metrics.pairwise import cosine_similarity

from probing.formation import relative, stitch

TRAIN = np.arange(400) < 250
ANCHORS = np.arange(40)


def two_models(seed=0):
    """Two random nonlinear maps of the same six factors, and a label of them."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(400, 6))
    return *(np.tanh(z @ rng.normal(size=(6, 30)) / 3) for _ in range(2)), (z[:, 0] + z[:, 1] > 0).astype(int)


def test_cosines_to_anchors_forget_rotation_and_scale():
    A, _, _ = two_models()
    np.testing.assert_allclose(relative(A, ANCHORS), cosine_similarity(A, A[ANCHORS]), atol=1e-12)
    turned = 7 * A @ ortho_group.rvs(30, random_state=0)
    np.testing.assert_allclose(relative(turned, ANCHORS), relative(A, ANCHORS), atol=1e-6)


def test_a_probe_moves_to_another_model_and_not_to_shuffled_anchors():
    A, B, y = two_models()
    found = stitch(A, B, y, ANCHORS, TRAIN).set_index("read")
    assert list(found.index) == ["own", "stitched", "shuffled_anchors", "majority"] and (found["n"] == 150).all()
    assert found.loc["stitched", "ci_low"] > found.loc["shuffled_anchors", "ci_high"]
    assert found.loc["stitched", "ci_low"] > found.loc["majority", "ci_high"]
    same = stitch(A, 3 * A @ ortho_group.rvs(30, random_state=0), y, ANCHORS, TRAIN).set_index("read")
    assert same.loc["stitched", "value"] == pytest.approx(same.loc["own", "value"], abs=0.01)


def test_what_cannot_be_stitched_is_refused():
    A, B, y = two_models()
    with pytest.raises(ValueError, match="anchors are test rows"):
        stitch(A, B, y, np.arange(240, 260), TRAIN)
    with pytest.raises(ValueError, match="400 and 399 rows"):
        stitch(A, B[1:], y, ANCHORS, TRAIN)
    with pytest.raises(ValueError, match="row 3 is zero"):
        relative(np.where(np.arange(400)[:, None] == 3, 0, A), ANCHORS)
