"""The reference world: 200 places on a plane and 150 events in time, and four relations between two of a kind.

    distance Ba de Li no   ->  d07       direction Ba de Li no  ->  north-east
    order Pa so Te vi      ->  before    gap Pa so Te vi        ->  g03

A name is two syllables that say nothing of where or when: pairs of syllables are dealt at random. Half of the places
are towns and half are isles, whose names are made of other syllables; events have syllables of their own. No prompt
ever holds a coordinate or a date.

After the proposal of Park, arXiv:2602.00533 (relations between cities are enough for a map), with binned answers and
names of two tokens, which a model must put together before it knows the place.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int
from numpy import ndarray

N_PLACES, N_EVENTS = 200, 150
REGIONS, SPREAD = "ABCDEFGH", 0.2  # of the places about the centre of their region; the plane is [-1, 1]^2
AGES = ("ancient", "old", "middle", "new")  # quarters of the time, [0, 1]
SYLLABLES = {"town": ("bdfg", "aeio"), "isle": ("klmn", "aeio"), "event": ("prstv", "aeio")}
COMPASS = ("east", "east-north-east", "north-east", "north-north-east", "north", "north-north-west", "north-west",
           "west-north-west", "west", "west-south-west", "south-west", "south-south-west", "south",
           "south-south-east", "south-east", "east-south-east")
_WORLD_SEED = 7


class Relation(NamedTuple):
    """A question about two entities.

    Attributes:
        scheme: `place` or `time`: what it asks about, as the label scheme is called.
        answers: Its answers, in order.
        circular: The last answer is next to the first.
    """

    scheme: str
    answers: tuple[str, ...]
    circular: bool = False


RELATIONS: Mapping[str, Relation] = {
    "distance": Relation("place", tuple(f"d{i:02}" for i in range(24))),
    "direction": Relation("place", COMPASS, circular=True),
    "order": Relation("time", ("before", "after")),
    "gap": Relation("time", tuple(f"g{i:02}" for i in range(16))),
}
COORDINATES = {"place": ("x", "y"), "time": ("t",)}
PROMPT_LENGTH = 5  # a relation and two names


@dataclass(frozen=True)
class Entities:
    """Places or events.

    Attributes:
        table: One row each: `entity` (the name), `kind` (town, isle, event), `block` (region or age), `x` and `y` in
            [-1, 1], or `t` in [0, 1].
        tokens: (entity, 2) token ids of the name.
    """

    table: pd.DataFrame
    tokens: Int[ndarray, "entity 2"]

    def __len__(self) -> int:
        return len(self.table)


@cache
def words() -> tuple[str, ...]:
    """The word of each token id: padding, relations, syllables (first ones with a capital letter), answers."""
    syllables = [w for kind in SYLLABLES for w in (*_firsts(kind), *_seconds(kind))]
    return ("<pad>", *RELATIONS, *syllables, *(a for r in RELATIONS.values() for a in r.answers))


@cache
def answer_tokens(relation: str) -> Int[ndarray, " answer"]:
    """Token ids of the answers of a relation, in their order."""
    return np.array([words().index(a) for a in known(relation).answers])


def known(relation: str) -> Relation:
    """The relation of this name.

    Raises:
        ValueError: There is none.
    """
    if relation not in RELATIONS:
        raise ValueError(f"a relation of the reference world is one of {', '.join(RELATIONS)}, not {relation!r}")
    return RELATIONS[relation]


@cache
def entities(scheme: str) -> Entities:
    """The places, or the events, of the world; it is the same for all models."""
    rng = np.random.default_rng([_WORLD_SEED, scheme == "time"])
    if scheme == "time":
        t = np.sort(rng.random(N_EVENTS))[rng.permutation(N_EVENTS)]
        block = np.array(AGES)[np.minimum((len(AGES) * t).astype(int), len(AGES) - 1)]
        return _named(pd.DataFrame({"kind": "event", "block": block, "t": t}), rng)
    centres = rng.uniform(-0.8, 0.8, (len(REGIONS), 2))
    region = rng.integers(0, len(REGIONS), N_PLACES)
    p = np.clip(centres[region] + SPREAD * rng.standard_normal((N_PLACES, 2)), -1, 1)
    kind = np.where(rng.permutation(N_PLACES) < N_PLACES // 2, "town", "isle")
    return _named(pd.DataFrame({"kind": kind, "block": np.array(list(REGIONS))[region], "x": p[:, 0], "y": p[:, 1]}),
                  rng)


def answers(relation: str, a: Int[ndarray, "*#pair"], b: Int[ndarray, "*#pair"]) -> Int[ndarray, "*pair"]:
    """What is right about entities `a` and `b`, as indices into the answers of the relation.

    distance: min(23, floor(12 |b - a|)); direction of b seen from a, in sectors of 22.5 degrees about east, ...;
    order: a is before b or after it; gap: min(15, floor(16 |b - a|)).
    """
    scheme, names, _ = known(relation)
    p = entities(scheme).table[list(COORDINATES[scheme])].to_numpy()
    step = p[b] - p[a]
    if relation == "direction":
        turn = np.arctan2(step[..., 1], step[..., 0]) / (2 * np.pi)
        return np.floor(len(names) * turn + 0.5).astype(int) % len(names)
    if relation == "order":
        return (step[..., 0] < 0).astype(int)
    per_unit = 12 if relation == "distance" else 16
    return np.minimum(len(names) - 1, (per_unit * np.linalg.norm(step, axis=-1)).astype(int))


def bins_apart(relation: str, one: Int[ndarray, "*#pair"], other: Int[ndarray, "*#pair"]) -> Int[ndarray, "*pair"]:
    """How many answers lie between two answers of a relation, the shorter way round where it is circular."""
    _, names, circular = known(relation)
    apart = np.abs(one - other)
    return np.minimum(apart, len(names) - apart) if circular else apart


def close_answers(relation: str, right: Int[ndarray, " pair"]) -> Bool[ndarray, "pair d_vocab"]:
    """Tokens that are within one bin of the right answer; of `order`, the right answer alone."""
    reach = 0 if relation == "order" else 1
    near = bins_apart(relation, right[:, None], np.arange(len(known(relation).answers))) <= reach
    out = np.zeros((len(right), len(words())), bool)
    out[:, answer_tokens(relation)] = near
    return out


def prompts_of(relation: str, a: Int[ndarray, " pair"], b: Int[ndarray, " pair"]) -> Int[ndarray, "pair 5"]:
    """Token ids of the questions about entities `a` and `b`."""
    names = entities(known(relation).scheme).tokens
    return np.concatenate([np.full((len(a), 1), words().index(relation)), names[a], names[b]], 1)


def is_reserved(relation: str, a: Int[ndarray, "*#pair"], b: Int[ndarray, "*#pair"]) -> Bool[ndarray, "*pair"]:
    """Ordered pairs, a tenth of them, that no training prompt of the relation asks about."""
    code = (np.asarray(a) * 1009 + np.asarray(b) + 1_000_003 * list(RELATIONS).index(relation)).astype(np.uint64)
    code = (code ^ (code >> np.uint64(13))) * np.uint64(0x9E3779B97F4A7C15)
    return (code >> np.uint64(40)) % np.uint64(10) == 0


def pairs_of(relation: str, reserved: bool) -> tuple[Int[ndarray, " pair"], Int[ndarray, " pair"]]:
    """All ordered pairs of two entities that are, or are not, reserved."""
    n = len(entities(known(relation).scheme))
    a, b = np.divmod(np.arange(n * n), n)
    kept = (a != b) & (is_reserved(relation, a, b) == reserved)
    return a[kept], b[kept]


def _firsts(kind: str) -> list[str]:
    return [s.capitalize() for s in _seconds(kind)]


def _seconds(kind: str) -> list[str]:
    return ["".join(s) for s in product(*SYLLABLES[kind])]


def _named(table: pd.DataFrame, rng: np.random.Generator) -> Entities:
    """Every entity gets a pair of syllables of its kind, no two the same."""
    names, tokens, ids = np.empty(len(table), object), np.zeros((len(table), 2), np.int64), words().index
    for kind in sorted(set(table["kind"])):
        rows, pairs = np.flatnonzero(table["kind"] == kind), list(product(_firsts(kind), _seconds(kind)))
        for row, chosen in zip(rows, rng.permutation(len(pairs)), strict=False):
            names[row], tokens[row] = " ".join(pairs[chosen]), [ids(w) for w in pairs[chosen]]
    table.insert(0, "entity", names)
    return Entities(table, tokens)
