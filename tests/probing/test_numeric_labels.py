"""Labels that are numbers go all the way: prompts, activations, ridge at every site, rows with every control."""

import numpy as np
import pytest

from probing import RidgeProbe, Site, best, extract, load_model, sweep, validate
from probing._sweep import select
from tasks import LabelledPrompts, split_by_group
from tests.probing.ragged import prompts_of

QUIET = dict(progress=lambda done, total: None)
ENDS = [Site("resid_pre", 0), Site("resid_post", 2)]


@pytest.fixture(scope="module")
def prompts() -> LabelledPrompts:
    """A place that the probed token tells, in degrees, and a shortcut that knows half of it."""
    rng, bare = np.random.default_rng(0), prompts_of((12,) * 120, share=1)
    degrees = rng.normal(size=(40, 2)) * [90.0, 30.0]
    token = bare.tokens.numpy()[bare.examples["prompt"], bare.examples["pos"]]
    examples = bare.examples.assign(split=split_by_group(bare.examples["group"].to_numpy()))
    examples[["place/long", "place/lat"]] = degrees[token]
    examples["region/long"], examples["region/lat"] = degrees[token, 0], 0.0
    return LabelledPrompts("ragged", bare.tokens, bare.lengths, examples, shortcuts={"place": ("region",)})


@pytest.fixture(scope="module")
def swept(gpt2_dir, prompts):
    acts = extract(load_model(gpt2_dir, device="cpu"), prompts, ENDS, cache=False, **QUIET)
    return sweep(acts, prompts, log=lambda line: None)


def value(rows, **where):
    found = select(rows, **{"metric": "r2", "split": "test", "subset": "all", **where})
    assert len(found) == 1
    return found["value"].item()


def test_numbers_keep_their_units(prompts):
    assert prompts.labels("place").dtype == np.float64 and np.abs(prompts.labels("place")).max() > 90


def test_numeric_rows_have_every_control_and_are_valid(swept):
    rows = swept.rows
    validate(rows)
    assert set(rows["metric"]) == {"r2", "spearman", "mae"} and set(rows["probe"].dropna()) == {"ridge"}
    per_site = {"", "shuffled_labels", "random_init"}
    for site in ENDS:
        here = rows[(rows["stream"] == site.stream) & (rows["layer"] == site.layer)]
        assert set(here["control"].fillna("")) == per_site
    assert {"majority", "majority_by_position", "input_only", "shortcut:region",
            "best_of_layers_null"} <= set(rows["control"].dropna())
    assert rows.loc[rows["p_value"].notna(), "metric"].unique().tolist() == ["r2"]
    assert rows["p_value"].notna().sum() == len(ENDS)


def test_the_token_is_read_by_probe_and_input_alone_and_not_from_shuffled_labels(swept):
    first = dict(stream="resid_pre", layer=0, probe="ridge")
    assert value(swept.rows, **first) > 0.5 and value(swept.rows, **first, metric="spearman") > 0.7
    assert value(swept.rows, probe="ridge", control="input_only") > 0.99
    assert value(swept.rows, control="majority") == 0
    assert abs(value(swept.rows, control="shortcut:region") - 0.5) < 0.05  # all of one coordinate, none of the other
    assert value(swept.rows, **first, control="shuffled_labels") < 0.05
    assert isinstance(best(swept), RidgeProbe) and best(swept).predict(np.zeros((2, 32))).shape == (2, 2)


def test_a_number_that_is_missing_is_refused_before_any_fit(gpt2_dir, prompts):
    holes = prompts.examples.assign(**{"place/lat": np.nan})
    holed = LabelledPrompts("ragged", prompts.tokens, prompts.lengths, holes)
    acts = extract(load_model(gpt2_dir, device="cpu"), holed, ENDS[:1], cache=False, random_init=None,
                   **QUIET)
    with pytest.raises(ValueError, match="labels of 'place' must be finite numbers or codes"):
        sweep(acts, holed, ["place"])
