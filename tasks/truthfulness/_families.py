"""Models of the world of truth, to be compared with one another."""

from functools import partial

from .._families import Family, distinct
from .._prompts import LabelledPrompts
from ._labels import TASK, world
from ._world import PLACES


def statements(n: int, seed: int, place: str) -> LabelledPrompts:
    """Different statements up to `place`, object or period, and whether they are true, read there."""
    made = world(16 * n, seed)
    return distinct(made, made.tokens[:, :PLACES[place] + 1], n, "truth/statement")


FAMILIES = tuple(
    Family(TASK, f"{TASK}, at the {words}", (TASK, f"{TASK}-1", f"{TASK}-2"),
           (f"{TASK}-independent", f"{TASK}-negation"), partial(statements, place=place), "truth")
    for place, words in (("object", "object"), ("period", "full stop")))
