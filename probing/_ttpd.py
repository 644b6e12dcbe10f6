"""Training of truth and polarity directions: what is true of affirmative and of negated statements alike."""

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_consistent_length, check_is_fitted, column_or_1d, validate_data

from ._lat import binary_classes
from ._logistic import LogisticProbe
from ._subspaces import LinearPair


class TTPDProbe(LinearPair, ClassifierMixin, BaseEstimator):
    """Tell true statements from false ones by a direction that negation does not turn.

        a_i = mu_(set of i) + tau_i t_G + tau_i p_i t_P          tau = +-1 true, false; p = +-1 affirmative, negated
        P(true) = sigmoid(w_1 a . t_G + w_2 a . d_p + b)

    t_G, t_P are the least-squares solution, every set of statements with a mean of its own; d_p is what a logistic
    probe of p reads with; w and b are those of a logistic probe of the two coordinates. Only `fit` wants p: it says of
    every row whether the statement is affirmative.

    `fit(X, y)` alone takes all statements as of one polarity: t_G is then half the difference of the class means, and
    the only coordinate.

    Args:
        C: Of both logistic probes, as in `LogisticProbe`.
        tol: Of both, as there.

    Attributes:
        t_G_, t_P_: (d_model,) in activation units; t_P_ is zero where there is one polarity.
        d_p_: (d_model,) towards affirmative; zero where there is one polarity.
        weights_, intercept_: (2,) w, and (1,) b.
        read_: (1, d_model) w_1 t_G + w_2 d_p; decision(x) = x . read_ + intercept_.
        write_: (1, d_model) 2 t_G: how the activation moves from false to true, whatever the polarity.
        classes_: classes_[1] is what tau = +1 stands for.
    Source: Bürger et al., arXiv:2407.12831, and `probes.py` of github.com/sciai-lab/Truth_is_Universal. Their logistic
        regressions have no penalty, and no optimum where the polarity, or the truth, can be read without a mistake;
        ours have one. Theirs centre the activations of each data set and want as many true as false statements in
        it; ours are the least squares of the model above, whatever the balance.
    """

    def __init__(self, C=1.0, tol=1e-6):
        self.C, self.tol = C, tol

    def fit(self, X, y, polarity=None, topic=None):
        """Learn from rows.

        Args:
            polarity: (example,) two values, of which the larger means affirmative.
            topic: (example,) which data set a statement is from; those of one topic and polarity share a mean.
        Raises:
            ValueError: Not two classes or two polarities; no set with both classes, or none of one of the polarities.
        """
        X, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        self.classes_, true = binary_classes(y)
        affirmative = np.ones(len(y), bool) if polarity is None else _affirmative(polarity, len(y))
        tau, p = (np.where(side, 1.0, -1.0) for side in (true, affirmative))
        design = np.stack([tau, tau * p], 1)[:, : 1 if polarity is None else 2]
        sets = _sets(affirmative, topic)
        self.t_G_, self.t_P_ = truth_directions(X, design, sets)
        self.d_p_ = np.zeros(X.shape[1])
        if polarity is not None:
            self.d_p_ = LogisticProbe(self.C, tol=self.tol).fit(X, affirmative.astype(int)).read_[0]
        axes = np.stack([self.t_G_, self.d_p_])[: design.shape[1]]
        last = LogisticProbe(self.C, tol=self.tol).fit(X @ axes.T, true.astype(int))
        self.weights_ = np.append(last.read_[0], [0.0] * (2 - len(axes)))
        self.intercept_ = last.intercept_[0, 1:] - last.intercept_[0, :1]
        self.read_ = (self.weights_ @ np.stack([self.t_G_, self.d_p_]))[None]
        self.write_ = 2 * self.t_G_[None]
        return self

    def plane(self, X) -> Float[ndarray, "example 2"]:
        """The two coordinates that are read: along t_G and along d_p."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64) @ np.stack([self.t_G_, self.d_p_]).T

    def decision_function(self, X) -> Float[ndarray, " example"]:
        """Log-odds of classes_[1]."""
        check_is_fitted(self)
        return validate_data(self, X, reset=False, dtype=np.float64) @ self.read_[0] + self.intercept_[0]

    def predict_proba(self, X) -> Float[ndarray, "example 2"]:
        p = expit(self.decision_function(X))
        return np.stack([1 - p, p], axis=1)

    def predict(self, X):
        chosen = self.decision_function(X) > 0  # first, so that an unfitted probe says so
        return self.classes_[chosen.astype(int)]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


def truth_directions(X: Float[ndarray, "example d_model"], design: Float[ndarray, "example term"],
                     sets: Int[ndarray, " example"]) -> tuple[Float[ndarray, " d_model"], Float[ndarray, " d_model"]]:
    """t_G and t_P: least squares of X on the columns of `design`, tau and perhaps tau p (else t_P is zero), and on one
    constant per set, which is taken out of both sides beforehand.

    Raises:
        ValueError: The columns cannot be told apart within the sets.
    """
    count = np.bincount(sets)[:, None]

    def centred(rows: Float[ndarray, "example column"]) -> Float[ndarray, "example column"]:
        total = np.zeros((len(count), rows.shape[1]))
        np.add.at(total, sets, rows)
        return rows - (total / count)[sets]

    terms = centred(design)
    t, _, rank, _ = np.linalg.lstsq(terms, centred(X), rcond=1e-10)
    if rank < design.shape[1]:
        what = "both classes" if design.shape[1] == 1 else "true and false statements of either polarity"
        raise ValueError(f"no set of statements holds {what}, so the direction of truth cannot be told from the "
                         "difference between the sets; give sets that hold both")
    return t[0], t[1] if len(t) > 1 else np.zeros(X.shape[1])


def _affirmative(polarity, n: int) -> Bool[ndarray, " example"]:
    polarity = column_or_1d(polarity)
    check_consistent_length(polarity, np.empty(n))
    values, side = np.unique(polarity, return_inverse=True)
    if len(values) != 2:
        raise ValueError(f"polarity has the value(s) {values.tolist()[:5]}, wanted two, affirmative and negated; leave "
                         "it out where all statements are of one kind")
    return side == 1


def _sets(affirmative: Bool[ndarray, " example"], topic: Shaped[ndarray, " example"] | None
          ) -> Int[ndarray, " example"]:
    """The number of the set of every example: those of one topic and one polarity."""
    number = np.zeros(len(affirmative), int)
    if topic is not None:
        check_consistent_length(topic, affirmative)
        number = np.unique(column_or_1d(topic), return_inverse=True)[1]
    return np.unique(2 * number + affirmative, return_inverse=True)[1]
