"""Checks before any number is computed: the prompts fit, the site exists, the model computes what it should."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

import tasks
from tasks import LabelledPrompts

from ._identity import is_causal, weights_state
from ._models import Source, _quiet, auto_class, read_config, source
from ._sites import STREAMS, Site

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_LONGEST = 256


class NumericsError(RuntimeError):
    """The model does not compute what plain Hugging Face computes, or its answers depend on padding."""


# --- prompts ---------------------------------------------------------------------------------------------------------


def check_fits(model: TransformerBridge, prompts: LabelledPrompts) -> None:
    """Raises ValueError when the model cannot read these prompts: another vocabulary, or a shorter context.

    A task with a vocabulary of its own needs a model whose vocabulary has the same size and, where the model has a
    tokenizer, the same words in the same order; otherwise token ids mean something else, without any error.
    """
    cfg, name, words = model.cfg, model.cfg.model_name, tuple(getattr(prompts, "vocabulary", ()))
    if words and cfg.d_vocab != len(words):
        raise ValueError(f"model {name!r} has a vocabulary of {cfg.d_vocab} tokens, task {prompts.task!r} one of "
                         f"{len(words)}: {_use_instead(prompts)}")
    if words and model.tokenizer is not None:
        theirs = model.tokenizer.convert_ids_to_tokens(list(range(len(words))))
        if wrong := [i for i, word in enumerate(words) if theirs[i] != word]:
            raise ValueError(f"model {name!r} and task {prompts.task!r} both have {len(words)} tokens, but disagree on "
                             f"{len(wrong)}: token {wrong[0]} is {theirs[wrong[0]]!r} to the model and "
                             f"{words[wrong[0]]!r} in the task: {_use_instead(prompts)}")
    if (top := int(prompts.tokens.max())) >= cfg.d_vocab or int(prompts.tokens.min()) < 0:
        raise ValueError(f"task {prompts.task!r} has token ids from {int(prompts.tokens.min())} to {top}, model "
                         f"{name!r} knows 0 to {cfg.d_vocab - 1}: {_use_instead(prompts)}")
    if (longest := int(prompts.lengths.max())) > cfg.n_ctx:
        raise ValueError(f"the longest prompt of task {prompts.task!r} has {longest} tokens, the context of model "
                         f"{name!r} is {cfg.n_ctx}: shorten the prompts, or {_use_instead(prompts)}")


def _use_instead(prompts: LabelledPrompts) -> str:
    """Names of the reference models that can read these prompts."""
    size, longest, fitting = len(getattr(prompts, "vocabulary", ())), int(prompts.lengths.max()), []
    for name, folder in tasks.reference_models().items():
        config = json.loads((folder / "config.json").read_text())
        context = config.get("n_positions") or config.get("max_position_embeddings") or 0
        if size and config.get("vocab_size") == size and context >= longest:
            fitting.append(f"--model {name}")
    return f"use {' or '.join(fitting)}" if fitting else "use a model trained on this task, or tokenize again for it"


# --- sites -----------------------------------------------------------------------------------------------------------


def check_site(model: TransformerBridge, site: Site) -> None:
    """Raises ValueError, with the nearest sites, when the model has no such site or it does not mean its name.

    `resid_mid` must be `resid_pre + attn_out`: blocks with parallel attention and MLP have none, and in post-norm
    encoders (BERT) transformer-lens' hook of that name is another sum. Measured on two tokens.
    """
    n_layers, name = model.cfg.n_layers, model.cfg.model_name
    if site.layer >= n_layers:
        raise ValueError(f"no site {site}: model {name!r} has layers 0 to {n_layers - 1}; nearest: "
                         f"{Site(site.stream, n_layers - 1)}")
    if site.hook in model.hook_dict and (site.stream != "resid_mid" or _mid_is_between(model, site.layer)):
        return
    others = [str(Site(stream, site.layer)) for stream in STREAMS
              if stream != "resid_mid" and Site(stream, site.layer).hook in model.hook_dict]
    raise ValueError(f"no site {site}: model {name!r} ({model.cfg.architecture}) has no {site.stream} in layer "
                     f"{site.layer}" + (", its block has no stream between attention and MLP"
                                        if site.stream == "resid_mid" else "") + f"; nearest: {', '.join(others)}")


@torch.inference_mode()
def _mid_is_between(model: TransformerBridge, layer: int) -> bool:
    read = {stream: Site(stream, layer).hook for stream in ("resid_pre", "attn_out", "resid_mid")}
    seen, _ = _run(model, torch.zeros(1, min(2, model.cfg.n_ctx), dtype=torch.long), None, list(read.values()))
    pre, out, mid = (seen[hook].float() for hook in read.values())
    return torch.allclose(mid, pre + out, rtol=0, atol=1e-2 * float(mid.abs().max()))


# --- numerics --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NumericsReport:
    """Largest relative differences ||x - y|| / ||y|| of a vector at one token, over all layers and the logits.

    Attributes:
        against_plain: Bridge against plain Hugging Face; None for a model with no such twin.
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
    return None if is_causal(model) else torch.arange(tokens.shape[1]) < lengths[:, None]


