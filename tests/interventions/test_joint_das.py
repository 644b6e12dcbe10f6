import numpy as np
import pytest
import torch

from interventions import LastToken, Sequences, patch_from
from interventions._joint import Spot, joint_arm
from interventions._joint_das import fit_joint_das
from probing import load_model
from tasks import decoy

SITE = Spot("resid_post", decoy.PLANTED_LAYER)


@pytest.fixture(scope="module")
def swapped():
    """(model, cases, activations of the twins that ask for the other end)."""
    model, cases, pairs = load_model("decoy"), decoy.cases("end", 120), decoy.pairs(120)
    _, acts = LastToken(model, pairs.corrupted, pairs.lengths).logits(read=[SITE.site])
    return model, cases, {SITE: acts[SITE.site]}


def test_the_planted_direction_is_found(swapped):
    model, cases, sources = swapped
    run = LastToken.of(model, cases)
    found = fit_joint_das(run, cases, sources, steps=160, seed=1)
    planted = decoy.planted()["end"]
    assert abs(float(found.spaces[SITE].basis[0] @ planted)) > 0.75  # of random directions 0.1
    logits = run.logits(joint_arm(run, {SITE: patch_from(sources[SITE], found.spaces[SITE].basis[None])}, [-1]))
    report = (cases.cases["split"] == "report").to_numpy()
    right = cases.right_after[np.arange(120), logits.argmax(-1).numpy()]
    assert right[report].mean() > 0.9
    assert found.history["validation"].min() < found.history["validation"].iloc[0] + 1e-9


def test_several_spots_are_learned_together_and_the_model_stays_as_it_was(swapped):
    model, cases, sources = swapped
    run = Sequences.of(model, cases)
    other = Spot("resid_post", decoy.PLANTED_LAYER, part=1)
    before = run.logits()
    both = sources | {other: torch.zeros_like(sources[SITE])}
    found = fit_joint_das(run, cases, both, [-1, 0], rank=2, steps=2, batch_size=8)
    for space in found.spaces.values():
        torch.testing.assert_close(space.basis @ space.basis.T, torch.eye(2), atol=1e-5, rtol=0)
    assert torch.equal(run.logits(), before) and list(found.spaces) == [SITE, other]
    with pytest.raises(ValueError, match="rank must be between"):
        fit_joint_das(run, cases, sources, rank=10_000)
