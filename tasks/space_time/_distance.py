"""How far a predicted place or date is from the true one.

Places are (longitude, latitude) in degrees, in this order, as the targets are. The published code of arXiv:2310.02207
reads column 0 as the latitude; its kilometres and proximity errors of places differ from these.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float
from numpy import ndarray

EARTH_RADIUS_KM = 6371.0088  # mean radius, IUGG
_CELLS = 1 << 22  # distances held at a time

Distance = Callable[[Float[ndarray, "*#a target"], Float[ndarray, "*#b target"]], Float[ndarray, "*both"]]


def great_circle_km(a: Float[ndarray, "*#a 2"], b: Float[ndarray, "*#b 2"]) -> Float[ndarray, "..."]:
    """Distance over a spherical Earth, by the haversine formula, in km.

    Args:
        a, b: Longitude and latitude in degrees; predictions may lie beyond the poles or the date line, and mean the
            point that is reached by going so far.
    """
    (lon_a, lat_a), (lon_b, lat_b) = (np.moveaxis(np.radians(np.asarray(x, np.float64)), -1, 0) for x in (a, b))
    h = np.sin((lat_a - lat_b) / 2) ** 2 + np.cos(lat_a) * np.cos(lat_b) * np.sin((lon_a - lon_b) / 2) ** 2
    return np.asarray(2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(np.clip(h, 0, 1))))


def years_apart(a: Float[ndarray, "*#a 1"], b: Float[ndarray, "*#b 1"]) -> Float[ndarray, "..."]:
    """|a - b|, in years."""
    return np.asarray(np.abs(a - b)[..., 0])


def plane_distance(a: Float[ndarray, "*#a target"], b: Float[ndarray, "*#b target"]) -> Float[ndarray, "..."]:
    """Straight distance, in the units of the coordinates: of places in the reference world, and of its times."""
    return np.asarray(np.linalg.norm(np.asarray(a) - np.asarray(b), axis=-1))


def proximity_error(
    true: Float[ndarray, "example target"], predicted: Float[ndarray, "example target"], distance: Distance,
    among: Float[ndarray, "other target"] | None = None,
) -> Float[ndarray, " example"]:
    """Share of predictions that are closer to where an example truly is than its own prediction: 0 perfect, 0.5 chance.

    error_i = #{j in S: d(true_i, predicted_j) < d(true_i, predicted_i)} / |S|

    Predictions that are equally far count half, so that one guess for all is at chance; as published it would be
    perfect.

    Args:
        distance: `great_circle_km`, `years_apart` or `plane_distance`.
        among: Predictions of S; `predicted`, unless given. The papers' hold-out tables take those of all entities.
    Source: Gurnee & Tegmark, arXiv:2310.02207.
    """
    others = predicted if among is None else among
    own = distance(true, predicted)
    step, errors = max(1, _CELLS // len(others)), []
    for i in range(0, len(true), step):
        farther = distance(true[i : i + step, None], others[None]) - own[i : i + step, None]
        slack = 1e-9 * own[i : i + step, None] + 1e-12  # the same distance in another order of operations
        tied = (np.abs(farther) <= slack).sum(1)
        errors.append(((farther < -slack).sum(1) + np.maximum(tied - 1, 0) / 2) / len(others))
    return np.concatenate(errors)
