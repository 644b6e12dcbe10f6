"""Function vectors on a model whose weights were written by hand, so that the heads and the vector are known.

Tasks are shifts: task k maps input x to output (x + k) mod 8. A prompt is x y x y ... x. Written down:

- layer 0, head 0 copies the token before; its MLP knows the pairs: at a y it marks every task that maps x to y.
- layer 1, head 1 averages the marks over all outputs, into 0.7 of the task's slot; layer 2, head 0 into 0.3 of it.
- layer 1, head 2 reads as much, and its W_O is zero; the other heads copy letters and positions into unread slots.
- layer 3's MLP knows the answers: task k and input x together raise output (x + k) mod 8.
"""

import numpy as np
import pytest
import torch
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge

from interventions import (
    LastToken,
    function_vector,
    function_vector_effect,
    head_sites,
    in_context,
    indirect_effects,
    mean_outputs,
    top_heads,
)
from probing import validate
from probing._sites import Site

V, TASKS, N_CTX, D_HEAD = 8, 3, 24, 24
X, Y = np.arange(V), V + np.arange(V)  # slots of inputs and outputs in the stream; the tokens are 1 + slot
POS, BEFORE, MARK, SLOT, OUT, JUNK = 16, 40, 48, 51, 54, 62  # where the other slots begin
D = 72
FIRST, SECOND, NO_WRITE = Site("z", 1, head=1), Site("z", 2, head=0), Site("z", 1, head=2)


def shift(k):
    """Token ids of the pairs of task k."""
    return [([1 + x], [1 + V + (x + k) % V]) for x in range(V)]


@pytest.fixture(scope="module")
def model():
    config = TransformerBridgeConfig(n_layers=4, d_model=D, n_ctx=N_CTX, d_head=D_HEAD, n_heads=3, d_vocab=1 + 2 * V,
                                     d_mlp=TASKS * V, act_fn="relu", normalization_type=None, architecture=None, seed=0)
    bridge = TransformerBridge.boot_native(config)
    native = bridge.original_model
    with torch.no_grad():
        for p in native.parameters():
            p.zero_()
        write({name.replace("._original_component", ""): weight for name, weight in native.named_parameters()})
    return bridge


def write(w):
    eye = torch.eye(D)
    w["tok_embed.weight"][1:, :16] = torch.eye(16)
    w["pos.weight"][:, POS : POS + N_CTX] = torch.eye(N_CTX)
    w["head.weight"][1 + V :, OUT : OUT + V] = torch.eye(V)

    def attention(layer, head, value, to, scale=1.0, only_outputs=True):
        """Head that gathers the slots `value`, alike from all outputs, and writes them to the slots from `to`."""
        first = head * D_HEAD
        if only_outputs:
            w[f"layers.{layer}.attn.q.bias"][first] = 300.0
            w[f"layers.{layer}.attn.k.weight"][first, Y] = 1.0
        for i, slot in enumerate(value):
            w[f"layers.{layer}.attn.v.weight"][first + i, slot] = 1.0
            w[f"layers.{layer}.attn.o.weight"][to + i, first + i] = scale

    attention(0, 0, X, BEFORE, only_outputs=False)
    for p in range(1, N_CTX):  # the query of a position is the key of the one before
        w["layers.0.attn.q.weight"][p - 1, POS + p] = 300.0
        w["layers.0.attn.k.weight"][p - 1, POS + p - 1] = 1.0
    marks = range(MARK, MARK + TASKS)
    attention(1, 1, marks, SLOT, 0.7)
    attention(2, 0, marks, SLOT, 0.3)
    attention(1, 2, marks, SLOT, 0.0)
    attention(1, 0, X, JUNK, only_outputs=False)
    attention(2, 1, range(POS, POS + 8), JUNK)
    attention(3, 2, Y, JUNK)
    for k in range(TASKS):
        for x in range(V):
            unit, y = k * V + x, (x + k) % V
            w["layers.0.mlp.fc_in.weight"][unit] = eye[BEFORE + x] + eye[V + y]
            w["layers.0.mlp.fc_in.bias"][unit] = -1.0
            w["layers.0.mlp.fc_out.weight"][:, unit] = eye[MARK + k]
            w["layers.3.mlp.fc_in.weight"][unit] = eye[SLOT + k] + eye[x]
            w["layers.3.mlp.fc_in.bias"][unit] = -1.0
            w["layers.3.mlp.fc_out.weight"][:, unit] = 10 * eye[OUT + y]