@torch.inference_mode()
def check_numerics(model: TransformerBridge, tokens: Int[Tensor, "prompt pos"], lengths: Int[Tensor, " prompt"],
                   n_prompts: int = 4) -> NumericsReport:
    """Compare the model with plain Hugging Face, and padded with unpadded, on a few of these prompts.

    The residual stream before every block and the logits are compared at every real token, as relative errors of
    vectors. Allowed are 1e-4 in float32, 1e-2 in float16, 5e-2 in bfloat16 and 1e-6 in float64. Plain Hugging Face
    is a second copy of the model, loaded from the same files with the same attention and freed afterwards; a model
    from a state dict, or with random weights, has no such twin and is compared with itself unpadded. Under
    `enable_compatibility_mode()` only log-probabilities are compared, since the stream is another one on purpose.
    Runs once per model, and again after its weights were written to.

    Raises:
        NumericsError: They differ; says by how much, where first, and on which prompt.
    """
    state = weights_state(model)
    if model in _CHECKED and _CHECKED[model][0] == state:
        return _CHECKED[model][1]
    rows = _sample(lengths, n_prompts)
    tokens, lengths = _shortened(tokens[rows], lengths[rows])
    compare = _Comparison(model, rows)
    origin = source(model)
    headless = origin is not None and origin.headless
    hooks = [] if model.compatibility_mode else [Site("resid_pre", i).hook for i in range(model.cfg.n_layers)]
    hooks += [_last_hidden(model)] if headless else []
    padded, padded_logits = _run(model, tokens, padding_mask(model, tokens, lengths), hooks)
    alone = [_run(model, tokens[i : i + 1, :n], None, hooks) for i, n in enumerate(lengths.tolist())]
    if origin is not None and origin.kind == "directory":
        for i, (seen, logits) in enumerate(_plain(model, origin, tokens, lengths, hooks)):
            compare("plain Hugging Face", i, alone[i], (seen, logits), headless)
    for i, n in enumerate(lengths.tolist()):
        mine = {hook: x[i : i + 1, :n] for hook, x in padded.items()}, padded_logits[i : i + 1, :n]
        compare("the same prompt unpadded", i, mine, alone[i], headless)
    report = NumericsReport(compare.largest.get("plain Hugging Face"), compare.largest["the same prompt unpadded"],
                            compare.tolerance, len(rows))
    _CHECKED[model] = state, report
    return report


