"""Paths are what freezing every other component says, and what transformer-lens says of paths between heads."""

from functools import partial

import pytest
import torch
from transformer_lens import patching as lens

from interventions import PatchRun, Receiver, activation_patching, block_sites, head_sites, path_patching
from interventions._path_patching import _inputs_open, written
from probing import Site, validate
from tests.interventions.pairs import cached, gap_metric, last_logits, make_pairs

FAMILIES = ("gpt2", "llama", "neox")
N_LAYERS, N_HEADS = 3, 4


@pytest.fixture(params=FAMILIES)
def family(request, models):
    return models(request.param)


@pytest.fixture(scope="module")
def pairs():
    return make_pairs([4, 6, 5, 5])


def values(table, intervention="denoise"):
    return table[(table["intervention"] == intervention) & table["control"].isna()].set_index("stream")["value"]


def frozen_path(model, pairs, sender, receiver, direction):
    """(case, d_vocab) by the definition: every head and MLP is held at the base run but for the sender, what reaches
    the receiver is kept, and put there in a second run, in which nothing is held."""
    base, source = (pairs.corrupted, pairs.clean) if direction == "denoise" else (pairs.clean, pairs.corrupted)
    writes = [Site(stream, layer).hook for layer in range(N_LAYERS) for stream in ("z", "mlp_out")]
    last = receiver.part == "final"
    name = f"blocks.{N_LAYERS - 1}.hook_resid_post" if last else f"blocks.{receiver.layer}.hook_mlp_in"

    def hooks(case):
        n = int(pairs.lengths[case])
        held, sent = cached(model, base[case], n, writes), cached(model, source[case], n, [sender.hook])[sender.hook]
        if sender.head is None:
            held[sender.hook] = sent
        else:
            held[sender.hook][:, :, sender.head] = sent[:, :, sender.head]
        freeze = [(hook, partial(lambda x, hook, value: value, value=value)) for hook, value in held.items()]
        with model.hooks(fwd_hooks=freeze):
            arrives = cached(model, base[case], n, [name])[name]
        return [(name, lambda x, hook: arrives)]

    return last_logits(model, base, pairs.lengths, hooks)


@pytest.mark.parametrize("receiver", [Receiver("final"), Receiver("mlp", 2), Receiver("mlp", 1)])
def test_paths_are_what_freezing_all_other_components_leaves(family, pairs, receiver):
    metric, every = gap_metric(family, pairs), torch.arange(4)
    run = PatchRun(family, pairs, metric)
    for sender in (Site("z", 0, head=1), Site("mlp_out", 0), Site("z", 1, head=2)):
        if sender.layer == receiver.layer and family.cfg.architecture == "GPTNeoXForCausalLM":
            continue  # both halves of a parallel block read the same stream
        table = path_patching(run, pairs, [sender], [receiver], n_random=0)
        with _inputs_open(family, [receiver]):
            for direction, base in (("denoise", "corrupted"), ("noise", "clean")):
                after = metric(frozen_path(family, pairs, sender, receiver, direction), every).numpy()
                gain = (after - run.values[base]).sum() * (1 if direction == "denoise" else -1)
                assert values(table, direction).item() == pytest.approx(gain / run.gap.sum(), rel=1e-3, abs=1e-5)
                assert abs(values(table, direction).item()) > 1e-4


@pytest.mark.parametrize(("name", "part"), [("gpt2", "q"), ("gpt2", "k"), ("gpt2", "v"), ("llama", "q")])
def test_paths_between_heads_are_those_of_transformer_lens(models, name, part):
    model, pairs = models(name), make_pairs([5] * 4)
    along, every = gap_metric(model, pairs), torch.arange(4)
    run = PatchRun(model, pairs, along)
    caches = [model.run_with_cache(tokens)[1] for tokens in (pairs.clean, pairs.corrupted)]
    theirs = lens.get_act_patch_direct_path(
        model, pairs.corrupted, *caches, lambda logits: along(logits[:, -1], every).mean(), 0, 1, part, verbose=False)
    for layer, head in ((1, 0), (2, 3)):
        table = path_patching(run, pairs, [Site("z", 0, head=1)], [Receiver(part, layer, head)],
                              directions=["denoise"], n_random=0)
        expected = (float(theirs[layer, head]) - run.values["corrupted"].mean()) / run.gap.mean()
        assert values(table).item() == pytest.approx(expected, abs=1e-5)


def test_keys_and_values_of_grouped_heads_are_counted_by_group(models, pairs):
    model = models("llama")  # 4 heads of queries, 2 of keys and values
    metric, sender = gap_metric(model, pairs), [Site("mlp_out", 0)]
    both = [values(path_patching(model, pairs, sender, [Receiver("v", 1, g)], metric=metric, n_random=0)).item()
            for g in (0, 1)]
    assert both[0] != both[1] and 0 not in both
    with pytest.raises(ValueError, match=r"no receiver v.1.2: the heads of keys and values are 0 to 1"):
        path_patching(model, pairs, sender, [Receiver("v", 1, 2)], metric=metric)


