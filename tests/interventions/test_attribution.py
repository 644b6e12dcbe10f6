"""Estimates from one gradient: what transformer-lens computes, right to first order, and confirmed by true patches."""

from functools import partial

import numpy as np
import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis.attribution_patching import attribution_patch

from interventions import (
    PatchRun,
    activation_patching,
    attribution_patching,
    block_sites,
    confirm,
    head_sites,
    rank_correlation,
    steer,
)
from interventions._attribution import gradients
from probing import Site, load_model, validate
from tasks import decoy
from tests.interventions.pairs import gap_metric, last_logits, make_pairs


@pytest.fixture(params=["gpt2", "llama", "neox"])
def family(request, models):
    return models(request.param)


@pytest.fixture(scope="module")
def pairs():
    return make_pairs([4, 6, 5, 5])


def cells(table, verb="attribute", control=None):
    kind = table["control"].isna() if control is None else table["control"] == control
    return table[(table["intervention"] == verb) & kind].reset_index(drop=True)


def test_gradients_are_those_of_finite_differences(family, pairs, random):
    run = PatchRun(family, pairs, gap_metric(family, pairs))
    sites = [Site("resid_pre", 1), Site("attn_out", 0), Site("mlp_out", 2), Site("z", 1, head=2)]
    acts, slopes = gradients(run, "corrupted", sites)
    base, every, step = run.runs["corrupted"], torch.arange(4), 1e-2
    read = run.read("corrupted", sites)
    for site in sites:
        torch.testing.assert_close(acts[site], read[site])
        push = random(acts[site].shape[-1])
        both = run.score(base, [{site: steer(push, step)}, {site: steer(push, -step)}])
        expected = torch.from_numpy(both[0] - both[1]) / (2 * step)
        came = (slopes[site][every, pairs.lengths - 1] @ push).double()
        torch.testing.assert_close(came, expected, rtol=0.03, atol=0.03 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_estimates_are_those_of_transformer_lens(models, name):
    model, pairs = models(name), make_pairs([5] * 3)
    along = gap_metric(model, pairs)
    run = PatchRun(model, pairs, along)
    sites = [*head_sites(model), *block_sites(model, ["mlp_out"])]
    ours = cells(attribution_patching(run, pairs, sites, n_random=0))
    sums = dict.fromkeys(zip(ours["stream"], ours["layer"], ours["head"].fillna(-1), ours["positions"], strict=True), 0)
    model.embed.original_component.weight.requires_grad_()  # theirs asks for a gradient that reaches the parameters
    for case in range(3):
        numbers = torch.tensor([case])
        theirs = attribution_patch(model, pairs.clean[case : case + 1], pairs.corrupted[case : case + 1],
                                   lambda logits, numbers=numbers: along(logits[:, -1], numbers)[0])
        for node, score in theirs.node_scores.items():
            stream = {"attn_head_out": "z", "mlp_out": "mlp_out"}.get(node.kind)
            if stream is not None:
                sums[stream, node.layer, -1 if node.head is None else node.head, str(node.position)] += score
    model.embed.original_component.weight.requires_grad_(False)
    assert len(sums) == len(ours) == 5 * (12 + 3)
    np.testing.assert_allclose(ours["value"], np.array(list(sums.values())) / run.gap.sum(), atol=1e-5)


def native(normalization):
    config = TransformerBridgeConfig(n_layers=2, d_model=16, n_ctx=8, d_head=4, n_heads=4, d_vocab=30, d_mlp=32,
                                     act_fn="gelu", normalization_type=normalization, architecture=None, seed=0)
    return TransformerBridge.boot_native(config)


def test_an_estimate_is_exact_where_the_rest_is_linear():
    """Without norms, logits are linear in what the last MLP writes and in the stream after it, and in nothing below."""
    model, pairs = native(None), make_pairs([4, 6, 5, 5])
    run = PatchRun(model, pairs, gap_metric(model, pairs))
    linear, curved = [Site("mlp_out", 1), Site("resid_post", 1)], [Site("resid_pre", 0), Site("mlp_out", 0)]
    estimates, true = (table(run, pairs, linear + curved, n_random=0)
                       for table in (attribution_patching, activation_patching))
    off = (cells(estimates)["value"] - cells(true, "denoise")["value"]).abs()
    exact = cells(estimates)["layer"] == 1
    assert off[exact].max() < 1e-5 and off[~exact].max() > 1e-3


def share(clean, corrupted, logits, numbers):
    """Of the way from the corrupted to the clean logits, how much these have gone."""
    way = (clean - corrupted)[numbers]
    return ((logits - corrupted[numbers]) * way).sum(-1) / (way**2).sum(-1)


def test_estimates_become_exact_as_the_clean_run_comes_near():
    """Where all tokens embed almost alike, a patch changes little, and its first order is all there is."""
    model, pairs, errors = native("LN"), make_pairs([5] * 4, differ=2), []
    words = model.embed.original_component.weight
    before = words.detach().clone()
    for near in (0.1, 0.01):
        with torch.no_grad():
            words.copy_(before[0] + near * (before - before[0]))
        ends = [last_logits(model, tokens, pairs.lengths).double() for tokens in (pairs.clean, pairs.corrupted)]
        run = PatchRun(model, pairs, partial(share, *ends))
        estimate = cells(attribution_patching(run, pairs, n_random=0))["value"]
        true = cells(activation_patching(run, pairs, n_random=0), "denoise")["value"]
        errors.append(float((estimate - true).abs().max()))
    assert errors[1] < 0.2 * errors[0] and errors[1] < 0.02


def test_the_largest_estimates_are_patched_for_real_and_ranks_are_compared(gpt2, pairs):
    run = PatchRun(gpt2, pairs, gap_metric(gpt2, pairs))
    table = attribution_patching(run, pairs, [*block_sites(gpt2, ["mlp_out"]), Site("z", 1, head=3)], ["last", -2])
    validate(table)
    assert (cells(table, control="random_direction")["n"] == 20).all() and len(cells(table)) == 8
    true = validate(confirm(run, pairs, table, top=5))
    largest = cells(table).loc[cells(table)["value"].abs().nlargest(5).index]
    place = ["stream", "layer", "head", "positions"]
    assert largest[place].astype(str).values.tolist() == cells(true, "denoise")[place].astype(str).values.tolist()
    everything = activation_patching(run, pairs, [*block_sites(gpt2, ["mlp_out"]), Site("z", 1, head=3)], ["last", -2],
                                     n_random=0)
    both = cells(everything, "denoise").merge(cells(true, "denoise"), on=place)
    np.testing.assert_allclose(both["value_x"], both["value_y"], atol=1e-6)
    assert -1 <= rank_correlation(table, everything) <= 1
    assert rank_correlation(table, table.assign(intervention="denoise")) == pytest.approx(1)
    assert rank_correlation(table, table.assign(intervention="noise", value=-table["value"]), "noise") \
        == pytest.approx(-1)
    with pytest.raises(ValueError, match="share 2 cells"):
        rank_correlation(table, confirm(run, pairs, table, top=2, n_random=0))


def test_where_the_model_saturates_the_first_order_is_wrong_and_the_patch_says_so():
    """The decoy's answer jumps: the estimate of the state that closes the whole gap is near nothing."""
    model, pairs = load_model("decoy", device="cpu"), decoy.pairs(40)
    sites = block_sites(model, ["resid_pre"])
    estimates = cells(attribution_patching(model, pairs, sites, ["last"], n_random=0)).set_index("layer")["value"]
    true = cells(activation_patching(model, pairs, sites, ["last"], n_random=0), "denoise").set_index("layer")["value"]
    assert true[2] == pytest.approx(1, abs=1e-3) and abs(estimates[2]) < 0.1


def test_gradients_leave_nothing_behind(gpt2, pairs):
    clean = last_logits(gpt2, pairs.clean, pairs.lengths)
    attribution_patching(gpt2, pairs, metric=gap_metric(gpt2, pairs), n_random=0)
    assert all(p.grad is None for p in gpt2.parameters())
    assert torch.equal(last_logits(gpt2, pairs.clean, pairs.lengths), clean)


@pytest.mark.parametrize(("change", "message"), [
    (dict(n_random=3), "at least 20 draws"),
    (dict(sites=[]), "no site to attribute to"),
    (dict(sites=[Site("resid_mid", 1)]), "resid_mid.1 cannot be edited"),
])
def test_what_has_no_estimate_is_refused(gpt2, pairs, change, message):
    with pytest.raises(ValueError, match=message):
        attribution_patching(gpt2, pairs, **dict(metric=gap_metric(gpt2, pairs)) | change)


def test_a_metric_without_gradient_and_a_table_without_estimates_are_refused(gpt2, pairs):
    along = gap_metric(gpt2, pairs)
    with pytest.raises(ValueError, match="the metric rounded has no gradient"):
        def rounded(logits, numbers):
            return along(logits.detach(), numbers)

        attribution_patching(gpt2, pairs, metric=rounded)
    with pytest.raises(ValueError, match="no estimates in a table of"):
        confirm(gpt2, pairs, activation_patching(gpt2, pairs, [Site("mlp_out", 1)], ["last"], metric=along, n_random=0))
