"""Is a plane of activations one two-dimensional feature, or two features, or a mixture of flatter ones?"""

import numpy as np
from jaxtyping import Float
from numpy import ndarray


def separability_index(points: Float[ndarray, "example 2"], angles: int = 250, bins: int = 40) -> float:
    """Mutual information of the two coordinates in bits, at the rotation where it is smallest.

    Near 0: in some basis the coordinates are independent, two features of one dimension. The information is of a
    histogram over +-3 root mean squares, less its Miller-Madow bias (K_xy - K_x - K_y + 1) / (2 n ln 2) with K the
    occupied cells; it repeats after a quarter turn, so only that much is searched.

    Source: Engels et al., arXiv:2405.14860, reducibility_demos/ in JoshEngels/MultiDimensionalFeatures, which has no
        bias correction and divides by the mean square rather than its root.
    """
    points = np.asarray(points, dtype=np.float64)
    points = points - points.mean(0)
    points = points / _rms(points)
    return min(_information(points @ _rotation(a), bins) for a in np.pi / 2 * np.arange(angles) / angles)


def mixture_index(points: Float[ndarray, "example 2"], eps: float = 0.1, angles: int = 360) -> float:
    """Largest share of points inside a strip |v . x + c| < eps rms(v . x + c), over directions v and offsets c.

    High: most points lie near a line, so the plane is a mixture of flatter features. 0.080 for a Gaussian and 0.22 for
    a circle at eps 0.1. Exact over c: the best strip can be moved until its lower edge meets a point.

    Args:
        angles: Directions tried, equally spaced over half a turn.
    Source: Engels et al., arXiv:2405.14860; their code climbs a smoothed count by gradient.
    """
    points = np.asarray(points, dtype=np.float64)
    points = points - points.mean(0)
    return max(_fullest_strip(points @ _rotation(a)[:, 0], eps) for a in np.pi * np.arange(angles) / angles)


def _fullest_strip(z: Float[ndarray, " example"], eps: float) -> float:
    """Largest share of centred numbers z with |z - u| <= eps sqrt(var + u^2), over u."""
    z, var = np.sort(z), np.mean(z**2)
    if var == 0:
        return 1.0
    # u whose lower edge is z_i: (u - z_i)^2 = eps^2 (var + u^2), the root above z_i
    u = (z + eps * np.sqrt(z**2 + (1 - eps**2) * var)) / (1 - eps**2)
    upper = np.searchsorted(z, u + eps * np.sqrt(var + u**2), side="right")
    return float((upper - np.arange(len(z))).max() / len(z))


def _information(xy: Float[ndarray, "example 2"], bins: int) -> float:
    """Mutual information of the columns in bits, from a histogram of `bins` x `bins` over +-3."""
    i, j = np.clip((xy + 3) / 6 * bins, 0, bins - 1).astype(int).T
    joint = np.bincount(i * bins + j, minlength=bins * bins).reshape(bins, bins)
    entropies = [_entropy(counts) for counts in (joint.sum(1), joint.sum(0), joint.ravel())]
    return float(entropies[0] + entropies[1] - entropies[2])


def _entropy(counts) -> float:
    """In bits, Miller-Madow."""
    p = counts[counts > 0] / counts.sum()
    return -(p * np.log2(p)).sum() + (len(p) - 1) / (2 * counts.sum() * np.log(2))


def _rotation(angle: float) -> Float[ndarray, "2 2"]:
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def _rms(x) -> float:
    return float(np.sqrt(np.mean(x**2)))
