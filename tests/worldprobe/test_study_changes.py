"""Changes of a study: the engine agrees with what it is made of, and finds what was planted."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from interventions import LastToken, effect
from interventions._joint import Spot
from probing import Site, class_means, extract, load_model
from probing._results import results_frame, validate
from tasks import decoy
from tasks._study import Change, Part, Reading, Study, codes
from worldprobe._ink import to_svg
from worldprobe._rows import cell, pick
from worldprobe._run import open_run
from worldprobe._study_change_report import (
    change_numbers,
    change_section,
    change_verdicts,
    mediator_part,
)
from worldprobe._study_changes import METRICS, RECOVERED, change_stages, position, slug
from worldprobe._study_directions import CLASS_WAYS, NUMBER_WAYS, PartDirections, class_arrays, number_arrays, ways_of
from worldprobe._study_mediator import mediator_rows

PLANTED = Site("resid_post", decoy.PLANTED_LAYER)


def decoy_study(n: int) -> Study:
    """The latent that decides, written at the last token; of every case the twin that asks for the other end."""
    def cases(n, seed):
        own = decoy.cases("end", n, seed)
        pairs, words = decoy.pairs(n, seed), decoy.WORDS
        text = [" ".join(words[t] for t in row[:k]) for row, k in zip(pairs.corrupted.tolist(), own.lengths.tolist(),
                                                                      strict=True)]
        return replace(own, cases=own.cases.assign(witness=text))

    part = Part("end", -1, lambda c: codes(c, ["answer"], "was"), lambda c: codes(c, ["answer"], "becomes"))
    return Study("decoy", "", "", "decoy", readings=[Reading("end", "end", "the end", decoy.load)],
                 changes=[Change("other end", "the end asked for", cases, {"the last": [part]}, n=n)])


@pytest.fixture(scope="module")
def model():
    return load_model("decoy")


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    """(prompts, study, tables, scans, changes) of a small run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLDPROBE_CACHE", str(tmp_path_factory.mktemp("cache")))
        prompts, study, folder = decoy.load(200), decoy_study(60), tmp_path_factory.mktemp("runs") / "run"
        found = change_stages(open_run(folder, {}), model, study, {"end": prompts}, 0, True)
        again = change_stages(open_run(folder, {}), model, study, {"end": prompts}, 0, True)
        pd.testing.assert_frame_equal(pd.concat(found[0]), pd.concat(again[0]))  # every number is in a stage
        yield prompts, study, *found


def test_the_rows_hold_the_rules_of_the_results(done):
    table = results_frame(pd.concat(done[2]).to_dict("records"))
    validate(table)
    assert set(table["label"]) == {"other end"} and set(table["positions"]) == {"the last"}
    assert set(table["intervention"]) == {"steer", "patch"} and set(table["split"]) == {"report"}
    assert set(done[3]["split"]) == {"choose"}


def test_steering_is_effect_along_the_difference_of_class_means(done, model):
    prompts, study, tables, _, _ = done
    table, cases = pd.concat(tables), study.changes[0].cases(60, 1)
    own = pick(table, intervention="steer", probe="mass_mean.write", metric="set_error", control=None, subset="all")
    own = own[own["alpha"] == 2].iloc[0]
    site = Site(own["stream"], int(own["layer"]))
    X = extract(model, prompts, [site], cache=False, random_init=None)[site].numpy()[prompts.rows("train")]
    means = class_means(X, prompts.labels("end")[prompts.rows("train")], 2)[0]
    way = means[cases.cases["becomes"]] - means[cases.cases["was"]]
    direct = effect(model, cases, {site: torch.from_numpy(way).float()}, alphas=[2.0], unit="class_mean")
    direct = pick(direct, control=None, metric="set_error").iloc[0]
    assert own["value"] == direct["value"] and own["n"] == direct["n"]
    assert own["applied_norm"] == pytest.approx(direct["applied_norm"], rel=1e-4)


def test_what_was_planted_is_found(done):
    """At the planted layer writing the latent flips the answers, random directions of equal norm do not, and the
    patched activation does all that the witness does."""
    _, _, tables, _, changes = done
    rows = pick(pd.concat(tables), metric="flip_rate", subset="solved")
    here = pick(rows, stream=PLANTED.stream, layer=PLANTED.layer)
    own = pick(here, intervention="steer", control=None)["value"].max()
    assert own > 0.9 and pick(here, control="random_direction", intervention="steer")["value"].min() < 0.2
    assert pick(rows, control="told")["value"].min() > 0.95
    assert pick(here, intervention="patch", control=None)["value"].iloc[0] > 0.95
    (changed,) = changes.values()
    cases = changed.cases
    new = cases.right_after[changed.rows]
    assert (changed.after * new).sum(1).mean() > 0.8 > 0.2 > (changed.before * new).sum(1).mean()
    np.testing.assert_allclose(changed.told.sum(1), 1, atol=1e-5)
    assert set(cases.cases["split"].iloc[changed.rows]) == {"report"}


