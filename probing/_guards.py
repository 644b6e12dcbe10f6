"""Checks before any number is computed: the prompts fit the model, and the model has the site."""

import json
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from transformer_lens.model_bridge import TransformerBridge

import tasks
from tasks import LabelledPrompts

from ._numerics import run
from ._sites import STREAMS, Site

_SITES: WeakKeyDictionary[TransformerBridge, tuple[Site, ...]] = WeakKeyDictionary()


def check_fits(model: TransformerBridge, prompts: LabelledPrompts) -> None:
    """Raises ValueError when the model cannot read these prompts: another vocabulary, or a shorter context.

    A task with a vocabulary of its own needs a model whose vocabulary has the same size and, where the model has a
    tokenizer, the same words in the same order; otherwise token ids mean something else, without any error.
    """
    cfg, words, instead = model.cfg, tuple(prompts.vocabulary), _use_instead(prompts)
    mine, theirs = f"model {cfg.model_name!r}", f"task {prompts.task!r}"
    if words and cfg.d_vocab != len(words):
        raise ValueError(f"{mine} has a vocabulary of {cfg.d_vocab} tokens, {theirs} one of {len(words)}: {instead}")
    if words and model.tokenizer is not None:
        known = model.tokenizer.convert_ids_to_tokens(list(range(len(words))))
        if wrong := [i for i, word in enumerate(words) if known[i] != word]:
            first = wrong[0]
            raise ValueError(f"{mine} and {theirs} both have {len(words)} tokens, but disagree on {len(wrong)}: token "
                             f"{first} is {known[first]!r} to the model and {words[first]!r} in the task: {instead}")
    low, high = int(prompts.tokens.min()), int(prompts.tokens.max())
    if low < 0 or high >= cfg.d_vocab:
        raise ValueError(f"{theirs} has token ids from {low} to {high}, {mine} knows 0 to {cfg.d_vocab - 1}: {instead}")
    if (longest := int(prompts.lengths.max())) > cfg.n_ctx:
        raise ValueError(f"the longest prompt of {theirs} has {longest} tokens, the context of {mine} is {cfg.n_ctx}: "
                         f"shorten the prompts, or {instead}")


def _use_instead(prompts: LabelledPrompts) -> str:
    """Names of the reference models that can read these prompts."""
    size, longest, fitting = len(prompts.vocabulary), int(prompts.lengths.max()), []
    for name, folder in tasks.reference_models().items():
        config = json.loads((folder / "config.json").read_text())
        context = config.get("n_positions") or config.get("max_position_embeddings") or 0
        if size and config.get("vocab_size") == size and context >= longest:
            fitting.append(f"--model {name}")
    return f"use {' or '.join(fitting)}" if fitting else "use a model trained on this task, or tokenize again for it"


def check_site(model: TransformerBridge, site: Site) -> None:
    """Raises ValueError, with the nearest sites, when the model has no such site or it would not mean its name."""
    there = available_sites(model)
    name, n_layers, n_heads = f"model {model.cfg.model_name!r}", model.cfg.n_layers, model.cfg.n_heads
    if replace(site, head=None) in there:
        if site.head is not None and site.head >= n_heads:
            raise ValueError(f"{name} has no site {site}: its heads are 0 to {n_heads - 1}; nearest: "
                             f"{replace(site, head=n_heads - 1)}, or {replace(site, head=None)} for all of them")
        return
    if site.layer >= n_layers:
        near, why = [s for s in there if s.stream == site.stream][-1:], f"its layers are 0 to {n_layers - 1}"
    else:
        near = [s for s in there if s.layer == site.layer]
        why = f"its blocks ({model.cfg.architecture}) have no {site.stream}"
    raise ValueError(f"{name} has no site {site}: {why}; nearest: {', '.join(map(str, near)) or 'none'}")


@torch.inference_mode()
def available_sites(model: TransformerBridge) -> tuple[Site, ...]:
    """Every site that the model has, found once by running it on two tokens; `z` stands for all its heads.

    A hook counts when it fires with a vector per token (for `z`, one per head), and `resid_mid` only when it is
    `resid_pre + attn_out`: blocks with parallel attention and MLP have no such stream, and in post-norm encoders
    (BERT) transformer-lens' hook of that name is another sum.
    """
    if model not in _SITES:
        sites = [Site(stream, layer) for layer in range(model.cfg.n_layers) for stream in STREAMS]
        sites = [site for site in sites if site.hook in model.hook_dict]
        tokens = torch.zeros(1, min(2, model.cfg.n_ctx), dtype=torch.long)
        seen, _ = run(model, tokens, None, [s.hook for s in sites])
        fired = {s: seen[s.hook].float() for s in sites if s.hook in seen and _per_token(seen[s.hook], s, tokens)}
        _SITES[model] = tuple(site for site in fired if site.stream != "resid_mid" or _is_between(fired, site.layer))
    return _SITES[model]


def _per_token(acts: torch.Tensor, site: Site, tokens: torch.Tensor) -> bool:
    return acts.shape[:2] == tokens.shape and acts.ndim == (4 if site.stream == "z" else 3)


def _is_between(fired: dict[Site, torch.Tensor], layer: int) -> bool:
    pre, out, mid = (fired.get(Site(stream, layer)) for stream in ("resid_pre", "attn_out", "resid_mid"))
    if pre is None or out is None or mid is None:
        return False
    return torch.allclose(mid, pre + out, rtol=0, atol=1e-2 * float(mid.abs().max()))
