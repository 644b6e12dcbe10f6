"""Does the model compute what plain Hugging Face computes, and the same in a padded batch as alone?"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from ._huggingface import auto_class, quiet
from ._identity import SOURCES, is_causal, weights_state
from ._model_files import Source
from ._sites import Site

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
LONGEST = 256  # tokens of a prompt that are compared
Seen = dict[str, Tensor]  # hook as asked for -> (prompt, pos, d_model); "log-probabilities" -> (prompt, pos, d_vocab)


class NumericsError(RuntimeError):
    """The model does not compute what plain Hugging Face computes, or its answers depend on padding."""


@dataclass(frozen=True)
class NumericsReport:
    """Largest relative errors ||x - y|| / ||y|| of a vector at one token, over all layers and the log-probabilities.

    Attributes:
        against_plain: Bridge against plain Hugging Face; None for a model that has no such twin.
        against_unpadded: Each prompt in a padded batch against the prompt alone.
        tolerance: What was allowed, by dtype.
    """

    against_plain: float | None
    against_unpadded: float
    tolerance: float
    n_prompts: int


_CHECKED: WeakKeyDictionary[TransformerBridge, tuple[int, NumericsReport]] = WeakKeyDictionary()


def padding_mask(model: TransformerBridge, tokens: Int[Tensor, "prompt pos"],
                 lengths: Int[Tensor, " prompt"]) -> Bool[Tensor, "prompt pos"] | None:
    """Mask of the real tokens of a right-padded batch; None for causal models, which need none."""
    if is_causal(model):
        return None
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths.to(tokens.device)[:, None]


@torch.inference_mode()
def check_numerics(model: TransformerBridge, tokens: Int[Tensor, "prompt pos"], lengths: Int[Tensor, " prompt"],
                   n_prompts: int = 4) -> NumericsReport:
    """Compare the model with plain Hugging Face, and padded with unpadded, on a few of these prompts.

    At every real token the residual stream before each block and the log-probabilities are compared, as relative
    errors of vectors. Allowed are 1e-4 in float32, 1e-2 in float16, 5e-2 in bfloat16, 1e-6 in float64. Plain
    Hugging Face is a second copy of the model, loaded from the same files with the same attention and freed at the
    end. A model from a state dict, or with random weights, has no such twin and is compared with itself unpadded
    only. After `enable_compatibility_mode()` the stream is another one on purpose, so that only log-probabilities
    are compared with the twin. Runs once per model, and again after its weights were written to.

    Raises:
        NumericsError: They differ; says by how much, where first, and on which prompt.
    """
    state = weights_state(model)
    if model in _CHECKED and _CHECKED[model][0] == state:
        return _CHECKED[model][1]
    rows = _sample(lengths, n_prompts)
    tokens, lengths = _uneven(tokens[rows], lengths[rows])
    origin = SOURCES.get(model)
    hooks = [Site("resid_pre", layer).hook for layer in range(model.cfg.n_layers)]
    hooks += [_last_hidden(model)] if origin and origin.headless else []  # with a head, its output is compared
    batch = _look(model, tokens, padding_mask(model, tokens, lengths), hooks)
    padded = [{key: x[i : i + 1, :n] for key, x in batch.items()} for i, n in enumerate(lengths.tolist())]
    alone = [_look(model, tokens[i : i + 1, :n], None, hooks) for i, n in enumerate(lengths.tolist())]
    plain = list(_plain(model, origin, tokens, lengths, hooks)) if origin and origin.kind == "directory" else []
    compare = _comparison(model, rows)
    report = NumericsReport(compare("plain Hugging Face", alone, plain) if plain else None,
                            compare("the same prompt unpadded", padded, alone), TOLERANCE[_dtype(model)], len(rows))
    _CHECKED[model] = state, report
    return report


def _comparison(model: TransformerBridge, rows: Tensor) -> Callable[[str, list[Seen], list[Seen]], float]:
    tolerance = TOLERANCE[_dtype(model)]

    def compare(against: str, mine: list[Seen], reference: list[Seen]) -> float:
        """The largest error over prompts and places; only what the reference has is compared."""
        errors = {(i, key): relative_error(mine[i][key], y)
                  for i, seen in enumerate(reference) for key, y in seen.items()}
        worst = max((float(e.max()) for e in errors.values()), default=0.0)
        for (i, key), error in errors.items():
            if float(error.max()) > tolerance:
                by = "is not finite" if math.isinf(worst) else f"differs by up to {worst:.2g}"
                raise NumericsError(
                    f"model {model.cfg.model_name!r} {by} (relative, {_dtype(model)}) from {against}, at most "
                    f"{tolerance:g} is allowed. First at {key} of prompt {int(rows[i])}, position "
                    f"{int(error.argmax())}, by {float(error.max()):.2g}. Nothing measured on it would be true of the "
                    "model: load it again, or report its architecture to transformer-lens")
        return worst

    return compare


def relative_error(x: Float[Tensor, "1 pos d"], y: Float[Tensor, "1 pos d"]) -> Float[Tensor, " pos"]:
    """||x - y|| / ||y|| at every token; infinite where either is not finite."""
    x, y = x.double(), y.double()
    error = (x - y).norm(dim=-1)[0] / y.norm(dim=-1)[0].clamp_min(1e-12)
    return error.nan_to_num(math.inf, math.inf)


def _sample(lengths: Int[Tensor, " prompt"], n: int) -> Int[Tensor, " row"]:
    """The shortest prompt, the longest, and some between; a single prompt counts twice."""
    order = lengths.argsort(stable=True)
    return order[torch.linspace(0, len(order) - 1, max(2, min(n, len(order)))).round().long()]


def _uneven(tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """At most 256 tokens each; if all are equally long the first is cut in half, or nothing would be padded."""
    lengths = lengths.clamp_max(LONGEST)
    if int(lengths.min()) == int(lengths.max()):
        lengths = lengths.clone()
        lengths[0] = max(1, int(lengths[0]) // 2)
    return tokens[:, : int(lengths.max())], lengths


def _dtype(model: TransformerBridge) -> torch.dtype:
    return next(model.parameters()).dtype


def _last_hidden(model: TransformerBridge) -> str:
    """Where plain Hugging Face's last hidden state is: after the final norm in decoders, the stream in BERT."""
    return "ln_final.hook_out" if is_causal(model) else Site("resid_post", model.cfg.n_layers - 1).hook


