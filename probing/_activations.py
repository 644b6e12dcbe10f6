"""What was read: one matrix per site, its rows in the order of the prompts' examples."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor

from tasks._html import table

from ._identity import ModelIdentity
from ._sites import Site
from ._store import Identity, Store, StoreError, store_name
from ._summary import model_name


class Activations(Mapping):  # without [Site, ...]: a checker of types at run time would load a site to look at it
    """Site -> (example, width), rows in the order of `prompts.examples`; the residual stream's width is d_model.

    A site is read from disk each time it is asked for, and only that site: keep the tensor, not the mapping, where
    it is used twice. `len` counts sites, `n_examples` rows.

    Attributes:
        sites: In the order they were asked for.
        identity: Everything that changes a number, as written in the store; `store_name(identity)` is its folder.
        path: The store's folder, None for activations in memory.
        model_identity: The model that was read; None when opened from a folder.
        random_init: The same rows from the same architecture with random weights, or None.
    """

    def __init__(self, load: Callable[[Site], Tensor], identity: Identity, path: Path | None = None,
                 model_identity: ModelIdentity | None = None, random_init: "Activations | None" = None):
        self._load, self.identity, self.path = load, identity, path
        self.model_identity, self.random_init = model_identity, random_init
        self.sites: tuple[Site, ...] = tuple(Site.parse(text) for text in identity["sites"])

    @classmethod
    def open(cls, path: str | Path, random_init: int | None = 0) -> "Activations":
        """Activations of a finished store, without the model.

        Args:
            path: The store's folder.
            random_init: Seed of the control to look for beside it; `.random_init` is None if it is not there.
        Raises:
            StoreError: Not a store, damaged, or unfinished.
        """
        store = Store.open(path)
        if missing := store.missing():
            raise StoreError(f"{store.path} is unfinished: {len(missing)} of {store.identity['plan']['n_shards']} "
                             "shards are missing; run extract() with the same arguments again, it will continue")
        control = None
        if random_init is not None and store.identity["random_init"] is None:
            sibling = store.path.parent / store_name(control_identity(store.identity, random_init))
            control = cls.open(sibling) if (sibling / "identity.json").exists() else None
        return cls(store.read, store.identity, store.path, random_init=control)

    def __getitem__(self, site: Site) -> Float[Tensor, "example width"]:
        if site not in self.sites:
            raise KeyError(_unknown(site, self.sites))
        return self._load(site)

    def __contains__(self, site: object) -> bool:
        return site in self.sites  # the mixin would load the tensor to find out

    def __iter__(self) -> Iterator[Site]:
        return iter(self.sites)

    def __len__(self) -> int:
        return len(self.sites)

    @property
    def n_examples(self) -> int:
        return self.identity["plan"]["n_examples"]

    @property
    def d_model(self) -> int:
        return self.identity["model"]["d_model"]

    def __repr__(self) -> str:
        model = self.model_identity.name if self.model_identity else self.identity["model"]["architecture"]
        names = ", ".join(map(str, self.sites[:3])) + (f", ... {self.sites[-1]}" if len(self.sites) > 3 else "")
        control = f", random_init={self.random_init.identity['random_init']}" if self.random_init is not None else ""
        return (f"Activations({len(self)} sites ({names}) x {self.n_examples} examples x {self.d_model}, "
                f"{self.identity['dtype']}, of {model}{control}, {self.path or 'in memory'})")

    def _repr_html_(self) -> str:
        model = self.model_identity.name if self.model_identity else self.identity["model"]["architecture"]
        twin = "none" if self.random_init is None else f"seed {self.random_init.identity['random_init']}"
        kept = "in memory" if self.path is None else f"store {self.path.name[:10]} (worldprobe cache ls)"
        rows = [("model", model_name(model)), ("sites", ", ".join(map(str, self.sites))),
                ("each", f"{self.n_examples:,} examples x {self.d_model}, {self.identity['dtype']}"),
                ("random weights beside it", twin), ("kept", kept)]
        return table(("Activations", ""), rows)


def control_identity(identity: Identity, seed: int) -> Identity:
    """The identity of the random-weights control: the trained weights do not enter it, their architecture does."""
    return {**identity, "model": {**identity["model"], "digest": None}, "random_init": seed}


def _unknown(site: object, sites: Sequence[Site]) -> str:
    near: Any = difflib.get_close_matches(str(site), [str(s) for s in sites], n=3, cutoff=0.3)
    return (f"no activations of {site}; nearest: {', '.join(near) or ', '.join(map(str, sites[:3]))}; there are "
            f"{len(sites)} sites, see .sites; extract(model, prompts, sites=[...]) reads others")
