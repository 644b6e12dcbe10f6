"""TCAV: gradients by finite differences, the card's two checks, tests as scipy makes them, concepts of known effect."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import ttest_ind
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from interventions import LastToken, Sequences, steer, tcav
from interventions._tcav import class_logit, last_token_gradients
from probing import CAVProbe, extract, load_model, random_init, validate
from probing._sites import Site
from tasks import decoy
from tasks._prompts import Counterfactuals

K = 7  # the class


def inputs(n=60, length=8, seed=0) -> Counterfactuals:
    """Random prompts, all of class K."""
    tokens = torch.randint(1, 30, (n, length), generator=torch.Generator().manual_seed(seed))
    right = np.zeros((n, 30), bool)
    right[:, K] = True
    table = pd.DataFrame({"prompt": np.arange(n), "target": "class", "was": 0, "becomes": 0, "group": np.arange(n),
                          "split": "report"})
    return Counterfactuals(task="toy", kind="class", scheme="class", tokens=tokens, lengths=torch.full((n,), length),
                           cases=table, right_before=right, right_after=right)


def planted(run, site, direction, size=3.0, **kw) -> CAVProbe:
    """CAVs of a concept that is the activation of other prompts moved along `direction`."""
    acts = run.logits(read=[site])[1][site].double()
    moved = acts + size * acts.norm(dim=-1).mean() * direction.double() / direction.double().norm()
    X, y = torch.cat([acts, moved[: len(acts) // 2]]).numpy(), np.repeat([0, 1], [len(acts), len(acts) // 2])
    return CAVProbe(**{"repeats": 20, "placebos": 4, "tol": 1e-2, **kw}).fit(X, y)


def value(table, metric, control=None, column="value", **where):
    rows = table[(table["metric"] == metric)
                 & (table["control"].isna() if control is None else table["control"] == control)]
    for name, wanted in where.items():
        rows = rows[rows[name] == wanted]
    assert len(rows) == 1
    return rows[column].item()


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "native"])
def test_gradients_are_those_of_finite_differences(models, family, random):
    cases, sites = inputs(6), [Site("resid_post", 0), Site("z", 1, head=2), Site("mlp_out", 2)]
    run, right = LastToken.of(models(family), cases), torch.as_tensor(cases.right_after)
    slopes = last_token_gradients(run, sites, lambda logits, places: class_logit(logits, right[places]))
    for site in sites:
        v = random(slopes[site].shape[-1])
        up, down = (run.logits({site: steer(v, alpha)})[:, K] for alpha in (0.02, -0.02))
        torch.testing.assert_close(slopes[site] @ v, (up - down) / 0.04, atol=0.01, rtol=0.01)
    assert not any(p.grad is not None for p in run.model.parameters())


def test_of_a_linear_head_every_share_is_nothing_or_all():
    """The card's check: without a norm the logit is linear in the last stream, so its slope is one number for all."""
    config = TransformerBridgeConfig(n_layers=2, d_model=24, n_ctx=20, d_head=6, n_heads=4, d_vocab=30, d_mlp=48,
                                     act_fn="gelu", normalization_type=None, architecture=None, seed=0)
    run, cases = LastToken.of(TransformerBridge.boot_native(config), inputs()), inputs()
    last, below = Site("resid_post", 1), Site("resid_post", 0)
    score = lambda logits, places: logits[:, K]  # noqa: E731
    slopes = last_token_gradients(run, [last, below], score)
    probe = planted(run, last, torch.randn(24, generator=torch.Generator().manual_seed(1)), repeats=50)
    for cavs in (probe.cavs_, probe.random_cavs_):
        shares = (slopes[last].double().numpy() @ cavs.T > 0).mean(0)
        assert np.isin(shares, (0, 1)).all()
    shares = (slopes[below].double().numpy() @ probe.random_cavs_.T > 0).mean(0)
    assert ((shares > 0) & (shares < 1)).any()
    table = tcav(run, cases, {"planted": {last: probe}})
    assert value(table, "tcav") == value(table, "share_rising")
    assert value(table, "rise") == pytest.approx(value(table, "slope"), rel=1e-3)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_cavs_rise_for_half_of_the_inputs(gpt2, seed):
    model = random_init(gpt2, seed)
    run = LastToken.of(model, inputs())
    site = Site("resid_post", 1)
    probe = planted(LastToken.of(model, inputs(200, seed=1)), site, torch.ones(24), repeats=200, placebos=0)
    table = tcav(run, inputs(), {"nothing": {site: probe}}, alphas=[])
    assert value(table, "tcav", "random_direction") == pytest.approx(0.5, abs=0.1)
    assert value(table, "tcav", "random_direction", "n") == 200


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_concept_that_writes_the_class_is_found_and_one_that_the_norm_removes_has_no_slope(gpt2, seed):
    """After the last block: the unembedding row of the class raises its logit; all-ones is taken out by LayerNorm."""
    model, site, cases = random_init(gpt2, seed), Site("resid_post", 2), inputs()
    other = LastToken.of(model, inputs(120, seed=5))
    row = model.original_model.lm_head.weight.detach()[K]
    ones = torch.ones(24)
    probes = {"class": {site: planted(other, site, row - row.mean())}, "mean": {site: planted(other, site, ones)}}
    probes["mean"][site].cavs_ = np.tile(np.ones(24) / 24**0.5, (20, 1))  # exactly, not nearly
    table = tcav(model, cases, probes)
    validate(table)
    found = partial(value, table, label="class")
    assert found("tcav") > 0.95 and found("tcav", column="p_adjusted") < 1e-3
    assert found("tcav", column="ci_low") > found("tcav", "placebo", "ci_high")
    assert found("rise", column="ci_low") > found("rise", "random_direction", "ci_high")
    assert abs(value(table, "slope", label="mean")) < 1e-4 and abs(value(table, "rise", label="mean")) < 1e-3