def test_flips_are_of_the_solved_cases(done, model):
    table, cases = pd.concat(done[2]), done[1].changes[0].cases(60, 1)
    solved = cases.right_before[np.arange(60), LastToken.of(model, cases).logits().argmax(-1).numpy()]
    report = (cases.cases["split"] == "report").to_numpy()
    rows = pick(table, metric="flip_rate", control=None, intervention="patch")
    assert set(pick(rows, subset="solved")["n"]) == {(solved & report).sum()}
    assert set(pick(rows, subset="all")["n"]) == {report.sum()}


def test_the_section_says_where_writing_works(done):
    prompts, study, tables, scans, _ = done
    change = study.changes[0]
    table = results_frame(pd.concat(tables).to_dict("records"))
    section = change_section(table, scans, change)
    assert "flips" in section.text[1] and "of 30 cases" in section.text[0]
    assert [e.title for e in section.exhibits] == ["Layers and places", "steer: dose and response"]
    places, controls = section.tables
    own = pick(table, intervention="steer", metric="flip_rate", subset="solved", control=None)
    assert places.shown["answers flipped"].iloc[0] in {cell(row) for _, row in own.iterrows()}
    assert "20 draws" in places.caption and list(controls.shown["arm"][:2]) == [f"steer {places.shown['direction'][0]}",
                                                                              "no edit"]
    for exhibit in section.exhibits:
        assert "<svg" in to_svg(exhibit.picture)
    assert change_section(table[:0], scans, change).text == ["Nothing was written: the study has no cases of it."]


def test_the_planted_span_carries_the_change_and_the_other_one_does_not(model):
    cases, pairs, spot = decoy.cases("end", 80), decoy.pairs(80), Spot("resid_post", decoy.PLANTED_LAYER)
    told, acts = LastToken(model, pairs.corrupted, pairs.lengths).logits(read=[spot.site])
    sign = torch.from_numpy((cases.cases["becomes"] - cases.cases["was"]).to_numpy(copy=True)).float()[:, None]
    written = {f"{name}.write": {spot: sign * v} for name, v in decoy.planted().items()}
    table = mediator_rows(LastToken.of(model, cases), cases, written, {spot: acts[spot.site]}, [-1], told=told,
                          metrics=METRICS, recovered=RECOVERED, subsets={"solved": np.ones(80, bool)}, steps=20,
                          identity={"label": "end", "positions": "last"})
    validate(results_frame(table.to_dict("records")))
    flips = pick(table, intervention="interchange", metric="flip_rate", control=None, subset="all").set_index("probe")
    assert flips.loc["end.write", "value"] > 0.95 > 0.05 > flips.loc["end.write, complement", "value"]
    assert flips.loc["mark.write, complement", "value"] > 0.95 > 0.05 > flips.loc["mark.write", "value"]
    angle = pick(table, intervention="compare", control=None).set_index("probe")["value"]
    assert angle["end.write"] < angle["mark.write"]
    broken = pick(table, intervention="ablate", metric="set_error", control=None, subset="all").set_index("probe")
    assert broken.loc["end.write", "value"] > 0.5 > 0.1 > broken.loc["mark.write", "value"]
    change = Change("end", "the end", lambda n, seed: cases, {})
    part = mediator_part(pick(table, subset="solved"), table, change)
    assert list(part.tables[0].shown["subspace"]) == ["das, rank 1", "end.write", "mark.write"]
    assert mediator_part(table[:0], table[:0], change) is None


def test_a_change_can_be_judged_by_probabilities(done):
    """The same rows, of a change whose first choice is said not to tell."""
    table, change = results_frame(pd.concat(done[2]).to_dict("records")), replace(done[1].changes[0], by="mass_after")
    section = change_section(table, done[3], change)
    assert "all 30 cases are judged by the probability of the new answers" in section.text[0]
    assert "raises the probability of the new answers from" in section.text[1]
    assert "probability of the new answers" in section.tables[0].shown
    (verdict,) = change_verdicts(table, done[3], change)
    assert (verdict.word, verdict.state) == ("is enough", "yes")
    row = change_numbers(table, done[3], change)[0]
    own = pick(table, metric="mass_after", intervention="steer", control=None, subset="all", alpha=row["alpha"])
    assert row["value"] in set(own["value"])


def test_the_verdict_is_of_the_best_place(done):
    table = results_frame(pd.concat(done[2]).to_dict("records"))
    (verdict,) = change_verdicts(table, done[3], done[1].changes[0])
    assert (verdict.word, verdict.state) == ("is enough", "yes")
    assert change_verdicts(table, done[3][:0], done[1].changes[0]) == []
    numbers = change_numbers(table, done[3], done[1].changes[0])
    assert [n["control"] if isinstance(n["control"], str) else None for n in numbers] == [None, "random_direction",
                                                                                         "told"]
    assert numbers[0]["value"] > numbers[1]["ci_high"] and "at the last" in numbers[0]["what"]