def shown(k, n=40, n_shots=5, **how):
    return in_context(shift(k), 1 + 2 * V, n, n_shots=n_shots, **how)


def right(model, cases):
    logits = LastToken.of(model, cases).logits()
    return float((logits.argmax(-1) == torch.as_tensor(cases.right_after).int().argmax(-1)).float().mean())


@pytest.mark.parametrize("k", range(TASKS))
def test_the_model_answers_in_context_and_not_without(model, k):
    assert right(model, shown(k)) == 1 and right(model, shown(k, shuffled=True)) < 0.2
    assert right(model, shown(k, n_shots=0)) < 0.2


@pytest.mark.parametrize("k", range(TASKS))
def test_the_heads_that_carry_the_task_are_found_in_order_and_a_head_that_writes_nothing_has_no_effect(model, k):
    means = mean_outputs(LastToken.of(model, shown(k)), head_sites(model))
    assert means[NO_WRITE][k] == pytest.approx(1, abs=1e-4)  # it reads the task as well as the others
    shuffled = shown(k, 30, shuffled=True)
    table = indirect_effects(model, shuffled, means)
    assert top_heads(table, 2) == [FIRST, SECOND] and len(table) == 12
    effects = {Site("z", int(row.layer), int(row.head)): row.value for row in table.itertuples()}
    assert effects[FIRST] > effects[SECOND] > 0.1
    assert effects[NO_WRITE] == 0
    assert all(abs(value) < 1e-6 for site, value in effects.items() if site not in (FIRST, SECOND))


def test_an_indirect_effect_is_that_of_one_forward_pass_per_prompt_and_head(model):
    means, shuffled = mean_outputs(LastToken.of(model, shown(1)), [FIRST, SECOND]), shown(1, 12, shuffled=True)
    table = indirect_effects(model, shuffled, means, split="report")
    for site in means:
        gains = []
        for row in np.flatnonzero(shuffled.cases["split"] == "report"):
            tokens, answer = shuffled.tokens[row : row + 1], int(shuffled.right_after[row].argmax())

            def put(z, hook, site=site):
                z = z.clone()
                z[:, -1, site.head] = means[site]
                return z

            with torch.no_grad():
                before = model(tokens)[0, -1].softmax(-1)[answer]
                with model.hooks(fwd_hooks=[(site.hook, put)]):
                    gains.append(float(model(tokens)[0, -1].softmax(-1)[answer] - before))
        row = table[(table["layer"] == site.layer) & (table["head"] == site.head)]
        assert row["value"].item() == pytest.approx(np.mean(gains), abs=1e-6) and row["n"].item() == len(gains)


@pytest.mark.parametrize("k", range(TASKS))
def test_the_function_vector_is_the_task_and_makes_the_model_answer_without_examples(model, k):
    means = mean_outputs(LastToken.of(model, shown(k)), head_sites(model))
    v = function_vector(model, means, [FIRST, SECOND])
    torch.testing.assert_close(v, torch.eye(D)[SLOT + k], atol=1e-4, rtol=0)
    site = Site("resid_post", 1)  # a third of the way up
    streams = [mean_outputs(LastToken.of(model, shown(k, n_shots=n)), [site])[site] for n in (5, 0)]
    table = function_vector_effect(model, shown(k, n_shots=0), means, [FIRST, SECOND],
                                   mean_difference=streams[0] - streams[1])
    validate(table)
    assert set(table["layer"]) == {1}

    def of(control=None, column="value"):
        rows = table[(table["metric"] == "probability_mass") & (table["alpha"] == 1)]
        return rows[rows["control"].isna() if control is None else rows["control"] == control][column].item()

    assert of() > 0.99 and of("random_heads", "n") == 20
    assert of(column="ci_low") > of("random_direction", "ci_high")
    assert of(column="ci_low") > of("random_heads", "ci_high")
    assert of("mean_difference") < of()  # most of it is where the tokens stand


