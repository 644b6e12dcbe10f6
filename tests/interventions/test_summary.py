"""Effects at a glance, and edits that say what they are."""

import numpy as np
import pytest
import torch

import interventions
from probing import Subspace
from probing._results import results_frame

WHO = {"task": "toy", "model": "m", "label": "end", "probe": "lda.write", "intervention": "steer",
       "stream": "resid_post", "layer": 1, "layer_end": 1, "unit": "sd", "positions": "last", "split": "report",
       "subset": "all", "n": 40}


def table(at_two=0.9):
    def scored(value, half=0.05, **row):
        return WHO | {"value": value, "ci_low": value - half, "ci_high": value + half} | row

    rows = [scored(0.0, 0.0, metric=metric, control="null") for metric in ("flip_rate", "kl")]
    for alpha, value in {1.0: 0.2, 2.0: at_two}.items():
        rows += [scored(value, metric="flip_rate", alpha=alpha), scored(0.1 * alpha, metric="kl", alpha=alpha),
                 scored(0.3, 0.2, metric="flip_rate", alpha=alpha, control="random_direction", n=20),
                 scored(0.5, metric="kl", alpha=alpha, subset="unrelated")]
    return results_frame(rows)


def test_every_dose_stands_beside_its_band_and_its_price():
    found = interventions.summary(table())
    assert found["alpha"].tolist() == [1, 2] and found["beyond"].tolist() == [False, True]
    assert (found["random_low"], found["random_high"])[1].tolist() == [0.5, 0.5]
    assert found["null"].tolist() == [0, 0] and found["kl"].tolist() == [0.1, 0.2]
    assert interventions.main_metric(table()) == "flip_rate"
    assert interventions.summary(table(), "kl")["beyond"].isna().all()  # no band was measured


def test_what_cannot_be_summed_up_is_said():
    with pytest.raises(ValueError, match="no reported edit was measured by 'iia'; there are flip_rate, kl"):
        interventions.summary(table(), "iia")
    with pytest.raises(ValueError, match="what interventions.effect returns"):
        interventions.main_metric(table()[:0])


def test_edits_and_erasers_say_what_they_are():
    v, mean = torch.ones(3), torch.zeros(3)
    assert repr(interventions.steer(v, 2.0)) == "<steer by 2: one for all cases, 3 wide>"
    assert repr(interventions.move_to(v, torch.zeros(7))) == "<move_to, 1 of the way: 7 cases, 3 wide>"
    both = interventions.compose(interventions.project_out(v, mean), interventions.patch_from(mean))
    assert repr(both) == "<project_out to the mean then patch the whole state: one for all cases, 3 wide>"
    assert repr(interventions.reflect(v, mean)).startswith("<reflect:")
    eraser = interventions.Eraser.onto(Subspace.spanned_by(v[None]))
    assert repr(eraser) == "Eraser(rank 1 of 3)" and repr(eraser.edit()).startswith("<erase by Eraser(rank 1 of 3):")
    X, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 2
    assert repr(interventions.LEACE.fit(X, y)) == "LEACE(rank 1 of 3)"
    assert "tensor" not in repr(interventions.QuadraticLEACE.fit(X, y))