class _Comparison:
    def __init__(self, model: TransformerBridge, rows: Tensor):
        self.model, self.rows = model, rows
        self.dtype = next(model.parameters()).dtype
        self.tolerance = TOLERANCE[self.dtype]
        self.largest: dict[str, float] = {}

    def __call__(self, against: str, i: int, mine, reference, headless: bool) -> None:
        pairs = [(hook, mine[0][hook], reference[0][hook]) for hook in reference[0]]
        if not headless:
            pairs.append(("logits", *(logits.double().log_softmax(-1) for logits in (mine[1], reference[1]))))
        errors = [relative_error(x, y) for _, x, y in pairs]
        self.largest[against] = max(self.largest.get(against, 0.0), *(float(e.max()) for e in errors))
        for (where, _, _), error in zip(pairs, errors, strict=True):
            if float(error.max()) > self.tolerance:
                worst = max(float(e.max()) for e in errors)
                by = "is not finite" if math.isinf(worst) else f"differs by {worst:.2g}"
                raise NumericsError(
                    f"model {self.model.cfg.model_name!r} {by} (relative, {self.dtype}) from {against}, at most "
                    f"{self.tolerance:g} is allowed. First at {where.removeprefix('blocks.')}, prompt "
                    f"{int(self.rows[i])}, position {int(error.argmax())}, by {float(error.max()):.2g}. Nothing measured on "
                    "it would be true of the model: load it again, or report the architecture to transformer-lens")


def relative_error(x: Float[Tensor, "1 pos d"], y: Float[Tensor, "1 pos d"]) -> Float[Tensor, " pos"]:
    """||x - y|| / ||y|| at every token; infinite where either is not finite."""
    error = (x.double() - y.double()).norm(dim=-1)[0] / y.double().norm(dim=-1)[0].clamp_min(1e-12)
    return error.nan_to_num(math.inf, math.inf)


def _sample(lengths: Int[Tensor, " prompt"], n: int) -> Int[Tensor, " row"]:
    """The shortest prompt, the longest, and some between."""
    order = lengths.argsort(stable=True)
    return order[torch.linspace(0, len(order) - 1, min(n, len(order))).round().long()].unique_consecutive()


def _shortened(tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """At most 256 tokens each; where all are equally long one is cut in half, or nothing would be padded."""
    lengths = lengths.clamp_max(_LONGEST).clone()
    if int(lengths.min()) == int(lengths.max()):
        tokens, lengths = torch.cat([tokens[:1], tokens]), torch.cat([lengths[:1] // 2, lengths])
        tokens, lengths = tokens[: len(tokens) - 1] if len(tokens) > 2 else tokens, lengths
        lengths = lengths[: len(tokens)].clamp_min(1)
    return tokens[:, : int(lengths.max())], lengths


def _run(model: TransformerBridge, tokens: Tensor, mask: Tensor | None, hooks: list[str]) -> tuple[dict, Tensor]:
    """Activations at `hooks`, by the names asked for (inside a hook its name is another), and the logits."""
    seen: dict[str, Tensor] = {}

    def keep(name: str) -> Callable:
        return lambda x, hook: seen.__setitem__(name, x.detach().clone())

    device = model.cfg.device
    extra = {} if mask is None else {"attention_mask": mask.long().to(device)}
    with model.hooks(fwd_hooks=[(name, keep(name)) for name in hooks]):
        logits = model(tokens.to(device), **extra)
    return seen, logits


def _last_hidden(model: TransformerBridge) -> str:
    """Where plain Hugging Face's last hidden state is: after the final norm in decoders, the stream in BERT."""
    return "ln_final.hook_out" if is_causal(model) else Site("resid_post", model.cfg.n_layers - 1).hook


def _plain(model: TransformerBridge, origin: Source, tokens: Tensor, lengths: Tensor,
           hooks: list[str]) -> Iterator[tuple[dict, Tensor]]:
    """What plain Hugging Face computes for every prompt alone, named by the hooks of the bridge."""
    original = model.original_model
    where = getattr(original, "hf_device_map", None)
    with _quiet():
        plain = auto_class(read_config(origin.path)).from_pretrained(
            origin.path, dtype=next(model.parameters()).dtype, attn_implementation=original.config._attn_implementation,
            local_files_only=True, **({"device_map": where} if where else {}))
    plain = plain.eval() if where else plain.eval().to(model.cfg.device)
    for i, n in enumerate(lengths.tolist()):
        out = plain(tokens[i : i + 1, :n].to(model.cfg.device), output_hidden_states=bool(hooks))
        states = out.hidden_states or ()
        seen = dict(zip(hooks, states, strict=False)) if len(states) == model.cfg.n_layers + 1 else {}
        yield seen, out.logits