def test_means_of_shuffled_examples_make_no_function_vector(model):
    """The card's check: adding it leaves the answers of prompts that show nothing as they were."""
    shuffled = shown(1, 200, shuffled=True)
    means = mean_outputs(LastToken.of(model, shuffled), head_sites(model))
    cases = shown(1, n_shots=0)
    table = function_vector_effect(model, cases, means, [FIRST, SECOND])
    rows = table[(table["metric"] == "probability_mass")]
    added = rows[rows["control"].isna() & (rows["alpha"] == 1)]["value"].item()
    null = rows[rows["control"] == "null"]["value"].item()
    assert abs(added - null) < 0.02
    assert float(function_vector(model, means, [FIRST, SECOND])[SLOT + 1]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama", "neox", "native"])
def test_all_heads_of_a_layer_write_its_attn_out_less_the_bias(models, family, cases):
    model = models(family)
    run, heads, out = LastToken.of(model, cases), [Site("z", 1, head) for head in range(4)], Site("attn_out", 1)
    means = mean_outputs(run, [*heads, out])
    zero = function_vector(model, {head: torch.zeros(6) for head in heads})
    bias = getattr(model.blocks[1].attn.o, "bias", None)
    bias = torch.zeros(24) if bias is None else bias.detach()
    assert not zero.any()
    torch.testing.assert_close(function_vector(model, means, heads) + bias, means[out], atol=1e-5, rtol=1e-5)
    parts = sum(function_vector(model, means, [head]) for head in heads)
    torch.testing.assert_close(parts, function_vector(model, means, heads), atol=1e-5, rtol=1e-5)


def test_prompts_show_the_task_by_pairs_or_by_pairs_taken_apart():
    pairs, about = shift(2), dict(before=[0], between=[16], after=[15])
    for shuffled in (False, True):
        cases = in_context(pairs, 17, 50, n_shots=4, shuffled=shuffled, seed=3, **about)
        assert cases.tokens.shape == (50, 19) and (cases.lengths == 19).all()
        for row, tokens in enumerate(cases.tokens.tolist()):
            assert tokens[0] == 0 and tokens[2::4] == [16] * 5 and tokens[4::4] == [15] * 4
            xs, ys, truth = tokens[1:-2:4], tokens[3::4], {x[0]: y[0] for x, y in pairs}
            assert len({*xs, tokens[-2]}) == 5  # the new input is none of the examples
            assert sorted(ys) == sorted(truth[x] for x in xs)
            agree = [truth[x] == y for x, y in zip(xs, ys, strict=True)]
            assert not any(agree) if shuffled else all(agree)
            assert cases.right_after[row].nonzero()[0].tolist() == [truth[tokens[-2]]]
        again = in_context(pairs, 17, 50, n_shots=4, shuffled=shuffled, seed=3, **about)
        assert torch.equal(again.tokens, cases.tokens)
    by_input = cases.cases.groupby("group")["split"].nunique()
    assert (by_input == 1).all() and set(cases.cases["split"]) == {"choose", "report"}


def test_what_cannot_be_shown_or_chosen_is_refused(model):
    with pytest.raises(ValueError, match="8 pairs are too few for 8 examples and a new input"):
        shown(0, n_shots=8)
    with pytest.raises(ValueError, match="too few for 1 examples to shuffle"):
        shown(0, n_shots=1, shuffled=True)
    means = mean_outputs(LastToken.of(model, shown(0)), [FIRST, SECOND, NO_WRITE])
    table = indirect_effects(model, shown(0, shuffled=True), means)
    with pytest.raises(ValueError, match="must lie in 1..3"):
        top_heads(table, 4)
    with pytest.raises(ValueError, match="wanted single heads, got resid_post.1"):
        function_vector(model, {Site("resid_post", 1): torch.zeros(D)})
    with pytest.raises(ValueError, match="choose at most half"):
        function_vector_effect(model, shown(0, n_shots=0), means, [FIRST, SECOND])
