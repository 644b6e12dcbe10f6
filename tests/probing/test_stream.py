"""Streaming a model into moments: the same sums as from activations read first, in one pass, in any parts."""

import functools

import numpy as np
import pandas as pd
import pytest
import torch

from probing._design import Design, fold_names, one_hot
from probing._extract import extract
from probing._models import load_model
from probing._moments import SUMS
from probing._ridge import RidgeProbe
from probing._scatter import Scatter
from probing._sites import Site
from probing._stream import StreamedMoments, stream
from tasks import LabelledPrompts, split_by_group
from tests.probing.ragged import prompts_of

QUIET = dict(progress=lambda done, total: None)
HELD = ["pos", "kind"]


@pytest.fixture(scope="module")
def model(gpt2_dir):
    return load_model(gpt2_dir)


@pytest.fixture(scope="module")
def prompts() -> LabelledPrompts:
    """Prompts of many lengths with a board of classes, one label missing now and then, and a place in numbers."""
    rng, bare = np.random.default_rng(0), prompts_of(tuple(range(4, 24)), share=0.9)
    n = len(bare)
    labels = pd.DataFrame({f"board/{t}": rng.integers(0, 3, n) for t in "abc"})
    labels["hint/a"] = labels["board/a"]
    labels["seen/x"] = rng.integers(-1, 2, n)
    labels["kind"] = rng.integers(0, 4, n)
    labels["place/north"], labels["place/east"] = 1e4 + rng.normal(size=n), rng.normal(size=n)
    split = split_by_group(bare.examples["group"].to_numpy())
    return LabelledPrompts("ragged", bare.tokens, bare.lengths,
                           pd.concat([bare.examples.assign(split=split), labels], axis=1),
                           classes={"board": tuple("xyz"), "hint": tuple("xyz"), "seen": tuple("ab")},
                           shortcuts={"board": ("hint",)})


@pytest.fixture(scope="module")
def streamed(model, prompts):
    return stream(model, prompts, nuisance=HELD, folds=3, batch_size=6, **QUIET)


def full_design(prompts):
    """All columns written out, the plain way."""
    examples = prompts.examples
    parts = [one_hot(examples[[f"board/{t}"]].to_numpy(), 3) for t in "abc"]
    parts += [one_hot(examples[["seen/x"]].to_numpy(), 2)]
    parts += [(examples[[c]].to_numpy() == np.unique(examples[c])).astype(float) for c in HELD]
    return np.concatenate([*parts, examples[["place/north", "place/east"]].to_numpy()], 1)


def assert_equal(came: Scatter, want: Scatter, rtol=1e-9):
    assert came.n == want.n
    for name in ("x_mean", "y_mean", "xx", "xy", "yy", "fourth"):
        a, b = getattr(came, name), getattr(want, name)
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol * np.abs(b).max() / 10, err_msg=name)


def test_moments_are_those_of_the_activations_in_every_fold_and_of_the_control(model, prompts, streamed):
    acts, Y = extract(model, prompts, cache=False, batch_size=6, **QUIET), full_design(prompts)
    fold, names = fold_names(prompts, 3)
    assert names == ("train/0", "train/1", "train/2", "validation", "test")
    assert len(streamed) == 4 and streamed.random_init is not None and streamed.random_init.random_init is None
    for kept, sums in ((acts, streamed), (acts.random_init, streamed.random_init)):
        for site in kept:
            X = kept[site].double().numpy()
            assert_equal(sums[site].scatter("train"), Scatter.of(X[prompts.rows("train")], Y[prompts.rows("train")]))
            for i, name in enumerate(names):
                assert_equal(sums[site].scatter(name), Scatter.of(X[fold == i], Y[fold == i]))


def test_folds_keep_groups_and_splits_apart(prompts):
    fold, names = fold_names(prompts, 3)
    table = pd.DataFrame({"fold": fold, "group": prompts.examples["group"], "split": prompts.examples["split"]})
    assert (table.groupby("group")["fold"].nunique() == 1).all()
    assert {names[f].split("/")[0] for f in fold} == {"train", "validation", "test"}
    assert all(names[f].startswith(s) for f, s in zip(fold, table["split"], strict=True))
    with pytest.raises(ValueError, match="training groups to 100 folds"):
        fold_names(prompts, 100)


