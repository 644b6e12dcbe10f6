"""A decoder with rotary positions, saved in the format of GPT-NeoX with attention and MLP one after the other.

Rotary positions (Su et al., arXiv:2104.09864) suit tasks in which what matters is how far back a token stands.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ._training import Decoder, seal

_BASE = 10_000


class Shared(NamedTuple):
    """Rows that begin with a part which all that follows sees, and go on in bins that do not see each other.

    Attributes:
        width: Tokens of the shared part.
        positions: (prompt, pos) of every token.
        seen: (prompt, bin, pos in bin, shared and bin) which tokens of the shared part and of its bin each token of a
            bin attends to. Tokens of the shared part attend to all up to themselves.
        keep: (prompt, pos) tokens whose logits are wanted.
    """

    width: int
    positions: Int[Tensor, "prompt pos"]
    seen: Bool[Tensor, "prompt bin pos_in_bin seen"]
    keep: Bool[Tensor, "prompt pos"]


class RotaryDecoder(Decoder):
    """`Decoder` with rotary positions in place of learned ones, GPT-NeoX' arithmetic with q, k, v kept apart; with
    `learned` it keeps those (`tasks._training.save_gpt2` writes it then), and gains rows with a shared part."""

    def __init__(self, d_vocab: int, n_ctx: int, n_layers: int, d_model: int, n_heads: int, act: str = "relu", *,
                 learned: bool = False):
        super().__init__(d_vocab, n_ctx, n_layers, d_model, n_heads, act)
        if not learned:
            del self.pos
        self.learned, d_head = learned, d_model // n_heads
        self.register_buffer("frequency", _BASE ** -(torch.arange(0, d_head, 2) / d_head), persistent=False)

    def forward(self, tokens: Int[Tensor, "prompt pos"], edit: Callable[[int, Tensor], Tensor] | None = None, *,
                shared: Shared | None = None) -> Float[Tensor, "*some d_vocab"]:
        """Logits, (prompt, pos, d_vocab); with `shared` those of the tokens in `keep`, one after the other.

        `edit` is as in `Decoder`.
        """
        positions = torch.arange(tokens.shape[1])[None] if shared is None else shared.positions
        angle = positions[:, None, :, None] * self.frequency
        turn = None if self.learned else (angle.cos(), angle.sin())
        x = self.embed(tokens) + (self.pos[positions] if self.learned else 0)
        for layer, block in enumerate(self.blocks):
            x = x + _attend(block, block.ln_1(x), turn, shared)
            if shared is not None and layer == len(self.blocks) - 1:
                x = x[shared.keep]  # the rest is read by nobody
            x = x + block.proj(block.act(block.fc(block.ln_2(x))))
            x = x if edit is None else edit(layer, x)
        return self.unembed(self.ln(x))


def _attend(block, h: Float[Tensor, "prompt pos d_model"], turn: tuple[Tensor, Tensor] | None, shared: Shared | None
            ) -> Float[Tensor, "prompt pos d_model"]:
    q, k, v = (f(h).unflatten(-1, (block.n_heads, -1)).transpose(1, 2) for f in (block.q, block.k, block.v))
    q, k = (q, k) if turn is None else (_turned(q, turn), _turned(k, turn))
    if shared is None:
        z = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        n, (_, n_bins, room, _) = shared.width, shared.seen.shape
        first = F.scaled_dot_product_attention(q[:, :, :n], k[:, :, :n], v[:, :, :n], is_causal=True)
        mine, keys, values = (x[:, :, n:].unflatten(2, (n_bins, room)).transpose(1, 2) for x in (q, k, v))
        keys, values = (torch.cat([x[:, None, :, :n].expand(-1, n_bins, -1, -1, -1), y], 3).flatten(0, 1)
                        for x, y in ((k, keys), (v, values)))
        rest = F.scaled_dot_product_attention(mine.flatten(0, 1), keys, values, shared.seen.flatten(0, 1)[:, None])
        z = torch.cat([first, rest.unflatten(0, (-1, n_bins)).transpose(1, 2).flatten(2, 3)], 2)
    return block.o(z.transpose(1, 2).flatten(-2))


def _turned(x: Float[Tensor, "prompt head pos d_head"], turn: tuple[Tensor, Tensor]):
    """Each pair (x_i, x_{i + d_head/2}) turned by position * frequency_i."""
    (cos, sin), (first, second) = turn, x.chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)


def save_neox(model: RotaryDecoder, out: Path, tokenizer, dtype=torch.float32) -> None:
    """Write `model` as a GPT-NeoX directory: config.json, model.safetensors, tokenizer files."""
    import transformers
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    transformers.utils.logging.disable_progress_bar()

    s: dict[str, Any] = model.shape
    config = GPTNeoXConfig(vocab_size=s["d_vocab"], max_position_embeddings=s["n_ctx"], hidden_size=s["d_model"],
                           num_hidden_layers=s["n_layers"], num_attention_heads=s["n_heads"],
                           intermediate_size=4 * s["d_model"], hidden_act=s["act"], use_parallel_residual=False,
                           rope_parameters={"rope_type": "default", "rope_theta": float(_BASE),
                                            "partial_rotary_factor": 1.0},
                           tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
                           pad_token_id=tokenizer.pad_token_id)
    hf = GPTNeoXForCausalLM(config)
    head = "lm_head" if hasattr(hf, "lm_head") else "embed_out"
    sd = {"gpt_neox.embed_in.weight": model.embed.weight, f"{head}.weight": model.unembed.weight,
          "gpt_neox.final_layer_norm.weight": model.ln.weight, "gpt_neox.final_layer_norm.bias": model.ln.bias}
    for i, b in enumerate(model.blocks):
        h = f"gpt_neox.layers.{i}."
        for ours, theirs in ((b.ln_1, "input_layernorm"), (b.ln_2, "post_attention_layernorm"),
                             (b.o, "attention.dense"), (b.fc, "mlp.dense_h_to_4h"), (b.proj, "mlp.dense_4h_to_h")):
            sd |= {f"{h}{theirs}.weight": ours.weight, f"{h}{theirs}.bias": ours.bias}
        for kind in ("weight", "bias"):  # head after head, each with its q, k and v
            parts = [getattr(m, kind).unflatten(0, (s["n_heads"], -1)) for m in (b.q, b.k, b.v)]
            sd[f"{h}attention.query_key_value.{kind}"] = torch.cat(parts, 1).flatten(0, 1)
    hf.load_state_dict({k: v.detach().contiguous() for k, v in sd.items()}, strict=True)
    hf.to(dtype).save_pretrained(out)
    tokenizer.save_pretrained(out)
    seal(out)
