"""A sweep at a glance: no accuracy without its controls, and the site chosen on validation."""

import numpy as np
import pytest
import torch

import probing
from probing._results import results_frame
from probing._summary import as_html, as_text
from probing._views import view

WHO = {"task": "toy <b>", "model": "m", "label": "end", "metric": "accuracy", "subset": "all", "n": 90, "n_groups": 30}
TEST, VALIDATION = {0: 0.9, 1: 0.8, 2: 0.7}, {0: 0.6, 1: 0.95, 2: 0.7}  # layer -> score


def scored(value, half=0.01, **row):
    return WHO | {"value": value, "ci_low": value - half, "ci_high": value + half, "split": "test"} | row


def rows(rival=0.5):
    at = [{"stream": "resid_post", "layer": layer, "layer_end": layer, "probe": "lda"} for layer in range(3)]
    embedding = {"stream": "resid_pre", "layer": 0, "layer_end": 0, "probe": "lda"}
    return results_frame([
        *(scored(TEST[a["layer"]], **a) for a in at), scored(0.55, **embedding),
        *(scored(VALIDATION[a["layer"]], split="validation", **a) for a in at),
        *(scored(0.4 + 0.1 * a["layer"], control="shuffled_labels", **a) for a in at),
        scored(rival, control="shortcut:rule"), scored(0.58, control="input_only", probe="mlp"),
        scored(0.2, control="input_only", probe="lda"), scored(0.99, control="random_init", **at[0] | {"probe": "mlp"}),
        scored(0.99, metric="f1", **at[0])])


def test_the_layer_is_that_of_validation_and_controls_are_at_their_strongest():
    line, = probing.summary(rows()).to_dict("records")
    assert (line["site"], line["value"], line["n_groups"]) == ("resid_post.1", 0.8, 30)
    assert (line["control"], line["control_value"], line["above"]) == ("shuffled_labels", pytest.approx(0.6), True)
    assert line["embedding"] == 0.55 and line["shortcut:rule"] == 0.5
    assert line["input_only"] == 0.58  # what another probe finds in the input is no news either
    assert "random_init" not in line  # another probe's


def test_a_probe_below_its_shortcut_is_said_to_be():
    line, = probing.summary(rows(rival=0.795)).to_dict("records")
    assert (line["control"], line["above"]) == ("shortcut:rule", False)  # the intervals overlap
    text, page = as_text(rows(rival=0.795)), as_html(rows(rival=0.795))
    assert "shortcut: rule 0.795 [0.785, 0.805]" in text and "not above" in text and "not above" in page
    assert "accuracy 0.800 [0.790, 0.810]" in text and "accuracy 0.800 [0.790, 0.810]" in page
    assert "toy &lt;b&gt;" in page and "<b>" not in page


def test_a_sweep_shows_its_summary_and_an_empty_one_says_so():
    sweep = probing.Sweep(rows())
    assert repr(sweep).startswith("Sweep: toy") and "<table" in sweep._repr_html_()
    assert sweep.to_frame() is sweep.rows and len(sweep.summary()) == 1
    assert repr(probing.Sweep(rows()[:0])) == "Sweep: no rows"
    with pytest.raises(ValueError, match="no score of a probe on the test split; it has 1 rows, of metric f1"):
        probing.summary(rows()[-1:])


def test_without_controls_the_summary_says_that_none_was_run():
    bare = rows()
    bare = bare[bare["control"].isna() & (bare["stream"] == "resid_post")]
    assert "none was run" in as_text(bare) and probing.summary(bare)["above"].isna().all()


def test_nobody_offers_a_view_of_that_name():
    with pytest.raises(ImportError, match="no installed package offers 'sing'"):
        view("sing")


def test_directions_and_activations_say_what_they_are():
    space = probing.Subspace(torch.eye(2, 5), probing.Site("resid_post", 3), "end", "lda.write")
    assert repr(space) == "Subspace(rank 2 of 5: lda.write of end at resid_post.3)"
    assert repr(probing.Subspace(torch.eye(2, 5))) == "Subspace(rank 2 of 5)"
    with pytest.raises(ValueError, match="write direction of MassMeanProbe is zero.*probe other sites"):
        _ = probing.MassMeanProbe().fit(np.ones((4, 4)), [0, 0, 1, 1]).write
    probe = probing.MassMeanProbe().fit(np.eye(4), [0, 0, 1, 1])
    assert "MassMeanProbe" in repr(probe) and "MassMeanProbe" in probe._repr_html_()
