"""The decorator that conftest.py puts on every function of ours finds what disagrees with its annotation."""

import importlib
import sys

import pytest
import torch
from jaxtyping import TypeCheckError, install_import_hook

MODULE = '''
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from jaxtyping import Float, Int
from torch import Tensor, ones

Scores = dict[str, Float[Tensor, "case d"]]

def add(x: Float[Tensor, "case d"], y: Float[Tensor, "case d"]) -> Float[Tensor, "case d"]:
    return x + y

def total(x: Float[Tensor, "case d"]) -> Float[Tensor, " case"]:
    return x.sum(0)

def scores(x: Scores | None, n: int) -> int:
    return n

def name(n: int, much: float | int = 1) -> str:
    return n * "x" if much else n

def bare(x):
    def inside(y: Float[Tensor, " d"], z: int = 0) -> Float[Tensor, "1 d"]:
        return y[None]
    return inside(*x)

def later(x: "Pair") -> "Pair":
    return x

def each(n: int) -> Iterator[Int[Tensor, ""]]:
    yield from range(n)

@dataclass(frozen=True)
class Pair:
    one: Float[Tensor, " d"]
    two: Float[Tensor, " d"]
    n: int = 0

    @cached_property
    def both(self) -> Float[Tensor, "2 d"]:
        return self.one + self.two

    @classmethod
    def of(cls, n: int) -> "Pair":
        return cls(ones(n), ones(n))

    @staticmethod
    def size(n: int) -> str:
        return n
'''
X, V = torch.ones(3, 2), torch.ones(2)


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    folder = tmp_path_factory.mktemp("checked")
    (folder / "checked_by_conftest.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch, install_import_hook("checked_by_conftest", "beartype.beartype"):
        patch.syspath_prepend(folder)
        yield importlib.import_module("checked_by_conftest")
    del sys.modules["checked_by_conftest"]


def test_what_agrees_passes(module):
    pair = module.Pair(V, V)
    assert module.add(X, X).shape == X.shape and module.scores({"a": X}, 2) == 2 and module.scores(None, 1) == 1
    assert module.name(2, 0.5) == "xx" and module.bare([V]).shape == (1, 2) and module.later(pair) is pair
    assert list(module.each(2)) == [0, 1]


@pytest.mark.parametrize("call", [
    lambda m: m.add(X, X.T), lambda m: m.add(X, X.long()), lambda m: m.add(V, V), lambda m: m.total(X),
    lambda m: m.scores({"a": V}, 1), lambda m: m.scores({"a": X}, 1.0), lambda m: m.scores([], 1),
    lambda m: m.name(1.0), lambda m: m.name(2, 0), lambda m: m.name(2, "1"),
    lambda m: m.bare([X]), lambda m: m.bare([V, 0.5]), lambda m: m.each("2"),
    lambda m: m.Pair(V, torch.ones(3)), lambda m: m.Pair(V, V, 0.5), lambda m: m.Pair(V, V).both,
    lambda m: m.Pair.of(1.0), lambda m: m.Pair.size(1),
], ids=range(18))
def test_what_disagrees_is_refused(module, call):
    with pytest.raises(TypeCheckError):
        call(module)


def test_the_code_that_is_tested_is_checked():
    from interventions import kl
    from probing import Site
    from tasks._files import write_whole

    for wrong in (lambda: kl(X, X.T), lambda: Site("resid_post", "3"), lambda: write_whole("not a path", "x")):
        with pytest.raises(TypeCheckError):
            wrong()
