"""Activations on disk: one folder per identity, safetensors shards, and a JSON record that makes each shard count."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ._shards import shard_bytes
from ._sites import Site
from ._store_files import (
    Identity,
    StoreError,
    StoreFiles,
    cache_root,
    canonical,
    explain_difference,
    reading,
    store_name,
)

__all__ = ["DTYPES", "Identity", "Store", "StoreError", "cache_root", "canonical", "explain_difference", "store_name",
           "widths"]

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def widths(identity: Identity) -> dict[Site, int]:
    """Numbers per example of every site. Format 1 had one width for all."""
    sites, plan = [Site.parse(text) for text in identity["sites"]], identity["plan"]
    each = plan["widths"] if "widths" in plan else [plan["d_model"]] * len(sites)
    return dict(zip(sites, each, strict=True))


class Store(StoreFiles):
    """The activations in the folder of one identity."""

    @property
    def sites(self) -> tuple[Site, ...]:
        return tuple(Site.parse(text) for text in self.identity["sites"])

    def write(self, shard: int, tensors: Mapping[Site, Float[Tensor, "row _"] | Sequence[Float[Tensor, "_ _"]]],
              rows: Tensor, halved: int = 0) -> None:
        """Store one shard, then its record.

        Args:
            tensors: The rows of each site, whole or in pieces, one below the other.
            rows: The examples its rows belong to.
            halved: As in `put`.
        """
        header = canonical({"store": self.path.name, "shard": shard})
        pieces = {str(site): [x] if isinstance(x, Tensor) else x for site, x in tensors.items()}
        data = shard_bytes({"rows": [rows], **pieces}, {"worldprobe": header})
        self.put(shard, data, len(rows), halved)

    def read(self, site: Site) -> Float[Tensor, "example width"]:
        """Activations of one site, in the order of the examples; the other sites stay on disk.

        Raises:
            StoreError: A shard is damaged, missing or unreadable; nothing of it is returned.
        """
        n_examples = self.identity["plan"]["n_examples"]
        acts = torch.empty(n_examples, widths(self.identity)[site], dtype=DTYPES[self.identity["dtype"]])
        found = 0
        for shard in range(self.n_shards):
            self.verify(shard)
            path = self.shard_path(shard)
            try:
                with reading(path), safe_open(path, "pt") as file:
                    rows = file.get_tensor("rows")
                    acts[rows] = file.get_tensor(str(site))
            except SafetensorError as error:
                raise StoreError(f"cannot read {path} ({error})") from error
            found += len(rows)
        if found != n_examples:
            raise StoreError(f"{self.path} holds {found} rows in {self.n_shards} shards, its identity says "
                             f"{n_examples}: it was written wrongly; delete the folder")
        return acts