def test_the_dropped_class_is_one_minus_the_others_but_not_where_labels_are_missing(prompts, streamed):
    design = Design.of(prompts, nuisance=HELD)
    every, full = np.arange(len(prompts)), full_design(prompts)
    held = one_hot(design.marks(every), design.n_mark_columns).reshape(len(prompts), len(HELD), -1).sum(1)
    kept = np.c_[design.block(every), held]
    np.testing.assert_array_equal(kept, full[:, design.kept])
    for column in set(design.owner) - {-1}:
        np.testing.assert_array_equal(1 - kept[:, design.owner == column].sum(1), full[:, column])
    assert len(design.columns) == len(design.kept) + len(set(design.owner) - {-1})
    assert {"seen/x=0", "seen/x=1"} <= {design.columns[i] for i in design.kept}
    assert not {"board/a=0", "board/c=0"} & {design.columns[i] for i in design.kept}
    count, _ = streamed[Site("resid_post", 2)].scatter().class_means()
    np.testing.assert_array_equal(count[:11], full_design(prompts)[:, :11].sum(0))  # whole numbers


def test_parts_add_up_to_the_whole_and_the_same_parts_to_the_same_bits(model, prompts, streamed, tmp_path):
    arguments = dict(nuisance=HELD, folds=3, batch_size=6, **QUIET)
    parts = [stream(model, prompts, part=(i, 3), **arguments) for i in range(3)]
    for i, part in enumerate(parts):  # as three workers would
        part.save(tmp_path / str(i))
    read = [StreamedMoments.load(tmp_path / str(i)) for i in (0, 1, 2)]
    here, there = (functools.reduce(StreamedMoments.merge, some) for some in (parts, read))
    for site in streamed:
        assert all(torch.equal(getattr(here[site], name), getattr(there[site], name)) for name in SUMS)
        for control in (False, True):
            came, want = ((s.random_init if control else s)[site] for s in (there, streamed))
            assert_equal(came.scatter("train"), want.scatter("train"), 1e-5)  # other batches round differently
    with pytest.raises(ValueError, match="choose fewer parts"):
        stream(model, prompts, part=(50, 60), **arguments)
    with pytest.raises(ValueError, match="same sites"):
        parts[0].merge(StreamedMoments({}))


def test_probes_solve_from_what_was_streamed(model, prompts, streamed):
    site, train = Site("resid_post", 1), prompts.rows("train")
    X = extract(model, prompts, [site], cache=False, batch_size=6, random_init=None, **QUIET)[site].double().numpy()
    Y = prompts.examples[["place/north", "place/east"]].to_numpy()
    rows = RidgeProbe().fit(X[train], Y[train], fold_names(prompts, 3)[0][train])
    road = RidgeProbe().fit_moments(streamed[site], "place")
    np.testing.assert_array_equal(road.alpha_, rows.alpha_)
    np.testing.assert_allclose(road.coef_, rows.coef_, rtol=1e-6, atol=1e-9)


def test_sites_of_other_widths_stream_beside_each_other(model, prompts):
    sites = [Site("resid_post", 0), Site("mlp_post", 0), Site("z", 1, head=2)]
    moments = stream(model, prompts, sites, ["place"], random_init=None, folds=2, **QUIET)
    assert [moments[s].d_model for s in sites] == [32, 128, 8]
    assert moments[sites[0]].columns == ("place/north", "place/east") and moments.random_init is None


def test_what_cannot_be_summed_is_refused(model, prompts):
    holes = prompts.examples.assign(**{"place/east": np.nan})
    with pytest.raises(ValueError, match="place/east is not finite"):
        stream(model, LabelledPrompts("ragged", prompts.tokens, prompts.lengths, holes), labels=["place"], **QUIET)
    with pytest.raises(ValueError, match="folds name the fold"):
        stream(model, prompts, folds=np.zeros(3), **QUIET)
    with pytest.raises(FileNotFoundError, match="no moments"):
        StreamedMoments.load("/nowhere")
