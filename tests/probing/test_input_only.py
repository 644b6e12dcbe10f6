import numpy as np
import pandas as pd
import pytest
import torch

import tasks
from probing import LogisticProbe, bootstrap_mean, input_features, input_types
from probing._input_only import KINDS
from tasks import LabelledPrompts


def some_prompts(n=40, width=9, n_tokens=7, seed=0, probe_all=True) -> LabelledPrompts:
    """Random tokens 10, 20, ... of random lengths; `fact/now` is a function of the probed token alone."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(1, n_tokens + 1, (n, width)) * 10
    lengths = rng.integers(2, width + 1, n)
    tokens[np.arange(width) >= lengths[:, None]] = 0  # padding
    prompt = np.repeat(np.arange(n), lengths if probe_all else 1)
    pos = np.concatenate([np.arange(k) for k in lengths]) if probe_all else lengths - 1
    examples = pd.DataFrame({"prompt": prompt, "pos": pos, "group": prompt, "split": tasks.split_by_group(prompt)})
    examples["fact/now"] = (tokens[prompt, pos] // 10) % 3
    return LabelledPrompts("toy", torch.from_numpy(tokens), torch.from_numpy(lengths), examples, {"fact": tuple("abc")})


@pytest.mark.parametrize("probe_all", [True, False])
def test_the_bag_counts_each_token_of_the_prefix_and_no_padding(probe_all):
    prompts = some_prompts(probe_all=probe_all)
    tokens = prompts.tokens.numpy()
    prefixes = [tokens[i, : t + 1] for i, t in zip(prompts.examples["prompt"], prompts.examples["pos"], strict=True)]
    ids = np.unique(np.concatenate(prefixes))
    assert 0 not in ids
    np.testing.assert_array_equal(input_features(prompts), [[(p == v).sum() for v in ids] for p in prefixes])


def test_blocks_of_examples_add_up_to_the_whole(monkeypatch):
    prompts = some_prompts()
    whole = input_features(prompts)
    monkeypatch.setattr("probing._input_only._CELLS", 50)
    np.testing.assert_array_equal(input_features(prompts), whole)


@pytest.mark.parametrize("kind", KINDS)
def test_sparse_features_equal_the_full_ones(kind):
    prompts = some_prompts()
    features = input_features(prompts, kind)
    assert features.dtype == np.float32 and features.any(0).all()
    np.testing.assert_array_equal(input_features(prompts, kind, sparse=True).toarray(), features)
    if kind != "bag_of_tokens":
        np.testing.assert_array_equal(features, np.eye(features.shape[1])[input_types(prompts, kind)])


def test_a_pair_is_a_token_at_a_place():
    prompts = some_prompts()
    token, position, pair = (input_types(prompts, kind) for kind in ("token", "position", "token_position"))
    seen = pd.DataFrame({"token": token, "position": position, "pair": pair}).drop_duplicates()
    assert seen["pair"].is_unique and not seen[["token", "position"]].duplicated().any()


def test_neighbours_are_those_of_the_same_prompt_and_never_padding():
    prompts = some_prompts()
    tokens, lengths = prompts.tokens.tolist(), prompts.lengths.tolist()
    for kind, step in (("previous_token", -1), ("next_token", 1)):
        there = [tokens[i][t + step] if 0 <= t + step < lengths[i] else -1
                 for i, t in zip(prompts.examples["prompt"], prompts.examples["pos"], strict=True)]
        np.testing.assert_array_equal(input_types(prompts, kind), np.unique(there, return_inverse=True)[1])


def test_a_label_of_the_current_token_is_no_news_above_the_token_baseline():
    """Card section 10: probe minus baseline is 0 within 2 SE when the label is a function of the probed token."""
    prompts = some_prompts(n=300)
    tokens, rng = input_features(prompts, "token"), np.random.default_rng(1)
    states = tokens @ rng.normal(size=(tokens.shape[1], 16)) + 0.1 * rng.normal(size=(len(tokens), 16))
    y, train, test = prompts.labels("fact"), prompts.rows("train"), prompts.rows("test")
    hits = [LogisticProbe(C=100.0).fit(X[train], y[train]).predict(X[test])[:, 0] == y[test, 0]
            for X in (states, tokens)]
    above, low, high = bootstrap_mean(hits[0].astype(float) - hits[1], prompts.examples["group"].to_numpy()[test])
    assert hits[1].mean() == 1 and low <= 0 <= high and abs(above) < 0.02


def test_what_cannot_be_built_says_what_to_do():
    with pytest.raises(ValueError, match="one of token, previous_token"):
        input_features(some_prompts(), "words")
    with pytest.raises(ValueError, match="one of token, previous_token"):
        input_types(some_prompts(), "bag_of_tokens")


def test_a_full_array_beyond_the_limit_is_refused_with_the_sparse_way_out(monkeypatch):
    monkeypatch.setattr("probing._input_only.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="sparse=True"):
        input_features(some_prompts())
