"""Path patching: what one component sends to another directly, every other component held where it was.

    table = path_patching(model, pairs, head_sites(model), [Receiver("q", 9, head=6), Receiver("q", 9, head=9)])
    table = path_patching(model, pairs, block_sites(model, ["mlp_out"]), [Receiver("final")])     # direct effects
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from probing._guards import available_sites
from probing._sites import Site
from tasks._pairs import PromptPairs

from ._controls import random_like
from ._edits import Edit, patch_from, steer
from ._patch_rows import PatchTable
from ._patch_run import DIRECTIONS, Metric, Patched, PatchRun, size_of
from ._places import At, Positions, check_editable

SENDERS = ("z", "attn_out", "mlp_out")


@dataclass(frozen=True)
class Receiver:
    """Where paths end: the input of the queries, keys or values of one head (`q`, `k`, `v`; of grouped keys and values
    `head` counts the groups), of an MLP (`mlp`), or of the final norm and unembedding (`final`). Inputs are taken
    before the norm, so that what arrives is added to the stream that this receiver alone reads."""

    part: str
    layer: int | None = None
    head: int | None = None

    def __post_init__(self):
        if self.part not in ("q", "k", "v", "mlp", "final"):
            raise ValueError(f"a receiver is q, k, v, mlp or final, not {self.part!r}")
        wanted = {"mlp": (True, False), "final": (False, False)}.get(self.part, (True, True))
        if (self.layer is not None, self.head is not None) != wanted:
            raise ValueError(f"{self.part!r} wants {'a layer' if wanted[0] else 'no layer'} and "
                             f"{'a head' if wanted[1] else 'no head'}, got layer={self.layer}, head={self.head}")

    def __str__(self) -> str:
        return ".".join(str(x) for x in (self.part, self.layer, self.head) if x is not None)


def path_patching(
    model,
    pairs: PromptPairs,
    senders: Sequence[Site],
    receivers: Sequence[Receiver],
    positions: int | str = "all",
    *,
    metric: Metric | None = None,
    directions: Sequence[str] = ("denoise", "noise"),
    n_random: int = 20,
    correction: str = "benjamini_hochberg",
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """The direct path from every sender into all `receivers` together, as result rows of metric `nie` with the controls
    of `activation_patching`: stream, layer and head are the sender's, the receivers are named in `subset`.

    All components but the sender stay as they are in the base run (corrupted for `denoise`, clean for `noise`), so a
    receiver's input changes by what the sender writes in the other run less what it writes in the base run; what comes
    after the receiver is computed anew. In a stream that adds up this is exact and needs no other run: the difference
    is added to the receiver's input. Paths from all writers into `final` add up to the whole patch.

    Args:
        senders: Heads (`Site("z", 3, head=5)`), `attn_out`, `mlp_out`, and `Site("resid_pre", 0)`, the embedding.
        positions: Tokens of the sender that are patched, and all others as in `activation_patching`.
    Raises:
        ValueError: A sender that is no writer or has no receiver above it; a receiver that the architecture has no hook
            for; a block that does not add its writes to the stream.
    Source: Wang et al., arXiv:2211.00593; Goldowsky-Dill et al., arXiv:2304.05969. Wang et al. hold the heads only, and
        let MLPs on the way answer; ours holds both.
    """
    if 0 < n_random < 20 or n_random < 0:
        raise ValueError(f"a random band needs at least 20 draws, n_random is {n_random}; raise it, or scan with 0")
    if not receivers:
        raise ValueError("no receiver; name some, such as Receiver('final') or Receiver('q', 3, head=5)")
    run = model if isinstance(model, PatchRun) else PatchRun(model, pairs, metric, split)
    for sender in senders:
        _check_sender(run.model, sender, receivers)
    _check_additive(run, {sender.layer for sender in senders})
    ((name, at),) = run.where([positions]).items()
    table, subset = PatchTable(run, seed, identity), f"to {'+'.join(map(str, receivers))}"
    held: dict[str, dict[Site, Tensor]] = {direction: {} for direction in directions}
    with _inputs_open(run.model, receivers):
        for direction in directions:
            for sender in senders:
                change, size = written(run, direction, sender, at, held[direction])
                drawn = random_like({sender: change}, n_random, seed) if n_random else []
                edits = [steer(change), *(arm[sender] for arm in drawn)]
                reached = [r for r in receivers if _above(run.model, sender, r)]
                table.cell(direction, Patched((sender,), name, _gains(run, direction, reached, edits), *size), subset)
    return table.frame(correction)


def written(run: PatchRun, direction: str, sender: Site, positions: Positions, held: dict[Site, Tensor]
            ) -> tuple[Float[Tensor, "token d_model"], tuple[float, float]]:
    """What a sender writes to the stream in the other run less what it writes in the base run, by token (case * longest
    prompt + position), zero beyond `positions`; and its size beside the whole write (of a head, of all heads). Writes
    of the base run are kept in `held`."""
    base, source = DIRECTIONS[direction]
    out = Site("attn_out", sender.layer) if sender.stream == "z" else sender
    before = held[out] if out in held else held.setdefault(out, run.read(base, [out])[out])
    if sender.stream == "z":
        patch = patch_from(run.read(source, [sender])[sender].flatten(0, 1))
        after = run.runs[base].read([out], {sender: At(patch, None, "token")})[out]
    else:
        after = run.read(source, [out])[out]
    touched = run.touched(positions)
    change = (after - before) * touched.to(before)
    return change.flatten(0, 1), size_of(before, change, touched)


def _gains(run: PatchRun, direction: str, receivers: Sequence[Receiver],
           edits: Sequence[Edit]) -> Float[ndarray, "arm case"]:
    """As `PatchRun.gain`, of edits (by token) of the receivers' inputs."""
    name, model = DIRECTIONS[direction][0], run.model
    base, longest, out = run.runs[name], run.pairs.clean.shape[1], np.empty((len(edits), len(run)))
    start = min(model.cfg.n_layers if r.layer is None else r.layer for r in receivers)
    base._find_out({start})
    start = start if base._resumable[start] else 0
    for batch in base._batches:
        entering = base._entering(batch, {start}).get(start)
        together = max(1, base.batch_tokens // (batch.tokens.numel() * (model.cfg.n_heads if _forks(receivers) else 1)))
        for first in range(0, len(edits), together):
            arms, fired = edits[first : first + together], set[Receiver]()
            hooks = [(_hook_name(model, r), _edit_at(r, arms, batch, longest, fired)) for r in receivers]
            with torch.no_grad(), model.hooks(fwd_hooks=hooks):
                logits = base._logits(batch, len(arms), start, entering)
            if silent := [str(r) for r in receivers if r not in fired]:
                raise ValueError(f"the input of {', '.join(silent)} passes no hook in this architecture; take another "
                                 "receiver, such as Receiver('final')")
            for arm, each in enumerate(logits, first):
                out[arm, batch.places.numpy()] = run.measure(each, batch.places).cpu().numpy()
    return run.towards(direction, out)


def _edit_at(receiver: Receiver, arms: Sequence[Edit], batch, longest: int, fired: set[Receiver]):
    def edit(acts: Tensor, hook) -> Tensor:
        fired.add(receiver)
        acts = acts.clone()
        part = acts if receiver.head is None else acts[:, :, receiver.head]
        n = part.shape[1]
        tokens = (batch.rows[:, None] * longest + torch.arange(n, device=batch.rows.device)).flatten().to(acts.device)
        for each, change in zip(part.unflatten(0, (len(arms), -1)), arms, strict=True):
            each.copy_(change(each.flatten(0, 1), tokens).view_as(each))
        return acts

    return edit


def _hook_name(model, receiver: Receiver) -> str:
    if receiver.part == "final":
        return Site("resid_post", model.cfg.n_layers - 1).hook
    return f"blocks.{receiver.layer}." + ("hook_mlp_in" if receiver.part == "mlp" else
                                          f"attn.hook_{receiver.part}_input")


def _forks(receivers: Sequence[Receiver]) -> bool:
    return any(receiver.head is not None for receiver in receivers)


@contextmanager
def _inputs_open(model, receivers: Sequence[Receiver]) -> Iterator[None]:
    """transformer-lens copies the stream for every head, and before the MLP, only when it is asked to."""
    for r in receivers:
        _check_receiver(model, r)
    cfg, split, mlp = model.cfg, _forks(receivers), any(r.part == "mlp" for r in receivers)
    before = {flag: bool(getattr(cfg, flag, False)) for flag in ("use_attn_in", "use_split_qkv_input",
                                                                 "use_hook_mlp_in")}
    try:
        if split and before["use_attn_in"]:
            model.set_use_attn_in(False)  # the two exclude each other
        if split:
            model.set_use_split_qkv_input(True)
        if mlp:
            model.set_use_hook_mlp_in(True)
        yield
    except NotImplementedError as error:
        raise ValueError(f"this architecture has no inputs of single heads: {error}; take receivers mlp or final") \
            from error
    finally:
        model.set_use_split_qkv_input(before["use_split_qkv_input"])
        model.set_use_hook_mlp_in(before["use_hook_mlp_in"])
        if before["use_attn_in"]:
            model.set_use_attn_in(True)


def _check_receiver(model, receiver: Receiver) -> None:
    cfg = model.cfg
    if receiver.layer is not None and not 0 <= receiver.layer < cfg.n_layers:
        raise ValueError(f"no receiver {receiver}: the layers are 0 to {cfg.n_layers - 1}")
    grouped = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    n_heads = cfg.n_heads if receiver.part == "q" else grouped
    if receiver.head is not None and not 0 <= receiver.head < n_heads:
        what = "heads" if receiver.part == "q" else "heads of keys and values"
        raise ValueError(f"no receiver {receiver}: the {what} are 0 to {n_heads - 1}")
    if _hook_name(model, receiver) not in model.hook_dict:
        raise ValueError(f"no receiver {receiver}: this architecture ({cfg.architecture}) has no hook "
                         f"{_hook_name(model, receiver)}; take another, such as Receiver('final')")


def _check_sender(model, sender: Site, receivers: Sequence[Receiver]) -> None:
    if sender.stream not in SENDERS and sender != Site("resid_pre", 0):
        raise ValueError(f"{sender} does not write to the stream; senders are {', '.join(SENDERS)}, and resid_pre.0, "
                         "the embedding")
    check_editable(model, sender, lambda x, rows: x)
    if not any(_above(model, sender, r) for r in receivers):
        raise ValueError(f"no path from {sender} to {', '.join(map(str, receivers))}: a receiver reads what was "
                         "written below it; take a later receiver or an earlier sender")


def _above(model, sender: Site, receiver: Receiver) -> bool:
    """Whether the receiver reads what the sender writes."""
    if receiver.layer is None or sender.stream == "resid_pre" or sender.layer < receiver.layer:
        return True
    serial = Site("resid_mid", sender.layer) in available_sites(model)
    return sender.layer == receiver.layer and receiver.part == "mlp" and sender.stream != "mlp_out" and serial


def _check_additive(run: PatchRun, layers: set[int]) -> None:
    """Raises ValueError where a block's stream is not what came in plus its two writes (post-norm blocks)."""
    few = run.runs["clean"].select([0])
    for layer in sorted(layers):
        pre, attention, mlp, post = (Site(s, layer) for s in ("resid_pre", "attn_out", "mlp_out", "resid_post"))
        acts = few.read([pre, attention, mlp, post])
        total = acts[pre] + acts[attention] + acts[mlp]
        if not torch.allclose(total, acts[post], rtol=0, atol=1e-2 * float(acts[post].abs().max())):
            raise ValueError(f"block {layer} does not add its writes to the stream (it normalises or scales them), so "
                             "a path cannot be told from the rest; use activation_patching")
