"""What classifiers by class scores share: they learn codes of one target or many, and predict from `logits`."""

import numpy as np
from jaxtyping import Int, Shaped
from numpy import ndarray
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data


def class_codes(y: Shaped[ndarray, "example *target"]) -> tuple[ndarray, Int[ndarray, "example *target"]]:
    """The label values, shared by all targets, in order; and the code of every label.

    Raises:
        ValueError: Labels that are numbers, not classes, or of a single class.
    """
    check_classification_targets(y if y.ndim == 1 else y[:, 0])
    classes, codes = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"a classifier needs at least 2 classes, y has only {classes.tolist()} (1 class); give rows "
                         "of another one, or more rows")
    return classes, codes.reshape(y.shape)


class ScoreClassifier(ClassifierMixin, BaseEstimator):
    """A classifier whose `logits(X)` are (example, target, class); y is (example,) or (example, target)."""

    def _check(self, X, y, dtype=(np.float64, np.float32)) -> tuple[ndarray, Int[ndarray, "example target"]]:
        """X, writable and contiguous, and class codes; sets `classes_`, shared by all targets."""
        X, y = validate_data(self, X, y, multi_output=True, dtype=dtype)
        self.classes_, codes = class_codes(y)
        self._one_target = y.ndim == 1
        return np.require(X, requirements=["C", "W"]), codes.reshape(len(y), -1)

    def logits(self, X):
        """Class scores of every target."""
        raise NotImplementedError

    def decision_function(self, X):
        """(example, target, class) scores, but of two classes the score of classes_[1] minus that of classes_[0],
        (example, target); without the axis of targets when fitted on one."""
        scores = self.logits(X)
        scores = scores[..., 1] - scores[..., 0] if len(self.classes_) == 2 else scores
        return scores[:, 0] if self._one_target else scores

    def predict(self, X):
        codes = self.logits(X).argmax(-1)
        return self.classes_[codes[:, 0] if self._one_target else codes]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class SoftmaxScores(ScoreClassifier):
    """Scores that are log-probabilities, up to a constant of the target."""

    def predict_proba(self, X):
        """(example, class) of one target; of many, (example, target, class), but of two classes the probability of
        classes_[1] alone, (example, target), as scikit-learn asks."""
        p = softmax(self.logits(X), axis=-1)
        return p[:, 0] if self._one_target else p[..., 1] if len(self.classes_) == 2 else p
