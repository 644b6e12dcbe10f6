"""What every linear probe promises: a read and a write direction in raw activation space. Probes are found, not listed:
a new one that mixes in LinearPair is tested here without a line."""

from functools import cache

import numpy as np
import pytest
from sklearn.base import is_classifier
from sklearn.utils import get_tags

import probing
from probing._subspaces import LinearPair

# Penalties are in units of each dimension's spread, so that a change of units changes nothing else.
STANDARDISES = {"LogisticProbe", "CAVProbe", "LatentIntrinsicProbe", "KSparseProbe"}
READS_DIFFERENCES = {"LATProbe"}  # of two activations: a common offset has no meaning there
READS_COMBINATIONS = {"LowRankProbe"}  # of targets, `targets_`, chosen by what the raw scale of each dimension favours
FEWER = {"LatentIntrinsicProbe": {"n_steps": 200}}  # what is asked here holds after any number of steps


def linear_probes() -> dict[str, type]:
    offered = {name: getattr(probing, name) for name in probing.__all__}
    return {name: cls for name, cls in offered.items()
            if isinstance(cls, type) and issubclass(cls, LinearPair) and get_tags(cls()).input_tags.two_d_array}


def cases() -> list[tuple[str, str]]:
    found = []
    for name, cls in linear_probes().items():
        tags = get_tags(cls())
        if is_classifier(cls()):
            kinds = ["binary", *["classes"] * tags.classifier_tags.multi_class]
            kinds += ["targets"] * (tags.target_tags.multi_output and tags.classifier_tags.multi_class)
        else:
            kinds = ["number", *["numbers"] * tags.target_tags.multi_output]
        found += [(name, kind) for kind in kinds]
    return found


def world(kind: str, n=600, d=10, seed=0):
    """Correlated activations and labels of a kind that depend on them."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) @ (np.eye(d) + 0.3 * rng.normal(size=(d, d)))
    latent = X @ rng.normal(size=(d, 3)) + rng.normal(size=(n, 3))
    return X, {"binary": (latent[:, 0] > 0).astype(int), "classes": latent.argmax(1),
               "targets": np.digitize(latent, [-1, 1]), "number": latent[:, 0], "numbers": latent}[kind]


def make(name: str):
    return linear_probes()[name](**FEWER.get(name, {}))


@cache
def fitted(name: str, kind: str):
    return make(name).fit(*world(kind))


def scores(probe, X):
    """(example, ..., direction), of more than two classes less their mean, as `read_` is."""
    size = probe.read_[..., 0].size * len(X)
    came = [getattr(probe, method)(X) for method in ("decision_function", "predict", "transform")
            if hasattr(probe, method)]
    came = next(scores for scores in came if scores.size == size)
    came = came.reshape(len(X), -1) @ probe.targets_.T if hasattr(probe, "targets_") else came
    if hasattr(probe, "classes_") and len(probe.classes_) > 2:
        came = came - came.mean(-1, keepdims=True)
    return came.reshape(len(X), *probe.read_.shape[:-1])


@pytest.mark.parametrize("name, kind", cases())
def test_scores_are_linear_in_the_activation_along_read(name, kind):
    X, _ = world(kind)
    probe = fitted(name, kind)
    rest = scores(probe, X) - np.einsum("...d,nd->n...", probe.read_, X)
    np.testing.assert_allclose(rest, np.broadcast_to(rest[:1], rest.shape), atol=1e-8 * max(1, np.abs(rest).max()))


@pytest.mark.parametrize("name, kind", cases())
def test_read_and_write_have_one_shape_and_point_the_same_way(name, kind):
    probe = fitted(name, kind)
    assert probe.read_.shape == probe.write_.shape and probe.read_.shape[-1] == probe.n_features_in_
    assert probe.read_.dtype == probe.write_.dtype == np.float64
    assert (np.einsum("...d,...d->...", probe.read_, probe.write_) > 0).all()  # moving along write raises the score
    for pair in ("read", "write"):
        assert np.linalg.norm(probe.direction(pair=pair)) == pytest.approx(1)


@pytest.mark.parametrize("name, kind", [case for case in cases() if case[0] not in READS_DIFFERENCES])
def test_a_change_of_origin_and_units_is_undone(name, kind):
    X, y = world(kind)
    probe = fitted(name, kind)
    standard = name in STANDARDISES
    s = np.geomspace(0.1, 10, X.shape[1]) if name not in READS_COMBINATIONS else np.ones(X.shape[1])
    moved = make(name).fit(X * s + 10 * np.arange(X.shape[1]), y)
    np.testing.assert_allclose(moved.write_ / s, probe.write_, atol=2e-3 * np.abs(probe.write_).max())
    if not standard:  # what reads depends on the units, but not on the origin
        moved, s = make(name).fit(X + 10 * np.arange(X.shape[1]), y), 1
    np.testing.assert_allclose(moved.read_ * s, probe.read_, atol=2e-3 * np.abs(probe.read_).max())
