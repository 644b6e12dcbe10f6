"""Places in a transformer that can be read or edited."""

import difflib
from dataclasses import dataclass

STREAMS = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True, order=True)
class Site:
    """A place in the residual stream: a stream name and a layer (from 0).

    `resid_pre`, `resid_mid`, `resid_post` are the stream before attention, between, and after the MLP;
    `attn_out` and `mlp_out` are what the two halves of the block write. `Site("resid_pre", 0)` is the embedding.
    """

    stream: str
    layer: int

    def __post_init__(self):
        if self.stream not in STREAMS:
            near = difflib.get_close_matches(self.stream, STREAMS, n=2, cutoff=0.3)
            raise ValueError(f"no stream {self.stream!r}; did you mean {' or '.join(near) or 'one of the following'}? "
                             f"There are {', '.join(STREAMS)}")

    @property
    def hook(self) -> str:
        """transformer-lens' alias of the hook. Inside a hook, `hook.name` is another, canonical name."""
        return f"blocks.{self.layer}.hook_{self.stream}"

    def __str__(self) -> str:
        return f"{self.stream}.{self.layer}"

    @classmethod
    def parse(cls, text: str) -> "Site":
        """`Site.parse("resid_post.3")`, the inverse of `str(site)`."""
        stream, _, layer = text.rpartition(".")
        if not layer.isdigit():
            raise ValueError(f"a site reads like 'resid_post.3' (stream, dot, layer), not {text!r}")
        return cls(stream, int(layer))


def residual_sites(n_layers: int) -> list[Site]:
    """The embedding and the stream after every block: what a layer sweep reads by default."""
    return [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(n_layers))]
