"""How far a reading goes, in worlds where the answer is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from probing import MassMeanProbe, RidgeProbe, Site
from probing._transfer import held_out, in_components, scores, transfer, transfer_matrix
from tasks import LabelledPrompts, split_by_group

SITE, D, N = Site("resid_post", 0), 12, 240


def world(seed=0, shift=0.0, bend=0.0):
    """States that are a linear code of two numbers, beside noise; in block `b` the code is moved by `bend`, and
    everything by `shift`."""
    rng = np.random.default_rng(seed)
    y, block = rng.normal(size=(N, 2)), np.array(list("abc"))[rng.integers(0, 3, N)]
    code = np.random.default_rng(7).normal(size=(2, D))
    X = y @ code + 0.01 * rng.normal(size=(N, D)) + shift + bend * (block == "b")[:, None] * code[0]
    name = np.array([f"place {i}" for i in range(N)])
    examples = pd.DataFrame({"prompt": np.arange(N), "pos": 1, "group": name, "split": split_by_group(name, 0),
                             "block": block, "at/x": y[:, 0], "at/y": y[:, 1], "side/": (y[:, 0] > 0).astype(int)})
    tokens = torch.from_numpy(rng.integers(0, 50, (N, 2)))
    prompts = LabelledPrompts("world", tokens, torch.full((N,), 2), examples, classes={"side": ("left", "right")})
    return {SITE: torch.from_numpy(X.astype(np.float32))}, prompts


def value(table, subset, control=None, metric="r2"):
    same = table["control"].isna() if control is None else table["control"] == control
    (row,) = table[same & (table["subset"] == subset) & (table["metric"] == metric)].itertuples()
    return row.value


def test_a_block_is_read_without_having_been_seen_where_one_code_holds_everywhere():
    table = held_out(*world(), "at", "block", RidgeProbe(), SITE)
    assert value(table, "block held out") > 0.99 and value(table, "block=b held out") > 0.99
    assert abs(value(table, "block held out", "majority")) < 0.1 > value(table, "block held out", "shuffled_labels")
    assert abs(value(table, "block held out", "input_only")) < 0.5


def test_a_block_with_a_code_of_its_own_is_lost_when_held_out_and_read_when_seen_apart():
    acts, prompts = world(bend=3.0)
    table = held_out(acts, prompts, "at", "block", RidgeProbe(), SITE)
    assert value(table, "block=b held out") < value(table, "block=b") - 0.5
    matrix = transfer_matrix(acts, prompts, "at", "block", RidgeProbe(), SITE)
    for a in "abc":
        for c in "abc":
            assert (value(matrix, f"{a} to {c}") > 0.95) == ((a == "b") == (c == "b"))


def test_examples_without_a_block_stay_in_training_and_are_not_scored():
    acts, prompts = world()
    some = prompts.examples.assign(block=prompts.examples["block"].where(prompts.examples["block"] != "c"))
    table = held_out(acts, LabelledPrompts("world", prompts.tokens, prompts.lengths, some), "at", "block", RidgeProbe(),
                     SITE)
    pooled = table[(table["subset"] == "block held out") & (table["metric"] == "r2") & table["control"].isna()]
    n_test = ((some["split"] == "test") & some["block"].notna()).sum()
    assert pooled["n_groups"].item() == n_test and not table["subset"].str.contains("=c").any()


def test_what_another_set_of_prompts_adds_to_every_state_is_taken_out_by_centring():
    (acts, prompts), (others, other_prompts) = world(0), world(1, shift=2.0)
    table = transfer(acts, prompts, others, other_prompts, "at", RidgeProbe(), SITE, "shifted")
    assert value(table, "to shifted, centred") > 0.95 > value(table, "to shifted") + 0.3


def test_groups_that_were_fitted_on_are_not_scored_elsewhere():
    acts, prompts = world()
    swapped = {"train": "test", "test": "train", "validation": "validation"}
    turned = prompts.examples.assign(split=prompts.examples["split"].map(swapped))
    other = LabelledPrompts("world", prompts.tokens, prompts.lengths, turned, classes=prompts.classes)
    with pytest.raises(ValueError, match="every test group of 'turned' was fitted on"):
        transfer(acts, prompts, acts, other, "at", RidgeProbe(), SITE, "turned")


def test_all_components_read_as_the_states_do_and_two_hold_a_plane():
    acts, prompts = world()
    table = in_components(acts, prompts, "at", RidgeProbe(), SITE)
    kept = [value(table, f"{k} components") for k in (1, 2, 4, 8, D)]
    whole = scores(acts, prompts, "at", RidgeProbe(), SITE, extra={"mse": lambda t, a: ((t - a) ** 2).mean(1)})
    all_of_them = in_components(acts, prompts, "at", RidgeProbe(), SITE, [D],
                                extra={"mse": lambda t, a: ((t - a) ** 2).mean(1)})
    assert kept[0] < 0.9 and min(kept[1:]) > 0.99
    assert value(whole, "all", metric="mse") == pytest.approx(value(all_of_them, f"{D} components", metric="mse"),
                                                              rel=1e-3)


def test_shortcuts_of_the_task_are_scored_on_the_same_rows():
    acts, prompts = world()
    guess = (prompts.examples["at/x"] + prompts.examples["at/y"] > 0).astype(int)
    cut = replace(prompts, examples=prompts.examples.assign(**{"guess/": guess}), shortcuts={"side": ("guess",)})
    right, test = guess == prompts.examples["side/"], prompts.rows("test")
    tables = {"block held out": held_out(acts, cut, "side", "block", MassMeanProbe(), SITE),
              "2 components": in_components(acts, cut, "side", MassMeanProbe(), SITE),
              "to other, centred": transfer(acts, cut, acts, cut, "side", MassMeanProbe(), SITE, "other")}
    for subset, table in tables.items():
        assert value(table, subset, "shortcut:guess", "accuracy") == pytest.approx(right[test].mean())
        (row,) = table[(table["subset"] == subset) & (table["control"] == "shortcut:guess")
                       & (table["metric"] == "accuracy")].itertuples()
        assert pd.isna(row.probe) and pd.isna(row.layer)


def test_errors_say_what_is_there():
    acts, prompts = world()
    with pytest.raises(KeyError, match="no column .country. to hold out by; they have prompt, pos, group"):
        held_out(acts, prompts, "at", "country", RidgeProbe(), SITE)
    one = LabelledPrompts("world", prompts.tokens, prompts.lengths, prompts.examples.assign(block="a"))
    with pytest.raises(ValueError, match="block is 'a' in every example"):
        held_out(acts, one, "at", "block", RidgeProbe(), SITE)
    renamed = prompts.examples.rename(columns={"at/y": "at/z"})
    with pytest.raises(ValueError, match=r"targets \['x', 'y'\] in one set of prompts and \['x', 'z'\]"):
        transfer(acts, prompts, acts, LabelledPrompts("world", prompts.tokens, prompts.lengths, renamed), "at",
                 RidgeProbe(), SITE, "renamed")
