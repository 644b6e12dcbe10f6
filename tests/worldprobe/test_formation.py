"""The smallest experiments at a tiny size, and a model of our own followed over checkpoints."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm, ttest_1samp
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

import tasks
from probing import Site, load_model
from probing.formation import Curve, coincidences, transitions
from tasks import LabelledPrompts, split_by_group
from tasks._study import Reading, Study
from worldprobe import _cli
from worldprobe import _formation_alignment as alignment
from worldprobe import _formation_known as known
from worldprobe import _formation_two_point as two_point
from worldprobe import _formation_variance as variance
from worldprobe._formation_checks import another_seed
from worldprobe._formation_followed import answer, mean_curve, relation_of, with_gains
from worldprobe._formation_model import follow, follow_one, follow_study, next_token_loss, same_architecture, text_of
from worldprobe._formation_nets import Stack, mlp
from worldprobe._formation_seeds import (
    answers,
    end_aligned,
    follow_seeds,
    names_of,
    orders_of,
    over_seeds,
    seeds_plot,
    step_notes,
    t_interval,
)
from worldprobe._formation_states import angle, dimension, first_groups, weight_changes
from worldprobe._formation_used import codes_of, explained_at, used_rows, written
from worldprobe._run import open_run
from worldprobe._study import study_of

SEEDS = (0, 1)


def test_nets_of_a_stack_train_as_they_would_alone():
    data = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 30, 4, generator=data), torch.randint(3, (2, 30), generator=data)
    rate, decay = torch.tensor([0.1, 0.02]), torch.tensor([0.0, 0.01])
    alone = [mlp((4, 8, 8, 3), nn.Tanh, seed) for seed in SEEDS]
    stack = Stack([mlp((4, 8, 8, 3), nn.Tanh, seed) for seed in SEEDS])
    for _ in range(3):
        loss = cross_entropy(stack(x).flatten(0, 1), y.flatten(), reduction="none").view(2, 30).mean(1)
        stack.sgd(loss, rate, decay)
        for i, net in enumerate(alone):
            optimiser = torch.optim.SGD(net.parameters(), rate[i].item(), weight_decay=decay[i].item())
            optimiser.zero_grad()
            cross_entropy(net(x[i]), y[i]).backward()
            optimiser.step()
    for one, other in zip(stack.written(), alone, strict=True):
        for a, b in zip(one.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b)
    torch.testing.assert_close(stack(x)[1], alone[1](x[1]))
    torch.testing.assert_close(stack.states(x)[1][0], alone[0][:4](x[0]))


def test_one_more_seed_lies_in_its_interval_as_often_as_said():
    draws = norm.rvs(size=(400, 4), random_state=0)
    inside = np.mean([another_seed("", d[3], d[:3], digits=9)["pass"] for d in draws])
    assert inside == pytest.approx(0.95, abs=0.035)
    assert another_seed("", 0.504, [0.5, 0.5, 0.5])["pass"]  # equal up to the two digits of a card


def test_every_experiment_has_its_checks_and_its_section_at_any_size():
    aligned, pair = alignment.measure(SEEDS, (0, 1, 2), (0.0, 5e-3)), two_point.measure(SEEDS, most_steps=40)
    shares, numbers = variance.measure(SEEDS, steps=5), known.measure(SEEDS, n_cube=200)
    found = [*alignment.checks(aligned, alignment.identities(SEEDS[:1])), *two_point.checks(pair),
             *variance.checks(shares), *known.checks(numbers)]
    assert all({"what", "paper", "ours", "ci_low", "ci_high", "pass_mark", "pass"} <= set(check) for check in found)
    by_name = {check["what"]: check for check in found}
    for name in ("H_out = W H_in W^T and G_in = W^T G_out W, largest relative difference",
                 "h at the end, closed form", "closed form minus the equations, followed to the end",
                 "linear CKA of independent Gaussians of 512 dimensions: biased"):
        assert by_name[name]["pass"], name
    assert json.loads(json.dumps(found)) == found
    assert not by_name["both outputs right"]["pass"]  # after 5 steps
    for section in (alignment.section(aligned), two_point.section(pair), variance.section(shares),
                    known.section(numbers)):
        assert section.exhibits
    start = aligned["alignments"].query("step == 0 and decay == 0")
    assert (start[(start["side"] == "out") & (start["relation"] == "RWA")]["value"] > 0.5).all()


STEPS, N = (0, 2, 4, 8, 16, 32), 90


def save(folder):
    """Blocks that start as the identity, so that most matrices are zero at step 0, and turn on around step 6."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=20, n_positions=6, bos_token_id=0,
                                       eos_token_id=0, tie_word_embeddings=False))
    end = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in STEPS:
        on = 1 / (1 + (6 / step) ** 4) if step else 0.0
        for name, p in model.named_parameters():
            p.data = end[name] * (on if "c_proj.weight" in name else 1.0)
        model.save_pretrained(folder / "checkpoints" / f"step-{step:06d}")
    return folder


