"""Models of the world of truth, to be compared with one another."""

from functools import partial

from .._families import Family, distinct
from .._prompts import LabelledPrompts
from ._labels import TASK, world
from ._world import FACTS, PLACES


def statements(n: int, seed: int, place: str) -> LabelledPrompts:
    """Different statements up to `place`, object or period, and whether they are true, read there. Half of them are, so
    that there are no more than twice the facts."""
    made = world(40 * FACTS.size, seed)
    return distinct(made, made.tokens[:, :PLACES[place] + 1], n, "truth/statement", balanced=True)


FAMILIES = tuple(
    Family(TASK, f"{TASK}, at the {words}", (TASK, f"{TASK}-1", f"{TASK}-2"),
           (f"{TASK}-independent", f"{TASK}-negation"), partial(statements, place=place), "truth",
           rows=2 * FACTS.size // 3)
    for place, words in (("object", "object"), ("period", "full stop")))
