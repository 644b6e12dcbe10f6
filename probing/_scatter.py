"""Mean and scatter of activations and labels: all that a closed-form linear probe needs to know of the data."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int, Num
from numpy import ndarray


@dataclass(frozen=True)
class Scatter:
    """Means, and sums of products of deviations from them, over the rows of some folds; all in float64.

    Attributes:
        n: Rows.
        x_mean, y_mean: (d_model,), (column,).
        xx, xy, yy: sum (x - x_mean)(x - x_mean)^T and so on; not divided by n.
        fourth: sum |x - x_mean|^4, from which Ledoit-Wolf shrinkage follows.
        columns: Names of the label columns, as in `Moments`.
    """

    n: int
    x_mean: Float[ndarray, " d_model"]
    y_mean: Float[ndarray, " column"]
    xx: Float[ndarray, "d_model d_model"]
    xy: Float[ndarray, "d_model column"]
    yy: Float[ndarray, "column column"]
    fourth: float
    columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, X: Num[ndarray, "row d_model"], Y: Num[ndarray, "row column"],
           columns: Sequence[str] = ()) -> "Scatter":
        """Of all rows at once, in two passes: the definition that running moments are tested against."""
        x_mean, y_mean = X.mean(0, dtype=np.float64), Y.mean(0, dtype=np.float64)
        u, v = X - x_mean, Y - y_mean
        return cls(len(X), x_mean, y_mean, u.T @ u, u.T @ v, v.T @ v, float(((u * u).sum(1) ** 2).sum()),
                   tuple(columns))

    def select(self, chosen: Int[ndarray, " chosen"]) -> "Scatter":
        """Only these label columns."""
        names = tuple(self.columns[i] for i in chosen) if self.columns else ()
        return replace(self, y_mean=self.y_mean[chosen], xy=self.xy[:, chosen], yy=self.yy[np.ix_(chosen, chosen)],
                       columns=names)

    def without(self, part: "Scatter") -> "Scatter":
        """The rows that are left when those of `part` are taken out."""
        n = self.n - part.n
        x_mean, y_mean = ((self.n * a - part.n * b) / n for a, b in
                          ((self.x_mean, part.x_mean), (self.y_mean, part.y_mean)))
        dx, dy, w = x_mean - part.x_mean, y_mean - part.y_mean, n * part.n / self.n
        return replace(self, n=n, x_mean=x_mean, y_mean=y_mean, xx=self.xx - part.xx - w * np.outer(dx, dx),
                       xy=self.xy - part.xy - w * np.outer(dx, dy), yy=self.yy - part.yy - w * np.outer(dy, dy),
                       fourth=np.nan)

    def about_origin(self) -> "Scatter":
        """Means of 0 and sums of plain products: what a fit without intercept sees."""
        x, y, n = self.x_mean, self.y_mean, self.n
        return replace(self, x_mean=0 * x, y_mean=0 * y, xx=self.xx + n * np.outer(x, x),
                       xy=self.xy + n * np.outer(x, y), yy=self.yy + n * np.outer(y, y), fourth=np.nan)

    def class_means(self) -> tuple[Float[ndarray, " column"], Float[ndarray, "column d_model"]]:
        """Rows of every class column, and their mean activation minus the mean of all; 0 where a class never occurs."""
        count = np.rint(self.n * self.y_mean)
        return count, (self.xy / np.maximum(count, 1)).T

    @property
    def shrinkage(self) -> float:
        """Ledoit and Wolf's intensity a of the covariance (1-a) S + a tr(S)/d I, the label playing no part.

        Source: Ledoit & Wolf 2004, Journal of Multivariate Analysis 88; equals scikit-learn's ledoit_wolf_shrinkage.
        """
        d, n, square = len(self.xx), self.n, float((self.xx**2).sum())
        trace = float(np.trace(self.xx))
        distance = (square - trace**2 / d) / n**2  # |S - tr(S)/d I|^2
        noise = (self.fourth - square / n) / n**2  # what of it sampling explains
        return float(min(max(noise, 0.0), distance) / distance) if distance > 0 else 0.0