def made(n_targets: int, n_classes: int, seed: int = 0):
    """Activations that follow labels along known directions."""
    rng = np.random.default_rng(seed)
    planted = rng.normal(size=(n_targets, n_classes, 12))
    Y = rng.integers(0, n_classes, (600, n_targets))
    X = planted[np.arange(n_targets), Y].sum(1) + 0.1 * rng.normal(size=(600, 12))
    return X, Y, planted


def part_of(before, after, arrays, numeric) -> PartDirections:
    cases = decoy.cases("end", len(before))
    part = Part("r", -1, lambda c: before, lambda c: after)
    return PartDirections(part, cases, [f"t{i}" for i in range(before.shape[1])],
                          {"spread": np.ones(1), **arrays}, numeric)


def test_a_change_of_classes_is_the_sum_over_the_targets_that_change():
    X, Y, planted = made(3, 4)
    before, after = np.array([[0, np.nan, 1], [2, 3, np.nan]]), np.array([[1, np.nan, 2], [2, 0, np.nan]])
    part = part_of(before, after, class_arrays(X, Y, np.zeros(600, int), 4, 0), False)
    wanted = np.stack([planted[0, 1] - planted[0, 0] + planted[2, 2] - planted[2, 1], planted[1, 0] - planted[1, 3]])
    np.testing.assert_allclose(part.written("encoding.write"), wanted, atol=0.15)
    means = class_means(X, Y, 4)
    exact = np.stack([means[0, 1] - means[0, 0] + means[2, 2] - means[2, 1], means[1, 0] - means[1, 3]])
    np.testing.assert_allclose(part.written("mass_mean.write"), exact)
    # along the weights, the class means' projections coincide at dose 1
    one = part_of(before[1:], after[1:], part.arrays, False)
    w, dmu = one.rows("logistic.read")[0, 0], means[1, 0] - means[1, 3]
    assert one.written("logistic.read")[0] @ w == pytest.approx(dmu @ w)
    assert np.abs(part.other_target(0)).sum() > 0 and np.abs(part.shuffled()).max() < np.abs(exact).max()


def test_moving_brings_the_readings_of_all_changed_targets_to_their_class_means():
    X, Y, _ = made(3, 4)
    before, after = np.array([[0, np.nan, 1], [2, 3, np.nan]]), np.array([[1, np.nan, 2], [2, 0, np.nan]])
    part = part_of(before, after, class_arrays(X, Y, np.zeros(600, int), 4, 0), False)
    x, means = torch.from_numpy(X[:2]).float(), class_means(X, Y, 4)
    for way in (w for w in CLASS_WAYS if w.verb == "move_to"):
        moved = part.edit(way, 1.0)(x, torch.arange(2)).numpy()
        read = part.rows("lda.read" if way.direction == "lda.pair" else way.direction)
        np.testing.assert_allclose(moved[0] @ read[0].T, (read[0] * means[[0, 2], [1, 2]]).sum(1), rtol=1e-3, atol=1e-3)


def test_a_change_of_numbers_moves_what_is_decoded():
    rng = np.random.default_rng(0)
    Y, G = rng.normal(size=(400, 2)), rng.normal(size=(2, 10))
    X = Y @ G + 0.05 * rng.normal(size=(400, 10)) + 3
    before, after = Y[:5], Y[:5] + rng.normal(size=(5, 2))
    part = part_of(before, after, number_arrays(X, Y, np.arange(400), 0), True)
    np.testing.assert_allclose(part.written("pattern.write"), (after - before) @ G, atol=0.1)
    W, b = part.arrays["ridge.read"], part.arrays["ridge.intercept"]
    shift = part.written("ridge.inverse")
    np.testing.assert_allclose(shift @ W.T, after - before, atol=1e-6)
    np.testing.assert_allclose(shift @ np.linalg.pinv(W) @ W, shift, atol=1e-6)  # nothing superfluous
    for way in (w for w in NUMBER_WAYS if w.verb == "move_to"):
        moved = part.edit(way, 1.0)(torch.from_numpy(X[:5]).float(), torch.arange(5)).numpy()
        np.testing.assert_allclose(moved @ W.T + b, after, atol=1e-2)


def test_what_cannot_be_written_is_refused():
    X, Y, _ = made(2, 3)
    arrays = class_arrays(X, np.minimum(Y, 1), np.zeros(600, int), 3, 0)
    part = part_of(np.array([[0.0, np.nan]]), np.array([[2.0, np.nan]]), arrays, False)
    with pytest.raises(ValueError, match="never occurs in the training prompts"):
        part.written("mass_mean.write")
    with pytest.raises(ValueError, match="a value per case and target"):
        part_of(np.zeros((2, 2)), np.zeros((2, 1)), arrays, False)
    with pytest.raises(ValueError, match="places of their own"):
        ways_of([True, False], True)
    with pytest.raises(KeyError, match="no position 'nowhere', but none"):
        position(Part("r", "nowhere", codes, codes), decoy.cases("end", 4))
    assert slug("<PATH_START>") == "PATH_START" and slug("last token, 1") == "last-token-1"
