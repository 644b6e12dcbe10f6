"""Places in a transformer that can be read or edited."""

import difflib
import functools
from dataclasses import dataclass

RESIDUAL = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
STREAMS = (*RESIDUAL, "z", "mlp_post")
_INSIDE = {"z": "attn.hook_z", "mlp_post": "mlp.hook_post"}


@functools.total_ordering
@dataclass(frozen=True)
class Site:
    """A place in a transformer: a stream name, a layer (from 0), and for `z` perhaps one head.

    `resid_pre`, `resid_mid`, `resid_post` are the stream before attention, between, and after the MLP;
    `attn_out` and `mlp_out` are what the two halves of the block write. `Site("resid_pre", 0)` is the embedding.
    Two streams live inside the halves and have widths of their own:

    `z`: what every attention head has gathered, before W_O: (n_heads * d_head), head after head. `Site("z", 3, head=5)`
    is one of them, (d_head). With grouped keys and values there is one per query head.
    `mlp_post`: the MLP's neurons after the activation function, (d_mlp); in a gated MLP (Llama) what the output
    matrix reads, act(gate(x)) * up(x).
    """

    stream: str
    layer: int
    head: int | None = None

    def __post_init__(self):
        if self.stream not in STREAMS:
            near = difflib.get_close_matches(self.stream, STREAMS, n=2, cutoff=0.3)
            raise ValueError(f"no stream {self.stream!r}; did you mean {' or '.join(near) or 'one of the following'}? "
                             f"There are {', '.join(STREAMS)}")
        if self.head is not None and self.stream != "z":
            raise ValueError(f"{self.stream} has no heads, head={self.head} came; heads are told apart in "
                             f"Site('z', {self.layer}, head={self.head}) only")

    @property
    def hook(self) -> str:
        """transformer-lens' alias of the hook. Inside a hook, `hook.name` is another, canonical name.

        At `z` it passes (prompt, pos, head, d_head), all heads, whichever the site names.
        """
        return f"blocks.{self.layer}.{_INSIDE.get(self.stream, f'hook_{self.stream}')}"

    def __str__(self) -> str:
        return f"{self.stream}.{self.layer}" + ("" if self.head is None else f".{self.head}")

    def __lt__(self, other: "Site") -> bool:
        if not isinstance(other, Site):
            return NotImplemented
        return self._key < other._key

    @property
    def _key(self) -> tuple[str, int, int]:
        return self.stream, self.layer, -1 if self.head is None else self.head

    @classmethod
    def parse(cls, text: str) -> "Site":
        """`Site.parse("resid_post.3")`, `Site.parse("z.3.5")`: the inverse of `str(site)`."""
        stream, *numbers = text.split(".")
        if not 1 <= len(numbers) <= 2 or not all(n.isdecimal() and n.isascii() for n in numbers):
            raise ValueError("a site reads like 'resid_post.3' (stream, dot, layer), or 'z.3.5' with a head, "
                             f"not {text!r}")
        return cls(stream, *map(int, numbers))


def residual_sites(n_layers: int) -> list[Site]:
    """The embedding and the stream after every block: what a layer sweep reads by default."""
    return [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(n_layers))]
