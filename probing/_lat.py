"""Linear artificial tomography: the direction along which paired activations differ most."""

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ._subspaces import LinearPair


class LATProbe(LinearPair, ClassifierMixin, TransformerMixin, BaseEstimator):
    """Tell which of two paired activations has more of a concept, along the main axis of their differences.

    A row of X is one pair, delta = x_a - x_b, so the scikit-learn contract holds as it stands and a split by rows
    never parts a pair. Labels are optional and give one bit: the sign of the axis.

        pca:     v maximises sum_i (delta_i . v)^2
        kmeans:  v maximises sum_i |delta_i . v|, the axis between the two cluster centres of {delta_i, -delta_i}

    Both are the same whichever way round a pair is given.

    Args:
        method: `pca` or `kmeans`.
        n_components: Axes kept by `pca`, the second and later for `transform` alone.

    Attributes:
        read_: (1, d_model) the unit vector v; decision(delta) = delta . v. On single activations, compare scores.
        write_: (1, d_model) mean of the differences, each turned to the side that the probe says has the concept.
        components_: (component, d_model) orthonormal.
        explained_variance_ratio_: (component,) share of the summed squared differences along each axis.
        classes_: Of the labels: classes_[1] says that x_a has the concept. 0 and 1 if fitted without labels; the axis
            then points to x_a in most pairs, which is the concept if x_a always has it and else an arbitrary side.
    Source: Zou et al., arXiv:2310.01405, and `PCARepReader` in andyzoujm/representation-engineering, which gives
        each pair a random sign and then centres. Ours is the expectation over those signs: PCA of both signs at once.
        k-means in place of PCA: Arora et al., arXiv:2402.12560, there on single activations.
    """

    def __init__(self, method="pca", n_components=1):
        self.method, self.n_components = method, n_components

    def fit(self, X, y=None):
        if y is None:
            X = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
            self.classes_, holds = np.array([0, 1]), None
        else:
            X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
            self.classes_, holds = binary_classes(y)
        if self.method not in ("pca", "kmeans"):
            raise ValueError(f"method must be 'pca' or 'kmeans', not {self.method!r}")
        if not 1 <= self.n_components <= X.shape[1]:
            raise ValueError(f"n_components is {self.n_components}; X has {X.shape[1]} dimensions, ask for 1 to that")
        _, s, components = np.linalg.svd(X, full_matrices=False)
        if not s[0] > 0:
            raise ValueError(f"all {len(X)} differences are zero; are both sides of each pair the same activation?")
        components = components[: self.n_components]
        if self.method == "kmeans":
            components = two_means_axis(X, components[0])[None]
        scores = X @ components.T
        toward = np.where(holds, 1, -1) if holds is not None else np.ones(len(X))
        side = np.where((np.sign(scores) * toward[:, None]).sum(0) < 0, -1.0, 1.0)
        self.components_ = side[:, None] * components
        self.explained_variance_ratio_ = (scores**2).sum(0) / (s**2).sum()
        self.read_ = self.components_[:1]
        self.write_ = aligned_mean(X, self.read_[0])[None]
        return self

    def transform(self, X):
        """(example, component) scores, of differences or of single activations (whose zero means nothing)."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64) @ self.components_.T

    def decision_function(self, X):
        """(pair,) how much more of the concept x_a has than x_b, in activation units."""
        return self.transform(X)[:, 0]

    def predict(self, X):
        chosen = self.decision_function(X) > 0  # first, so that an unfitted probe says so
        return self.classes_[chosen.astype(int)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.required = False
        tags.classifier_tags.multi_class = False
        return tags


def binary_classes(y) -> tuple[ndarray, ndarray]:
    """(two class labels, (example,) true where the label is the second).

    Raises:
        ValueError: Not two classes.
    """
    check_classification_targets(y)
    classes, side = np.unique(y, return_inverse=True)
    if len(classes) != 2:
        raise ValueError(f"Only binary classification is supported. y has {len(classes)} class(es): "
                         f"{classes[:5].tolist()}; code the label as two values.")
    return classes, side == 1


def aligned_mean(delta: Float[ndarray, "pair d_model"], v: Float[ndarray, " d_model"]) -> Float[ndarray, " d_model"]:
    """Mean difference, each pair turned so that it points along v; a pair at right angles to v counts as zero."""
    return np.sign(delta @ v) @ delta / len(delta)


def two_means_axis(
    delta: Float[ndarray, "pair d_model"], start: Float[ndarray, " d_model"]
) -> Float[ndarray, " d_model"]:
    """Unit axis through the two k-means centres of {delta, -delta}, from Lloyd's iterations begun along `start`."""
    v = start
    while True:  # each step changes some sign and raises sum |delta . v|, so that it ends
        centre = aligned_mean(delta, v)
        new = centre / np.linalg.norm(centre)
        if (np.sign(delta @ new) == np.sign(delta @ v)).all():
            return new
        v = new