@pytest.mark.parametrize("name", ["llama", "neox"])
def test_what_all_writers_send_adds_up_to_the_whole_difference(models, name):
    family, pairs = models(name), make_pairs([5, 5, 4])
    run, total = PatchRun(family, pairs, gap_metric(family, pairs)), 0
    for writer in (Site("resid_pre", 0), *head_sites(family), *block_sites(family, ["mlp_out"])):
        total = total + written(run, "denoise", writer, None, {})[0]
    end = Site("resid_post", N_LAYERS - 1)
    whole = run.read("clean", [end])[end] - run.read("corrupted", [end])[end]
    torch.testing.assert_close(total, whole.flatten(0, 1), atol=1e-4, rtol=1e-4)


def test_the_path_of_the_last_writer_to_the_end_is_its_patch(family, pairs):
    metric, sites = gap_metric(family, pairs), [Site("mlp_out", 2)]
    path = path_patching(family, pairs, sites, [Receiver("final")], metric=metric, n_random=0)
    patch = activation_patching(family, pairs, sites, ["all"], metric=metric, n_random=0)
    for direction in ("denoise", "noise"):
        assert values(path, direction).item() == pytest.approx(values(patch, direction).item(), abs=1e-5)


def test_several_receivers_get_the_path_together_and_rows_are_valid(gpt2, pairs):
    run = PatchRun(gpt2, pairs, gap_metric(gpt2, pairs))
    receivers = [Receiver("q", 2, 0), Receiver("mlp", 1), Receiver("v", 1, 3)]
    table = validate(path_patching(run, pairs, [Site("attn_out", 0), Site("attn_out", 1)], receivers, "last"))
    rows = table[table["intervention"] == "denoise"]
    assert set(rows["subset"]) == {"to q.2.0+mlp.1+v.1.3"} and set(rows["positions"].dropna()) == {"last"}
    assert rows["control"].fillna("patch").value_counts().to_dict() == {"patch": 2, "random_direction": 2, "null": 1}
    nearer = path_patching(run, pairs, [Site("attn_out", 1)], [receivers[0], receivers[1]], "last", n_random=0)
    expected = values(table[table["layer"] == 1]).item()
    assert values(nearer).item() == pytest.approx(expected, rel=1e-4)  # it cannot reach below itself
    alone = [values(path_patching(run, pairs, [Site("attn_out", 0)], [r], "last", n_random=0)).item()
             for r in receivers]
    assert values(table[table["layer"] == 0]).item() not in (*alone, 0)


def test_the_model_is_as_it_was_also_after_an_exception(gpt2, pairs):
    def flags():
        return [getattr(c, flag) for c in (gpt2.cfg, gpt2.blocks[1].attn.config)
                for flag in ("use_split_qkv_input", "use_attn_in", "use_hook_mlp_in")]

    def breaks(logits, numbers):
        if gpt2.cfg.use_split_qkv_input:
            raise RuntimeError("inside the run")
        return along(logits, numbers)

    along, before = gap_metric(gpt2, pairs), flags()
    clean = last_logits(gpt2, pairs.clean, pairs.lengths)
    receivers = [Receiver("q", 2, 1), Receiver("mlp", 2)]
    path_patching(gpt2, pairs, [Site("mlp_out", 0)], receivers, metric=along, n_random=0)
    with pytest.raises(RuntimeError, match="inside the run"):
        path_patching(gpt2, pairs, [Site("mlp_out", 0)], receivers, metric=breaks, n_random=0)
    gpt2.set_use_attn_in(True)
    path_patching(gpt2, pairs, [Site("mlp_out", 0)], receivers, metric=along, n_random=0)
    assert gpt2.cfg.use_attn_in
    gpt2.set_use_attn_in(False)
    assert flags() == before and torch.equal(last_logits(gpt2, pairs.clean, pairs.lengths), clean)


@pytest.mark.parametrize(("sender", "receiver", "message"), [
    (Site("resid_post", 1), Receiver("final"), "resid_post.1 does not write to the stream"),
    (Site("z", 2, head=0), Receiver("q", 2, 1), "no path from z.2.0 to q.2.1"),
    (Site("mlp_out", 1), Receiver("mlp", 1), "no path from mlp_out.1 to mlp.1"),
    (Site("mlp_out", 0), Receiver("q", 7, 1), "no receiver q.7.1: the layers are 0 to 2"),
    (Site("mlp_out", 0), Receiver("q", 1, 4), "no receiver q.1.4: the heads are 0 to 3"),
])
def test_paths_that_are_not_there_are_refused(gpt2, pairs, sender, receiver, message):
    with pytest.raises(ValueError, match=message):
        path_patching(gpt2, pairs, [sender], [receiver], metric=gap_metric(gpt2, pairs))


def test_receivers_and_blocks_of_other_kinds_are_refused(models, pairs):
    for wrong, message in ((("q", 1), "wants a layer and a head"), (("final", 1), "wants no layer and no head"),
                           (("z", 1, 1), "is q, k, v, mlp or final, not 'z'")):
        with pytest.raises(ValueError, match=message):
            Receiver(*wrong)
    neox, bert = models("neox"), models("bert")
    with pytest.raises(ValueError, match="no path from attn_out.1 to mlp.1"):  # parallel halves
        path_patching(neox, pairs, [Site("attn_out", 1)], [Receiver("mlp", 1)], metric=gap_metric(neox, pairs))
    with pytest.raises(ValueError, match="block 0 does not add its writes"):
        path_patching(bert, pairs, [Site("mlp_out", 0)], [Receiver("final")], metric=gap_metric(bert, pairs))
    with pytest.raises(ValueError, match="no receiver; name some"):
        path_patching(neox, pairs, [Site("mlp_out", 0)], [])