def run(model: TransformerBridge, tokens: Tensor, mask: Tensor | None, hooks: list[str]) -> tuple[Seen, Tensor]:
    """Activations at `hooks`, by the names asked for (inside a hook its name is another), and the logits."""
    seen: Seen = {}

    def keep(name: str) -> Callable:
        return lambda x, hook: seen.__setitem__(name, x.detach().clone())

    device = model.cfg.device
    extra = {} if mask is None else {"attention_mask": mask.long().to(device)}
    with model.hooks(fwd_hooks=[(name, keep(name)) for name in hooks]):
        logits = model(tokens.to(device), **extra)
    return seen, logits


def _look(model: TransformerBridge, tokens: Tensor, mask: Tensor | None, hooks: list[str]) -> Seen:
    seen, logits = run(model, tokens, mask, hooks)
    return {**seen, "log-probabilities": logits.double().log_softmax(-1)}


def _plain(model: TransformerBridge, origin: Source, tokens: Tensor, lengths: Tensor,
           hooks: list[str]) -> Iterator[Seen]:
    """What plain Hugging Face computes for every prompt alone, named by the hooks of the bridge."""
    original, device = model.original_model, model.cfg.device
    device_map = getattr(original, "hf_device_map", None)
    with quiet():
        plain = auto_class(origin.path).from_pretrained(
            origin.path, dtype=_dtype(model), attn_implementation=original.config._attn_implementation,
            local_files_only=True, **({"device_map": device_map} if device_map else {}))
    plain = plain.eval() if device_map else plain.eval().to(device)
    for i, n in enumerate(lengths.tolist()):
        out = plain(tokens[i : i + 1, :n].to(device), output_hidden_states=True)
        raw = not model.compatibility_mode and len(out.hidden_states or ()) == model.cfg.n_layers + 1
        seen = dict(zip(hooks, out.hidden_states, strict=False)) if raw else {}
        yield seen if origin.headless else {**seen, "log-probabilities": out.logits.double().log_softmax(-1)}
