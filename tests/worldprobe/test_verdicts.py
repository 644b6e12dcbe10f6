import numpy as np
import pandas as pd
import pytest

from worldprobe._rows import pick, with_interval
from worldprobe._verdicts import best_probe, chosen_edit, enough, reads, standing, used, verdicts


def test_reads_is_yes_when_the_probe_beats_its_strongest_control(table):
    verdict = reads(table, "mine_theirs")
    assert verdict.state == "yes"
    assert "0.970 [0.966, 0.974]" in verdict.because
    assert "shortcut: no flip: 0.803 [0.801, 0.805]" in verdict.because


def test_reads_is_no_when_a_shortcut_explains_the_score(table):
    verdict = reads(table, "black_white")  # 0.75, below the 0.80 of discs that never flip
    assert verdict.state == "no"
    assert "0.803" in verdict.because


def test_reads_is_no_when_the_intervals_overlap(make_table):
    assert reads(make_table(half=0.17), "mine_theirs").state == "no"


def test_reads_is_not_tested_without_a_control(table):
    alone = pick(table, control=None)
    assert reads(alone[alone["stream"] != "resid_pre"], "mine_theirs").state == "not tested"


def test_the_embedding_is_a_control_of_the_layers_above_it(table):
    first = table[table["control"].isna() & (table["layer"] == 0)]
    assert "the same probe on the embedding" in reads(first, "mine_theirs").because


def test_every_control_is_named_on_the_side_where_it_stands(table):
    above = standing(table, best_probe(table, "mine_theirs"), "accuracy")
    assert above.startswith("Clearly better than") and "shortcut: no flip (0.803)" in above and "Not" not in above
    level = standing(table, best_probe(table, "black_white"), "accuracy").partition("Not clearly better than ")[2]
    assert "shortcut: no flip bw (0.803)" in level and "majority" not in level


def test_probe_and_layer_are_chosen_on_validation(table):
    lucky = table.copy()
    wins = (lucky["layer"] == 2) & (lucky["probe"] == "logistic") & (lucky["label"] == "mine_theirs")
    lucky.loc[wins & (lucky["split"] == "test") & lucky["control"].isna(), "value"] = 0.999
    assert best_probe(lucky, "mine_theirs")["layer"] == 5


def test_an_mlp_carries_no_verdict_where_a_linear_probe_was_run(table):
    assert best_probe(table, "mine_theirs")["probe"] == "logistic"
    assert best_probe(table[table["probe"] != "ridge"].query("probe == 'mlp'"), "mine_theirs")["probe"] == "mlp"


@pytest.mark.parametrize(("works", "state"), [(True, "yes"), (False, "no")])
def test_is_enough_follows_the_edit(make_table, works, state):
    verdict = enough(make_table(works=works))
    assert verdict.state == state
    assert verdict.because.count("[") >= 4 and "5–95 % band" in verdict.because


def test_an_edit_that_only_beats_doing_nothing_is_not_enough(table):
    easy = table.copy()
    band = (easy["control"] == "random_direction") & (easy["metric"] == "set_error")
    easy.loc[band, ["value", "ci_low", "ci_high"]] = 0.5, 0.4, 0.6  # any push of this size does it
    verdict = enough(easy)
    assert verdict.state == "no" and "not clearly beyond random directions" in verdict.because


def test_one_edit_that_works_and_one_that_does_not_is_partly(make_table):
    good, bad = make_table(works=True), make_table(works=False)
    mixed = pd.concat([good[good["intervention"] != "erase"], bad[bad["intervention"] == "erase"]])
    assert enough(mixed).state == "partly"


def test_an_edit_along_a_network_is_told_and_decides_nothing_unless_it_is_the_only_one(make_table):
    good, bad = make_table(works=True), make_table(works=False)
    idle = bad[bad["intervention"] == "erase"].assign(intervention="gradient")
    network = idle.assign(probe=idle["probe"].where(idle["probe"].isna(), "mlp"))
    both = enough(pd.concat([good, network]))
    assert both.state == "yes" and both.because.splitlines()[-1].startswith("Gradient at")
    assert enough(network).state == "no"


def test_an_effect_without_its_band_is_not_tested(table):
    bare = table[(table["control"] != "random_direction").fillna(True)]
    assert enough(bare).state == "not tested" and "random band" in enough(bare).because


@pytest.mark.parametrize(("ablation", "state"), [(True, "yes"), (False, "no"), (None, "not tested")])
def test_is_used_asks_for_an_edit_that_removes(make_table, ablation, state):
    assert used(make_table(ablation=ablation)).state == state


def test_reads_can_be_held_against_chance_alone_and_then_names_who_reads_it_too(table):
    verdict = reads(table, "black_white", against=("majority", "shuffled_labels"))
    assert verdict.state == "yes" and "shuffled labels at layer 5: 0.487" in verdict.because
    assert "It can be read as well from shortcut: no flip bw (0.803 [0.801, 0.805])" in verdict.because


@pytest.mark.parametrize(("subspaces", "push", "state"), [(0.6, 1.0, "yes"), (2.35, 1.0, "no"), (0.6, 2.5, "no")])
def test_an_erasure_must_beat_random_subspaces_and_the_mean_of_equally_long_pushes(make_table, subspaces, push, state):
    table = make_table(ablation=True)  # an error of 2.4 [2.3, 2.5]
    random = pick(table, intervention="ablate", control="random_direction")
    wide = random.assign(value=push, ci_low=0.3, ci_high=2.6)  # its band alone decides nothing
    erased = random.assign(control="random_subspace", value=subspaces, ci_low=subspaces - 0.1, ci_high=subspaces + 0.1)
    rest = table.drop(index=random.index)
    verdict = used(pd.concat([rest, wide, erased], ignore_index=True))
    assert verdict.state == state and "random subspaces" in verdict.because


def test_without_interventions_nothing_causal_is_claimed(make_table):
    states = {v.word: v.state for v in verdicts(make_table(effects=False), "mine_theirs")}
    assert states == {"reads": "yes", "is used": "not tested", "is enough": "not tested"}


def test_the_edit_is_chosen_on_the_choose_half_and_read_on_the_other(table):
    edit = chosen_edit(table, "flip")
    chosen = ["split", "probe", "alpha", "layer", "layer_end"]
    assert edit[chosen].tolist() == ["report", "encoding", 1.5, 1, 3]


def test_several_labels_ask_for_one(table):
    with pytest.raises(ValueError, match="name one label, the table has 2: mine_theirs, black_white"):
        reads(table)


def test_a_number_is_printed_with_its_interval_or_says_that_it_has_none():
    assert with_interval(0.9731, 0.968, 0.9774) == "0.973 [0.968, 0.977]"
    assert with_interval(0.5, np.nan, np.nan) == "0.500 (no interval)"
