"""Function vectors: what a few heads write when examples show a task, added where nothing shows it.

    pairs = [([17], [402]), ...]                                          # token ids of inputs and outputs
    shown = in_context(pairs, model.cfg.d_vocab, n=100)                   # 10 examples, then a new input
    means = mean_outputs(LastToken.of(model, shown), head_sites(model))
    shuffled = in_context(pairs, model.cfg.d_vocab, n=25, shuffled=True)
    heads = top_heads(indirect_effects(model, shuffled, means), 10)
    v = function_vector(model, means, heads)
    table = function_vector_effect(model, in_context(pairs, model.cfg.d_vocab, n=100, n_shots=0), means, heads)
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from probing._results import results_frame
from probing._sites import Site
from tasks._prompts import Counterfactuals

from ._controls import rescaled
from ._edits import patch_from, steer
from ._effect import effect
from ._effect_rows import EffectRows, row_context
from ._heads import random_heads, with_band
from ._last_token import LastToken
from ._measures import Score, against
from ._metrics import probability_mass
from ._orthogonalise import _inner
from ._runs import on_split

Words = Sequence[int]
Outputs = Mapping[Site, Float[Tensor, " width"]]


def in_context(
    pairs: Sequence[tuple[Words, Words]],
    d_vocab: int,
    n: int,
    *,
    n_shots: int = 10,
    shuffled: bool = False,
    before: Words = (),
    between: Words = (),
    after: Words = (),
    seed: int = 0,
    task: str = "in context",
) -> Counterfactuals:
    """`n` prompts that show a task by `n_shots` other pairs and end with a new input: x y x y ... x.

    The right answer, before and after, is the first token of the output of that input. Prompts of one input are a
    group; half of the inputs are for choosing, half for reporting.

    Args:
        pairs: Token ids of an input and of its output.
        shuffled: Every example gets the output of another example, so that the prompt looks alike and shows nothing.
        before, between, after: Tokens before the prompt, between input and output, and after an output.
    Raises:
        ValueError: Fewer pairs than a prompt needs, or a single example to shuffle.
    """
    if len(pairs) < n_shots + 1 or (shuffled and n_shots < 2) or len(pairs) < 2:
        raise ValueError(f"{len(pairs)} pairs are too few for {n_shots} examples{' to shuffle' * shuffled} and a new "
                         "input; give more pairs or lower n_shots")
    rng = np.random.default_rng(seed)
    drawn = np.stack([rng.permutation(len(pairs))[: n_shots + 1] for _ in range(n)])
    prompts = []
    for *shots, query in drawn.tolist():
        outputs = np.roll(shots, int(rng.integers(1, n_shots))) if shuffled else shots  # all of them move
        shown = [token for x, y in zip(shots, outputs, strict=True)
                 for token in (*pairs[x][0], *between, *pairs[y][1], *after)]
        prompts.append(torch.tensor([*before, *shown, *pairs[query][0], *between]))
    query = drawn[:, -1]
    right = np.zeros((n, d_vocab), bool)
    right[np.arange(n), [pairs[i][1][0] for i in query]] = True
    table = pd.DataFrame({"prompt": np.arange(n), "target": "answer", "was": 0, "becomes": 0, "group": query,
                          "split": np.where(np.isin(query, np.unique(query)[::2]), "choose", "report")})
    kind = f"{n_shots} {'shuffled ' * shuffled}examples"
    return Counterfactuals(task=task, kind=kind, scheme="answer", cases=table, right_before=right, right_after=right,
                           tokens=torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True),
                           lengths=torch.tensor([len(prompt) for prompt in prompts]))


def mean_outputs(run: LastToken, sites: Sequence[Site]) -> dict[Site, Float[Tensor, " width"]]:
    """Mean activation of the last token at every site, over the cases of a run: what heads give, or streams."""
    sums: dict[Site, Tensor] = {}
    for places in torch.arange(len(run)).split(256):
        for site, x in run.select(places).logits(read=sites)[1].items():
            sums[site] = sums.get(site, 0) + x.double().sum(0)
    return {site: (total / len(run)).float() for site, total in sums.items()}


def indirect_effects(
    model,
    cases: Counterfactuals,
    means: Outputs,
    *,
    score: Score = probability_mass,
    split: str = "choose",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """How much of the answer comes back when one head gives its mean output: a row per head, metric `aie`.

    AIE = mean over cases of p(answer | z := mean) - p(answer), at the last token of prompts with shuffled labels, with
    a cluster bootstrap. A scan to choose heads from, without controls.

    Args:
        cases: Prompts whose examples show nothing: `in_context(..., shuffled=True)`.
        means: `mean_outputs` of prompts that show the task.
        score: (logits, right_after) -> per case; the probability of the answer unless given.
    Source: Todd et al., arXiv:2310.15213; `src/compute_indirect_effect.py` of github.com/ericwtodd/function_vectors.
    """
    run = on_split(model, cases, split)
    scored = against(run, cases.right_after, score)
    arms = [{}, *({site: patch_from(mean)} for site, mean in means.items())]
    null, *values = run.measure(arms, lambda logits, places: scored(logits, places)[:, None])[..., 0].numpy()
    table: list[dict] = []
    for site, value in zip(means, values, strict=True):
        common = row_context(run, cases, [site], split=split, seed=seed, identity=identity, probe="mean_output",
                             intervention="patch", metric="aie", positions="last")
        rows = EffectRows(common, cases.cases["group"].to_numpy()[run.rows.numpy()], seed)
        rows.mean(value - null)
        table += rows.rows
    return results_frame(table)


def top_heads(table: pd.DataFrame, n_heads: int) -> list[Site]:
    """The heads of largest effect in a table of `indirect_effects`, the largest first."""
    rows = table[table["metric"] == "aie"].sort_values("value", ascending=False, kind="stable")
    if not 1 <= n_heads <= len(rows):
        raise ValueError(f"n_heads must lie in 1..{len(rows)}, the heads of the table, not {n_heads}")
    return [Site(row.stream, int(row.layer), int(row.head)) for row in rows[:n_heads].itertuples()]


def function_vector(model, means: Outputs, heads: Sequence[Site] | None = None) -> Float[Tensor, " d_model"]:
    """sum over heads of W_O z, the mean of what the heads (all of `means`, unless given) write to the stream together.

    The bias b_O, which belongs to no head, is left out, and so is a norm that a model may apply to what attention
    writes (Gemma 2).

    Raises:
        ValueError: A site that is not one head; a layer whose attention has no single W_O.
    Source: Todd et al., arXiv:2310.15213.
    """
    heads = list(means) if heads is None else heads
    if wrong := [str(site) for site in heads if site.stream != "z" or site.head is None]:
        raise ValueError(f"wanted single heads, got {', '.join(wrong[:3])}; those of head_sites(model)")
    v = torch.zeros(model.cfg.d_model)
    for layer in sorted({head.layer for head in heads}):
        if (last := getattr(getattr(model.blocks[layer], "attn", None), "o", None)) is None:
            raise ValueError(f"layer {layer} has no single W_O by which its heads write; take heads of other layers")
        W_O = _inner(last)
        z = torch.zeros(model.cfg.n_heads, model.cfg.d_head)
        for head in heads:
            if head.layer == layer:
                z[head.head] = means[head].cpu()
        z = z.flatten().to(W_O.weight)
        with torch.no_grad():
            v += (W_O(z) - W_O(torch.zeros_like(z))).float().cpu()
    return v


def function_vector_effect(
    model,
    cases: Counterfactuals,
    means: Outputs,
    heads: Sequence[Site],
    *,
    layer: int | None = None,
    mean_difference: Float[Tensor, " d_model"] | None = None,
    alphas: Sequence[float | int] = (1.0,),
    n_random: int = 20,
    score: Score = probability_mass,
    split: str = "report",
    seed: int = 0,
    identity: Mapping[str, object] | None = None,
) -> pd.DataFrame:
    """What the function vector, added to the stream at the last token, does to the answer: the rows of `effect`, and
    the band `random_heads` of the vectors of as many other heads. All controls have the norm of the function vector.

    Args:
        cases: Prompts that show nothing: without examples (`n_shots=0`) or with shuffled ones.
        layer: Added to its `resid_post`; a third of the way up, unless given.
        mean_difference: Mean stream of prompts that show the task minus that of prompts that do not, at the same site
            (`mean_outputs(run, [site])`): a control by that name.
        alphas: Doses, in lengths of the function vector as it is (unit `natural`).
        score: (logits, right_after) -> per case; the probability of the answer unless given.
    """
    site = Site("resid_post", model.cfg.n_layers // 3 if layer is None else layer)
    v = function_vector(model, means, heads)
    others = {} if mean_difference is None else {"mean_difference": {site: mean_difference[None]}}
    table = effect(model, cases, {site: v[None]}, alphas=alphas, unit="natural", intervention="steer",
                   probe=f"function vector of {len(heads)} heads", n_random=n_random, others=others, score=score,
                   split=split, seed=seed, identity=identity)
    sets = random_heads([head for head in means if head not in heads], len(heads), n_random, seed)
    drawn = [rescaled(function_vector(model, means, each), v[None]) for each in sets]
    arms = {alpha: [{site: steer(each, alpha)} for each in drawn] for alpha in alphas}
    return with_band(table, model, cases, arms, control="random_heads", score=score, split=split)