def prompts(n, seed):
    rng = np.random.default_rng(0)
    tokens, lengths = rng.integers(0, 20, (N, 6)), np.where(np.arange(N) % 2, 6, 4)
    row = np.arange(N)
    examples = pd.DataFrame({"prompt": row, "pos": lengths - 1, "group": row, "split": split_by_group(row, seed),
                             "first/token": tokens[:, 0] % 2})
    return LabelledPrompts("toy", torch.from_numpy(tokens), torch.from_numpy(lengths), examples,
                           classes={"first": ("a", "b")})


STUDY = Study("toy", "{model}", "?", "toy", None, [Reading("first", "first", "whether the first token is odd", prompts,
                                                           followed=True, groups="prompts")])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("formation")
    run = open_run(path / "run", {"model": "toy"})
    return path, *follow_one(run, STUDY, save(path), {"first": prompts(N, 0)}, 0, True)


def test_a_model_is_followed_and_says_which_is_first(folder):
    path, report, found = folder
    text = report.read_text()
    assert "Behaviour, probes and alignments over training" in text and "out-RGA" in text
    log = (path / "run" / "run.log").read_text()
    assert "first does not grow in training, so nothing leads or follows it." in log  # it was there at step 0
    assert "Layer by layer" in text and "first: does it rotate or appear?" in text and "What moved" in text
    assert "Explained, readable, used" in text and "the study changes nothing that is read here" in text
    assert set(found.headlines) <= set(found.answers)
    again = open_run(path / "run", {"model": "toy"})
    assert follow_study(again, STUDY, path, {"first": prompts(N, 0)}, 0, True) == report
    assert (path / "run" / "run.log").read_text().count("done before") == 5 * len(STEPS) + 2


def test_seeds_say_what_all_of_them_say(folder):
    """One run twice agrees with itself; a seed that is turned round does not, and lags have an interval over seeds."""
    found = dict.fromkeys(("a", "b"), folder[2])
    orders = orders_of(found)
    over = over_seeds(orders)
    assert (over["verdict"] == "nothing to lead").all()  # the label is there at step 0
    assert answers(found, orders, over)["first"].endswith("In all 2 seeds all six alignments have nothing to lead.")
    assert "2 seeds are too few for a claim" in end_aligned(over)
    assert len(seeds_plot(found, orders).axes[0].get_yticklabels()) == 7  # a probe and the six
    lags = {"a": -0.5, "b": -0.3, "c": -0.4}
    three = pd.concat([orders[orders["seed"] == "a"].assign(seed=name, order="leads", half_rise_lag=lag)
                       for name, lag in lags.items()], ignore_index=True)
    agreed = over_seeds(three).iloc[0]
    assert agreed["verdict"] == "leads" and agreed["half_rise_lag"] == pytest.approx(-0.4) and agreed["lag_n"] == 0
    sure = ttest_1samp(list(lags.values()), 0).confidence_interval(0.95)
    assert (agreed["half_rise_lag_low"], agreed["half_rise_lag_high"]) == pytest.approx((sure.low, sure.high))
    three.loc[three["seed"] == "c", "order"] = "follows"
    apart = over_seeds(three).iloc[0]
    assert apart["verdict"] == "seeds disagree" and apart["counts"] == "2 lead, 1 follow"
    assert np.isnan(t_interval(pd.Series([0.2, np.nan]))[1])
    assert step_notes({"a": [0, 8], "b": [0, 8]}) == [] and "different steps" in step_notes({"a": [0, 8], "b": [0]})[0]


def test_seeds_of_one_training_are_one_architecture_and_each_counts_once(folder, tmp_path):
    one = tmp_path / "one"
    shutil.copytree(folder[0] / "checkpoints" / "step-000032", one)
    for name in ("two", "wide"):
        shutil.copytree(one, tmp_path / name)
    with pytest.raises(ValueError, match="two and .*one have the same weights"):
        follow_seeds(tmp_path / "run", [str(one), str(tmp_path / "two")], "decoy")
    with pytest.raises(ValueError, match="n_embd is 16 in .*one and 32 in decoy"):
        follow_seeds(tmp_path / "run", [str(one), "decoy"], "decoy")
    with pytest.raises(ValueError, match="have one task"):
        follow_seeds(tmp_path / "run", ["truthfulness", "truthfulness-1", "decoy"][::2])
    assert not (tmp_path / "run").exists()
    assert names_of(["runs/0/model", "runs/1/model"]) == ["0-model", "1-model"] and names_of(["a", "b/c"]) == ["a", "c"]


