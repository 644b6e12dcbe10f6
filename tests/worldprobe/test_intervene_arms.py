"""Every edit of `worldprobe intervene` does what its words say, for labels of two classes and of three."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats.contingency import association

from interventions import reflect
from probing import Site
from tasks import Counterfactuals, LabelledPrompts
from worldprobe._intervene_arms import POSSIBLE, READERS, VERBS, Method, erasers, methods, readers, suitable
from worldprobe._intervene_bench import other_prompts
from worldprobe._intervene_erasers import ERASERS, cramers_v, kept_labels, random_erasure, seconds, whole_eraser
from worldprobe._intervene_handles import Handles, network, site_arrays

SITE, D = Site("resid_post", 0), 10


@pytest.fixture(scope="module", params=[(2, 1), (3, 4)], ids=["two classes", "four targets of three"])
def world(request):
    """(prompts, their activations, cases, handles) of a label with so many classes and targets."""
    n_classes, n_targets = request.param
    rng, n, m = np.random.default_rng(0), 600, 40
    Y = rng.integers(0, n_classes, (n, n_targets))
    patterns = rng.normal(size=(n_targets, n_classes, D))
    X = patterns[np.arange(n_targets), Y].sum(1) + 0.5 * rng.normal(size=(n, D)) @ rng.normal(size=(D, D))
    split = np.where(np.arange(n) < 500, "train", np.where(np.arange(n) < 550, "validation", "test"))
    names = [f"t{i}" for i in range(n_targets)]
    examples = pd.DataFrame({"prompt": np.arange(n), "pos": 1 + np.arange(n) % 2, "group": np.arange(n),
                             "split": split} | {f"state/{t}": Y[:, i] for i, t in enumerate(names)}
                            | {"other/whole": (Y[:, 0] + (rng.random(n) < 0.3)) % 2, "twin/whole": Y[:, 0]})
    prompts = LabelledPrompts(task="toy", tokens=torch.randint(1, 9, (n, 3)), lengths=torch.full((n,), 3),
                              examples=examples, classes={"state": tuple("abc"[:n_classes]), "other": tuple("xy"),
                                     "twin": tuple("abc"[:n_classes])})
    target, was = rng.integers(0, n_targets, m), rng.integers(0, n_classes, m)
    table = pd.DataFrame({"prompt": np.arange(m), "target": [names[t] for t in target], "was": was,
                          "becomes": (was + 1) % n_classes, "group": np.arange(m), "split": "report"})
    answers = np.zeros((m, 9), bool)
    cases = Counterfactuals(task="toy", kind="drawn", scheme="state", tokens=prompts.tokens[:m],
                            lengths=prompts.lengths[:m], cases=table, right_before=answers, right_after=answers)
    train = prompts.rows("train")
    fitted = {name: probe.fit(X[train], Y[train] if n_targets > 1 else Y[train][:, 0])
              for name, probe in READERS.items()}
    weights = {SITE: site_arrays(X, prompts, "state", fitted, range(n_targets), 0, ERASERS)}
    source = torch.from_numpy(rng.normal(size=(m, D))).float()
    return prompts, X, cases, Handles(cases, weights, names, lambda site: source), source


def edited(world, verb: str, direction: str, alpha: float, x=None):
    *_, cases, handles, source = world
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(len(cases), D))).float() if x is None else x
    return x, Method(verb, direction).edit(handles)(SITE, alpha)(x, torch.arange(len(x)))


def reading(world, x, direction: str):
    read, _ = world[3].pair(SITE, direction)
    return (x.double() * torch.from_numpy(read)).sum(1)


@pytest.mark.parametrize("direction", [d for d in POSSIBLE if not d.endswith("pair")])
def test_steering_once_moves_the_mean_of_the_old_class_onto_that_of_the_new(world, direction):
    handles = world[3]
    means = handles.weights[SITE]["means"]
    old, new = (torch.from_numpy(means[handles.target, codes]).float() for codes in (handles.was, handles.becomes))
    _, moved = edited(world, "steer", direction, 1.0, old)
    torch.testing.assert_close(reading(world, moved, direction), reading(world, new, direction), atol=1e-3, rtol=1e-4)
    x, moved = edited(world, "steer", direction, 0.5)
    _, write = handles.pair(SITE, direction)
    assert torch.cosine_similarity((moved - x).double(), torch.from_numpy(write)).abs().min() > 0.999


@pytest.mark.parametrize("direction", POSSIBLE)
def test_moving_all_the_way_reads_as_the_mean_of_the_new_class_and_patching_as_the_source(world, direction):
    handles, source = world[3], world[4]
    goal = torch.from_numpy(handles.weights[SITE]["means"][handles.target, handles.becomes])
    for verb, wanted in (("move_to", goal), ("patch", source)):
        x, moved = edited(world, verb, direction, 1.0)
        there = reading(world, wanted, direction)
        torch.testing.assert_close(reading(world, moved, direction), there, atol=1e-3, rtol=1e-3)
        _, half = edited(world, verb, direction, 0.5)
        torch.testing.assert_close(half, (x + moved) / 2, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("direction", [d for d in POSSIBLE if not d.endswith("pair")])
def test_projecting_out_leaves_the_reading_of_the_mean_in_every_case(world, direction):
    _, moved = edited(world, "project_out", direction, 1.0)
    mean = torch.from_numpy(world[3].weights[SITE]["mean"])[None]
    torch.testing.assert_close(reading(world, moved, direction), reading(world, mean, direction), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("direction", POSSIBLE)
def test_reflecting_mirrors_the_reading_at_the_midpoint_of_the_class_means(world, direction):
    handles = world[3]
    means = handles.weights[SITE]["means"]
    middle = torch.from_numpy(means[handles.target, handles.was] + means[handles.target, handles.becomes]) / 2
    x, moved = edited(world, "reflect", direction, 1.0)
    there = reading(world, middle, direction)
    torch.testing.assert_close(reading(world, moved, direction) - there, there - reading(world, x, direction),
                               atol=1e-3, rtol=1e-3)
    _, half = edited(world, "reflect", direction, 0.5)
    torch.testing.assert_close(reading(world, half, direction), there, atol=1e-3, rtol=1e-3)
    if direction == "mass_mean.write":  # one direction to read and to move along: the orthogonal reflection
        read = torch.from_numpy(handles.pair(SITE, direction)[0])
        torch.testing.assert_close(moved, reflect(read, middle)(x.double(), torch.arange(len(x))).float(), atol=1e-4,
                                   rtol=1e-4)


def test_a_gradient_edit_moves_the_target_of_every_case_and_its_probe_survives_the_disk(world):
    prompts, X, cases, handles, _ = world
    x = torch.from_numpy(X[: len(cases)]).float()
    _, moved = edited(world, "gradient", "mlp", 0.9, x)
    probe = network(handles.weights[SITE], "mlp")
    np.testing.assert_allclose(probe.logits(X), world_probe(prompts, X).logits(X), atol=1e-5)
    now = probe.logits(moved.numpy())[np.arange(len(x)), handles.target]
    sure = np.exp(now - np.logaddexp.reduce(now, axis=1, keepdims=True))[np.arange(len(x)), handles.becomes]
    assert np.median(sure) >= 0.9 and (sure > 0.5).mean() > 0.95  # some are still on their way


def world_probe(prompts, X):
    train, Y = prompts.rows("train"), prompts.labels("state")
    return READERS["mlp"].fit(X[train], Y[train] if Y.shape[1] > 1 else Y[train][:, 0])


@pytest.mark.parametrize("kind", ["leace", "splince"])
def test_closed_form_erasers_make_the_class_means_of_their_target_equal_on_the_rows_they_were_fitted_on(world, kind):
    prompts, X, _, handles, _ = world
    train, Y = prompts.rows("train"), prompts.labels("state")
    case = 0
    rows = torch.from_numpy(X[train]).float()
    edit = Method(kind, kind).edit(handles)(SITE, 1.0)
    erased = edit(rows, torch.full((len(rows),), case)).numpy()
    codes = Y[train][:, handles.target[case]]
    means = np.stack([erased[codes == c].mean(0) for c in np.unique(codes)])
    np.testing.assert_allclose(means, np.broadcast_to(means[0], means.shape), atol=1e-4)
    assert (handles.ranks(SITE, kind) == len(means) - 1).all()
    own = whole_eraser(handles.weights[SITE], kind, handles.target[case])
    np.testing.assert_allclose(own.transform(X[train]), erased, atol=1e-3)
    if kind == "splince":
        names = prompts.targets("state")
        for column in kept_labels(prompts, "state")[names[handles.target[case]]]:
            y = prompts.examples[column].to_numpy()[train]
            for c in np.unique(y):  # what is linearly known of a kept label stays
                np.testing.assert_allclose(erased[y == c].mean(0) - erased.mean(0), X[train][y == c].mean(0)
                                           - X[train].mean(0), atol=1e-4)


@pytest.mark.parametrize("kind", ["inlp", "rlace"])
def test_searched_erasers_leave_less_to_read_than_before_and_than_random_subspaces_of_their_rank(world, kind):
    prompts, X, _, handles, _ = world
    train, test, Y = prompts.rows("train"), prompts.rows("test"), prompts.labels("state")[:, handles.target[0]]
    ranks = handles.ranks(SITE, kind)
    random = random_erasure(ranks, handles.weights[SITE]["mean"], np.random.default_rng(0))

    def read(edit):
        erased = edit(torch.from_numpy(X).float(), torch.zeros(len(X), dtype=torch.long)).numpy()
        return READERS["lda"].fit(erased[train], Y[train]).score(erased[test], Y[test])

    found = Method(kind, kind).edit(handles)(SITE, 1.0)
    assert read(found) < min(read(random), read(lambda x, rows: x) - 0.1)
    twice = found(found(torch.from_numpy(X).float(), torch.zeros(len(X), dtype=torch.long)), torch.zeros(
        len(X), dtype=torch.long))
    torch.testing.assert_close(twice, found(torch.from_numpy(X).float(), torch.zeros(len(X), dtype=torch.long)),
                               atol=1e-4, rtol=1e-4)


def test_splince_keeps_other_targets_or_other_labels_but_none_that_says_the_same(world):
    prompts, *_ = world
    kept = kept_labels(prompts, "state")
    if len(kept) == 1:
        assert kept == {"t0": ["other/whole"]}  # `twin` is the label by another name
    else:
        assert set(kept["t1"]) == {"state/t0", "state/t2", "state/t3"}
    lone = replace(prompts, classes={"state": prompts.classes["state"]})
    found = methods(["leace", "splince"], None)
    assert [m.verb for m in suitable(found, prompts, ["state"])] == ["leace", "splince"]
    assert len(suitable(found, lone, ["state"])) == (1 if len(kept) == 1 else 2)


def test_cramers_v_is_that_of_scipy():
    a, b = np.random.default_rng(0).integers(0, 3, (2, 300))
    b = np.where(np.arange(300) < 100, a, b)
    counts = np.array([[((a == i) & (b == j)).sum() for j in range(4)] for i in range(3)])
    assert cramers_v(counts / 300) == pytest.approx(association(counts[:, :3]))
    assert cramers_v(np.eye(2) / 2) == 1 and np.isnan(cramers_v(np.ones((1, 2)) / 2))


def test_erasing_costs_grow_with_targets_and_sites():
    assert seconds([], 60, 6, 128) == 0 < seconds(["leace"], 60, 6, 128) < seconds(["rlace"], 60, 6, 128)
    assert seconds(["inlp"], 60, 6, 128) == pytest.approx(60 * seconds(["inlp"], 1, 6, 128))


def test_other_prompts_hold_what_the_case_is_to_become(world):
    prompts, _, cases, handles, _ = world
    tokens, lengths = other_prompts(prompts, cases, seed=0)
    again, _ = other_prompts(prompts, cases, seed=0)
    assert torch.equal(tokens, again) and tokens.shape == (len(cases), 3) and set(lengths.tolist()) <= {2, 3}
    index = [(prompts.tokens == row).all(1).nonzero()[:, 0].tolist() for row in tokens]
    codes, test = prompts.labels("state"), prompts.rows("test")
    for found, target, becomes in zip(index, handles.target, handles.becomes, strict=True):
        assert any(test[i] and codes[i, target] == becomes for i in found)


def test_controls_are_other_directions_of_the_same_cases(world):
    *_, cases, handles, _ = world
    found = handles.others(0, {"twin": handles})
    assert set(found) == {"shuffled_labels", "other_label:twin"} | (
        {"other_target"} if len(handles.weights[SITE]["means"]) > 1 else set())
    own = handles.contrast(SITE, "means")
    for name, directions in found.items():
        same = np.allclose(directions[SITE].numpy(), own, atol=1e-5)
        assert directions[SITE].shape == own.shape and same == name.startswith("other_label")


def test_methods_pair_every_verb_with_the_directions_that_suit_it():
    found = methods(None, ["mass_mean.write", "lda.pair"])
    assert [m.name for m in found] == [
        "steer-mass_mean.write", "move_to-mass_mean.write", "move_to-lda.pair", "patch-mass_mean.write",
        "patch-lda.pair", "reflect-mass_mean.write", "reflect-lda.pair", "gradient-mlp", "project_out-mass_mean.write",
        "leace", "inlp", "rlace", "splince"]
    assert set(readers(found)) == {"mass_mean", "lda", "mlp"} and set(readers(methods(["leace"], None))) == {"logistic"}
    assert set(readers(methods(["gradient"], None))) == {"logistic", "mlp"}  # a network alone is no verdict
    assert erasers(found) == list(ERASERS) and erasers(methods(["steer"], None)) == []
    assert {m.verb for m in methods(None, None, quick=True)} == set(VERBS)
    assert all(set(v.doses[1]) <= set(v.doses[0]) for v in VERBS.values())