def test_p_values_are_scipys_and_bonferroni_counts_layers_and_concepts(gpt2):
    run, cases, sites = LastToken.of(gpt2, inputs()), inputs(), [Site("resid_post", 0), Site("z", 1, head=1)]
    other, v = LastToken.of(gpt2, inputs(120, seed=5)), torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    concepts = {f"c{i}": {site: planted(other, site, v[i, :6] if site.head else v[i]) for site in sites}
                for i in range(2)}
    table = tcav(run, cases, concepts, alphas=[])
    slopes = last_token_gradients(run, sites, lambda logits, places: logits[:, K])
    for name, probes in concepts.items():
        for site, probe in probes.items():
            of_site = dict(label=name, stream=site.stream)
            along = [slopes[site].double().numpy() @ cavs.T for cavs in (probe.cavs_, probe.random_cavs_)]
            shares = [(s > 0).mean(0) for s in along]
            p = ttest_ind(*shares, equal_var=False).pvalue
            assert value(table, "tcav", **of_site) == pytest.approx(shares[0].mean())
            assert value(table, "tcav", column="p_value", **of_site) == pytest.approx(p, rel=1e-6)
            assert value(table, "tcav", column="p_adjusted", **of_site) == pytest.approx(min(1, 4 * p), rel=1e-6)
            natural = abs((probe.cavs_ @ probe.write_[0]).mean())
            assert value(table, "slope", **of_site) == pytest.approx(natural * along[0].mean(), rel=1e-6)


def test_adding_little_rises_as_the_slope_says(gpt2):
    site, other = Site("resid_post", 0), LastToken.of(gpt2, inputs(120, seed=5))
    probe = planted(other, site, torch.randn(24, generator=torch.Generator().manual_seed(0)))
    table = tcav(gpt2, inputs(), {"c": {site: probe}}, alphas=[1e-3, 1.0])
    assert value(table, "rise", alpha=1e-3) / 1e-3 == pytest.approx(value(table, "slope"), rel=0.05)
    assert abs(value(table, "rise", alpha=1.0) - value(table, "slope")) > 0.05 * abs(value(table, "slope"))


def test_significance_alone_says_nothing_of_use():
    """The decoy's sign decides nothing, and yet its CAVs' shares differ from those of random CAVs; adding tells."""
    model, prompts, site = load_model("decoy", device="cpu"), decoy.load(800), Site("resid_post", 1)
    acts, train = extract(model, prompts, [site], cache=False, random_init=None), prompts.rows("train")
    probe = CAVProbe(repeats=20, placebos=0, size=100, tol=0.05).fit(acts[site].numpy()[train],
                                                                     prompts.labels("mark")[train, 0])
    cases = decoy.cases("end", n=300)
    table = tcav(LastToken.of(model, cases, only=(cases.cases["becomes"] == 1).to_numpy()), cases,
                 {"mark": {site: probe}})
    assert value(table, "tcav", column="p_adjusted") < 0.01
    assert value(table, "tcav", column="ci_low") < 0.5 < value(table, "tcav", column="ci_high")
    low, high = (value(table, "rise", "random_direction", end) for end in ("ci_low", "ci_high"))
    assert low < value(table, "rise") < high


def test_probes_that_make_no_test_are_refused(gpt2):
    site, other = Site("resid_post", 0), LastToken.of(gpt2, inputs(40, seed=5))
    with pytest.raises(ValueError, match="5 CAVs of 'c' at resid_post.0 make no test"):
        tcav(gpt2, inputs(), {"c": {site: planted(other, site, torch.ones(24), repeats=5)}})
    with pytest.raises(ValueError, match="24 wide, z.1.2 of this model is 6 wide"):
        tcav(gpt2, inputs(), {"c": {Site("z", 1, head=2): planted(other, site, torch.ones(24))}})
    flat = planted(other, site, torch.ones(24))
    flat.random_cavs_[:3] = 0
    with pytest.raises(ValueError, match="3 CAVs of 'c' at resid_post.0 are zero"):
        tcav(gpt2, inputs(), {"c": {site: flat}})
    with pytest.raises(ValueError, match="LastToken.of"):
        tcav(Sequences.of(gpt2, inputs()), inputs(), {"c": {site: planted(other, site, torch.ones(24))}})