def test_a_label_that_explains_and_can_be_read_need_not_be_used(tmp_path):
    """The decoy decides by the end that is asked for; the mark is as plain, and decides nothing."""
    study, _ = study_of("decoy", "decoy")
    study = replace(study, changes=[replace(change, n=60) for change in study.changes])
    data = {r.name: r.load(200, 0) for r in study.readings}
    path = tasks.reference_models()["decoy"]
    used = used_rows(open_run(tmp_path, {"model": "decoy"}), path, study, study.readings, data, 0).set_index("reading")
    assert used["why"].isna().all() and (used["random_low"] <= used["random"]).all()
    assert used.loc["end", "value"] > used.loc["end", "random_high"] + 0.2
    assert used.loc["mark", "value"] <= used.loc["mark", "random_high"] + 0.1
    last = Site("resid_post", load_model(path).cfg.n_layers - 2)
    explained = explained_at(path, study.readings, data, {name: [last] for name in data}).set_index("reading")
    assert (explained["value"] > 10 * explained["chance"]).all() and (explained["targets"] == 1).all()
    assert [change.name for change, _ in written(study, "end")] == ["end"]


def test_numbers_are_binned_evenly_and_classes_are_kept():
    assert np.bincount(codes_of(np.random.default_rng(0).normal(size=80), False)).tolist() == [10] * 8
    assert codes_of(np.array([2, 0, 2]), True).tolist() == [1, 0, 1]


def stages(path):
    return {step: pd.read_parquet(path / "run" / "stages" / f"alignment-{step:06d}.parquet") for step in STEPS}


def test_matrices_of_zeros_align_with_nothing_and_padding_does_not_count(folder):
    aligned = stages(folder[0])
    assert aligned[0].query("part == 0 and relation == 'RWA' and side == 'out'")["value"].isna().sum() == 2  # o and MLP
    assert aligned[32]["value"].notna().all()
    rwa = relation_of(aligned, "out", "RWA")
    layers = aligned[0].query("part == 0 and relation == 'RWA' and side == 'out'").set_index("layer")
    zero = layers.index[layers["value"].isna()]
    of_zero = rwa.values[0][:, [list(rwa.layers).index(layer) for layer in zero]]
    later = aligned[2].query("part == 0 and relation == 'RWA' and side == 'out'").set_index("layer")
    np.testing.assert_allclose(of_zero, np.tile(later.loc[zero, "null"], (len(of_zero), 1)))
    curve = mean_curve(rwa, np.array(STEPS))
    assert curve.values == pytest.approx(rwa.values.mean((1, 2))) and len(curve.draws)
    assert (aligned[0]["n"] == 8 * 5).all()
    both = with_gains(aligned)
    assert set(both["step"]) == set(STEPS) and both.query("step == 0")["gain"].dropna().eq(0).all()
    with pytest.raises(ValueError, match="different layers"):
        with_gains({**aligned, 4: aligned[4].assign(layer="other")})


def test_what_leads_and_what_follows_is_said_with_its_uncertainty():
    """Curves with known steps: a relation before the probe, one after it, one at its time, and one that stays."""
    steps, rng = np.r_[0, 2 ** np.arange(4, 13)], np.random.default_rng(0)
    x = Curve("x", steps, np.arange(10.0)).x

    def curve(name, at):
        line = 0.9 / (1 + np.exp(-8 * (x - np.log10(at)))) if at else 0.3 + 0 * x
        gain = line[:, None] + rng.normal(scale=0.02, size=(10, 30))
        return Curve.of_groups(name, steps, gain, np.ones_like(gain), 200)

    board, flat = curve("board", 200), curve("flat", None)
    six = [curve("early", 50), curve("late", 700), curve("same", 200), flat]
    about = pd.DataFrame(transitions([board, *six]))
    said = answer(coincidences(six, [board]), about)
    assert said.startswith("board is halfway between steps 128 and 256. Of the six alignments 1 "
                           "lead: early (+0.90), halfway between steps 32 and 64. 1 follow: late (+0.90), ")
    assert "halfway between steps 512 and 1,024. 1 cannot be told from it: same (+0.90), halfway" in said
    assert ". 1 do not grow: flat (" in said
    assert answer(coincidences(six, [flat]), about) == "flat does not grow in training, so nothing leads or follows it."


