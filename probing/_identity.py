"""Which model is this: everything about it that changes a number, small enough to write into every result."""

import json
from dataclasses import asdict, dataclass
from weakref import WeakKeyDictionary

import torch
import xxhash
from transformer_lens.model_bridge import TransformerBridge

from ._model_files import Source

SOURCES: WeakKeyDictionary[TransformerBridge, Source] = WeakKeyDictionary()  # filled by load_model
_VOLATILE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "model_name", "device",
             "seed", "n_devices", "output_attentions", "use_cache", "_commit_hash"}


@dataclass(frozen=True)
class ModelIdentity:
    """Attributes:
        name, revision: As loaded; `revision` is the Hub commit or `sha256:` of the weights, None if made in memory.
        digest: xxh3_128 over every parameter and buffer in order of name: name, dtype, shape, bytes.
        config: xxh3_128 of the architecture's own configuration: what the weights do not tell, such as the
            activation function or the epsilon of a norm.
        mode: `raw`, or `compat` after `enable_compatibility_mode()`, which moves every direction.
        attention: `eager`, `sdpa`, ...; `native` for transformer-lens' own modules.
        causal: False for encoders, whose batches need a padding mask.
    """

    name: str
    revision: str | None
    digest: str
    config: str
    mode: str
    architecture: str
    dtype: str
    n_layers: int
    d_model: int
    d_vocab: int
    n_ctx: int
    attention: str
    causal: bool

    def as_dict(self) -> dict[str, str | int | bool | None]:
        """Plain values, ready for JSON."""
        return asdict(self)


_DIGESTS: WeakKeyDictionary[TransformerBridge, tuple[int, str]] = WeakKeyDictionary()


def identify(model: TransformerBridge, *, anew: bool = False) -> ModelIdentity:
    """The identity of a model. The digest is computed once, and again after the weights were written to.

    Args:
        anew: Compute the digest whatever is known: writing to `weight.data` is not noticed otherwise.
    """
    cfg, origin = model.cfg, SOURCES.get(model)
    hf_config = getattr(model.original_model, "config", None)
    weights = _weights(model)  # once: walking through the modules of a bridge takes longer than hashing a small one
    state = _state(model, weights)
    if anew or _DIGESTS.get(model, (None, ""))[0] != state:
        _DIGESTS[model] = state, _digest(weights)
    return ModelIdentity(
        name=str(cfg.model_name), revision=origin.revision if origin else None, digest=_DIGESTS[model][1],
        config=_config_digest(hf_config.to_dict() if hf_config is not None else vars(cfg)),
        mode="compat" if model.compatibility_mode else "raw", architecture=str(cfg.architecture),
        dtype=str(next(model.parameters()).dtype).removeprefix("torch."), n_layers=cfg.n_layers, d_model=cfg.d_model,
        d_vocab=cfg.d_vocab, n_ctx=cfg.n_ctx, attention=getattr(hf_config, "_attn_implementation", None) or "native",
        causal=is_causal(model),
    )


def is_causal(model: TransformerBridge) -> bool:
    """Whether no token sees a later one, so that right padding needs no mask."""
    return getattr(model.cfg, "attention_dir", "causal") == "causal"


def weights_digest(model: TransformerBridge) -> str:
    """xxh3_128 over the weights, 32 hex digits; about 10 GB/s."""
    return _digest(_weights(model))


def weights_state(model: TransformerBridge) -> int:
    """Changes whenever a weight is written in place or replaced (torch counts writes), at no cost."""
    return _state(model, _weights(model))


def _digest(weights: list[tuple[str, torch.Tensor]]) -> str:
    digest = xxhash.xxh3_128()
    for name, tensor in sorted(weights):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _state(model: TransformerBridge, weights: list[tuple[str, torch.Tensor]]) -> int:
    return hash((model.compatibility_mode,
                 *((name, t.data_ptr(), 0 if t.is_inference() else t._version) for name, t in weights)))


def _weights(model: TransformerBridge) -> list[tuple[str, torch.Tensor]]:
    both = [*model.named_parameters(), *model.named_buffers()]
    return [(name.replace("._original_component", ""), tensor) for name, tensor in both]


def _config_digest(config: dict) -> str:
    kept = {key: value for key, value in config.items() if key not in _VOLATILE}
    return xxhash.xxh3_128_hexdigest(json.dumps(kept, sort_keys=True, default=str).encode())
