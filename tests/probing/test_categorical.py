import numpy as np
import pandas as pd
import pytest
from sklearn.covariance import LedoitWolf

from probing import category_hierarchy, category_separation, category_simplex, category_vector, category_vectors

PARENTS = {f"{p}{c}": p for p in "abc" for c in "xyz"} | {"axx": "ax", "axy": "ax"}


def word_net(d_model=256, per_leaf=60, seed=0):
    """Whitened tokens: 3 parents, each an offset; 3 children each, an offset more; one child with children of its
    own; and as many tokens of no category. Categories hold the tokens of all their descendants."""
    rng = np.random.default_rng(seed)
    offset = {name: 4 * rng.normal(size=d_model) / 16 for name in sorted({*PARENTS, *PARENTS.values()})}
    categories = {name: [] for name in offset}
    rows = []
    for leaf in sorted(set(PARENTS) - set(PARENTS.values())):
        line = [leaf]
        while line[-1] in PARENTS:
            line.append(PARENTS[line[-1]])
        for name in line:
            categories[name] += range(len(rows), len(rows) + per_leaf)
        rows += list(sum(offset[name] for name in line) + rng.normal(size=(per_leaf, d_model)))
    rows += list(rng.normal(size=(len(rows), d_model)))
    g = np.array(rows)
    return g - g.mean(0), {name: np.array(ids) for name, ids in categories.items()}


@pytest.mark.parametrize("n_tokens", [2, 20, 200])
def test_category_vectors_are_the_published_formula(n_tokens):
    """hierarchical/category.py: S = LedoitWolf(g), u = pinv(S) mu normalised, (mu . u) u."""
    g = np.random.default_rng(0).normal(size=(n_tokens, 50)) * np.geomspace(3, 0.1, 50) + np.linspace(0, 2, 50)
    mu = g.mean(0)
    u = np.linalg.pinv(LedoitWolf().fit(g).covariance_) @ mu
    u /= np.linalg.norm(u)
    np.testing.assert_allclose(category_vector(g), (mu @ u) * u, rtol=1e-9, atol=1e-12)


def test_equal_tokens_give_their_own_vector_and_one_token_is_refused():
    g = np.tile(np.arange(1.0, 6.0), (4, 1))
    g[:2, 0] += 1e-3
    g[2:, 0] -= 1e-3
    vector = category_vector(g)  # no variance but in dim 0, and that is shrunk towards the identity
    assert vector @ g[0] == pytest.approx(vector @ vector, rel=1e-2)
    with pytest.raises(ValueError, match="at least 2 tokens"):
        category_vector(g[:1])


def test_what_a_child_adds_is_orthogonal_to_its_parent_and_not_to_a_random_one():
    g, categories = word_net()
    table = category_hierarchy(g, categories, PARENTS).assign(control=lambda t: t["control"].fillna("none"))
    cosine = table["cosine"].abs().groupby(table["control"]).mean()
    assert cosine["none"] < 0.1 and table.query("control == 'none'")["step_cosine"].abs().max() < 0.15
    assert cosine["random_parent"] > 0.5
    assert cosine["shuffled_unembedding"] < 0.2  # orthogonal by chance: alone, this test shows no hierarchy


def test_held_out_tokens_separate_and_shuffled_ones_do_not():
    """Card section 8.2: shuffled tokens give no separation of test projections."""
    g, categories = word_net()
    table = category_separation(g, categories)
    real, shuffled = (table[table["control"].isna() == is_real] for is_real in (True, False))
    assert real["auroc"].min() > 0.95 and (real["ci_low"] > real["others"] + 0.3).all()
    assert abs(shuffled["auroc"].mean() - 0.5) < 0.1 and shuffled["value"].abs().mean() < 0.2
    pd.testing.assert_frame_equal(table, category_separation(g, categories))


def test_siblings_span_a_simplex():
    cosines, regularity = category_simplex(np.eye(5)[:4] + 3)
    np.testing.assert_allclose(cosines[~np.eye(4, dtype=bool)], -1 / 3)
    assert regularity == pytest.approx(1)
    assert category_simplex(np.outer([0.0, 1, 5], np.ones(5)))[1] == pytest.approx(0, abs=1e-12)
    assert category_simplex(np.random.default_rng(0).normal(size=(4, 2)))[1] == 0  # 4 corners need 3 dimensions
    g, categories = word_net()
    cosines, regularity = category_simplex(category_vectors(g, {name: categories[name] for name in "abc"}))
    np.testing.assert_allclose(cosines[~np.eye(3, dtype=bool)], -1 / 2, atol=0.15)
    assert regularity > 0.7


def test_a_parent_without_tokens_is_named():
    g, categories = word_net()
    with pytest.raises(ValueError, match="no tokens for \\['plant'\\]"):
        category_hierarchy(g, categories, {"ax": "plant"})
    with pytest.raises(ValueError, match="at least 3 corners"):
        category_simplex(np.eye(2))