def test_probes_that_read_one_place_are_at_no_angle_and_a_rotation_turns_them():
    rng = np.random.default_rng(0)
    read = rng.normal(size=(3, 1, 32))
    assert angle(read, -2 * read)[0] == pytest.approx(0, abs=1e-5)
    turned = np.linalg.qr(rng.normal(size=(32, 32)))[0]
    mean, chance = angle(read, read @ turned.T)
    assert chance == pytest.approx(np.rad2deg(np.arccos(np.abs(turned[0]).mean())), abs=4) and mean > 65
    three = rng.normal(size=(2, 3, 32))  # three classes read a plane
    assert angle(three, three + rng.normal(size=(2, 1, 32)))[0] == pytest.approx(0, abs=1e-4)
    assert np.isnan(angle(np.zeros((1, 1, 8)), np.zeros((1, 1, 8)))).all()


def test_weights_move_by_their_share_and_those_that_start_at_zero_have_none(folder):
    """Of six matrices the two that write to the stream grow with the step, see `save`."""
    models = {step: load_model(folder[0] / "checkpoints" / f"step-{step:06d}") for step in (0, 16, 32)}
    grown = (1 + (6 / 16) ** 4) / (1 + (6 / 32) ** 4) - 1
    assert weight_changes(models[16], models[32]) == {0: pytest.approx(2 * grown / 6, rel=1e-3)}
    assert weight_changes(models[0], models[32]) == {0: 0.0}


def test_whole_groups_are_kept_in_their_order():
    groups = np.array(["b", "b", "a", "c", "c", "c"])
    assert first_groups(groups, 4).tolist() == [0, 1, 2] and first_groups(groups, 6).tolist() == list(range(6))
    assert first_groups(groups, 1).tolist() == [0, 1, 2]  # two at least


def test_states_that_fill_a_plane_have_two_dimensions_and_one_state_has_none():
    rng = np.random.default_rng(0)
    plane = rng.random((400, 2)) @ rng.normal(size=(2, 16))
    found, low, high, distinct = dimension(np.concatenate([plane, plane]))  # repeated rows count once
    assert low < 2 < high and distinct == 400
    assert np.isnan(dimension(np.ones((50, 16)))[0])


def test_checkpoints_of_two_architectures_are_refused(tmp_path):
    paths = {step: tmp_path / f"step-{step}" for step in (0, 8)}
    for path, width in zip(paths.values(), (16, 32), strict=True):
        path.mkdir()
        (path / "config.json").write_text(json.dumps({"n_embd": width, "n_layer": 1}))
    with pytest.raises(ValueError, match="n_embd is 16 at step 0 and 32 at step 8"):
        same_architecture(paths)


@pytest.mark.parametrize("name, most", [("maze", 0.2), ("space_time", 0.5), ("truthfulness", 1.6)])
def test_the_text_of_a_study_is_what_its_model_was_trained_to_say(name, most):
    """Nats per token; a list of random passages, or the next syllable of a name, cost several."""
    model = load_model(name)
    text = tokens, following, real = study_of(name, name)[0].text(8, 0)
    assert tokens.shape == following.shape == real.shape and (following[~real] == -1).all()
    asked = following >= 0
    inside = asked[:, :-1]
    assert (following[:, :-1][inside] == tokens[:, 1:][inside]).all()
    loss = next_token_loss(model, text)
    assert loss.sum() / asked.sum() < most
    changed = text_of(STUDY, {"first": prompts(N, 0)}, 4, 0)
    assert (changed[1] >= 0).sum(1).tolist() == [3, 5, 3, 5] and (changed[1][:, -1] == -1).all()


def test_what_cannot_be_followed_is_refused(tmp_path):
    with pytest.raises(ValueError, match="say with --task"):
        follow(tmp_path / "run", "no-such-model")
    with pytest.raises(ValueError, match="checkpoints at steps"):
        follow(tmp_path / "run", "decoy-1")
    assert not (tmp_path / "run").exists()


def test_the_experiments_are_a_paper_and_no_task(capsys, tmp_path):
    assert _cli.main(["reproduce", "formation", "--out", str(tmp_path), "--dry-run"]) == 0
    assert "side by side" in capsys.readouterr().out
    assert _cli.main(["run", "formation", "--out", str(tmp_path)]) == 2
    assert "no task 'formation'" in capsys.readouterr().err
