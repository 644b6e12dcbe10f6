"""What the study of the maze asks, on small mazes: readings, places of edits, measures, checks, pictures, files."""

import json
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge

from tasks import maze
from tasks._study import Changed, Found, Read
from tasks.maze import _study_checks, _study_measures, _study_pictures
from tasks.maze.study import study

COLUMNS = ["task", "model", "revision", "stream", "layer", "head", "label", "probe", "control", "intervention", "alpha",
           "positions", "metric", "split", "subset", "value", "ci_low", "ci_high", "n", "p_value"]


def tiny(shape):
    return TransformerBridge.boot_native(dict(
        d_model=16, n_layers=2, n_heads=2, d_head=8, d_mlp=32, d_vocab=len(maze.words(shape)), n_ctx=120, act_fn="gelu",
        normalization_type="LN", positional_embedding_type="standard", seed=0, init_weights=True)).eval()


def found(rows=(), **fields):
    table = pd.DataFrame([{"subset": "all", "split": "test", "model": "m"} | row for row in rows], columns=COLUMNS)
    empty = dict(model="m", table=table, transitions=pd.DataFrame(), network=None, config={}, readings={}, changes={})
    return Found(**(empty | fields))


def map_rows(model, value):
    """Of a model whose best layer is 1, with its controls."""
    own = [{"positions": "path_start", "label": "passage", "metric": "accuracy", "probe": "logistic",
            "layer": layer, "stream": "resid_post", "split": split, "value": value - 0.1 * (layer != 1),
            "ci_low": value - 0.12, "ci_high": value, "control": control, "model": model}
           for layer in (0, 1, 2, 3) for split in ("validation", "test") for control in (None, "random_init")]
    return [r | {"value": 0.7} if r["control"] else r for r in own]


FREE = [{"positions": "path_start", "label": "passage", "metric": "accuracy", "control": control, "value": value,
         "ci_low": value, "ci_high": value, "model": None}
        for control, value in (("shortcut:by_degree", 0.82), ("majority", 0.6))]


@pytest.mark.parametrize("options", [{"size": 3, "d_vocab": 20}, {"size": "2x4", "generator": "wilson", "d_vocab": 19}])
def test_readings_and_cases_are_of_the_mazes_that_were_asked_for(options):
    asked = study(**options)
    shape = {3: (3, 3), "2x4": (2, 4)}[options["size"]]
    for reading in asked.readings:
        prompts = reading.load(20, 1)
        assert prompts.task == f"maze-{shape[0]}x{shape[1]}" and reading.label in prompts.schemes
        assert set(reading.subsets) <= set(prompts.subsets)
    items = asked.behaviour.measure(lambda tokens: torch.zeros(*tokens.shape, len(maze.words(shape))), 12, 0)
    assert {*asked.behaviour.metrics, *asked.behaviour.baselines.values(), "n_decisions", "group"} <= set(items)
    for wrong, message in (({"size": "big"}, "size is a side length or rows x columns, such as 6 or 4x6, not 'big'"),
                           ({"size": 1}, "a maze needs at least two cells"), ({"generator": "hedge"}, "there are dfs"),
                           ({"size": 6}, "words for the cells of 5x5 mazes, not of 6x6; take smaller ones, or train"),
                           ({"model": "decoy"}, "is not that of mazes, which is <ADJLIST_START>")):
        with pytest.raises(ValueError, match=message):
            study(**wrong)


def test_smaller_mazes_are_told_in_the_words_of_the_model():
    asked = study(size="2x3")
    for reading in asked.readings:
        prompts = reading.load(20, 1)
        assert list(prompts.vocabulary) == maze.words(5) and prompts.task == "maze"
        names = maze.edge_names((2, 3)) if reading.label != "local" else ["up", "down", "left", "right"]
        assert prompts.targets(reading.label) == names
    mazes = maze.random_mazes(20, (2, 3), seed=4).within(5)
    text = maze.to_text(maze.tokenise(mazes).tokens)
    again = maze.parse(text)
    np.testing.assert_array_equal(again.connections, mazes.connections)
    np.testing.assert_array_equal(again.paths, mazes.paths)
    small = maze.parse(text, (2, 3))  # words of the smaller lattice tell the same mazes
    np.testing.assert_array_equal(small.within(5).paths, mazes.paths)
    for change in asked.changes:
        cases = change.cases(10, 2)
        assert set(cases.cases["target"]) <= set(maze.edge_names((2, 3)))
        for parts in change.places.values():
            for part in parts:
                assert not np.isnan(part.after(cases)).all(1).any()
    with pytest.raises(ValueError, match="mazes of 5x5 do not fit into a lattice of 4x6"):
        mazes.within((4, 6))


@pytest.mark.parametrize("kind", ["add", "remove"])
def test_what_is_written_at_each_place_is_what_the_edited_prompt_says_there(kind):
    asked = study(size=4, d_vocab=27)
    change = next(c for c in asked.changes if c.name == kind)
    cases = change.cases(30, 2)
    names, (told, _) = maze.edge_names((4, 4)), maze.to_ids(cases.cases["witness"].tolist(), 4)
    for text, which in ((cases.tokens, "before"), (told, "after")):
        bodies = [line.split("<ADJLIST_END>")[0] for line in maze.to_text(text, 4)]
        truth = np.array([[any(f"{a} <--> {b} ;" in body for a, b in (name.split("-"), name.split("-")[::-1]))
                           for name in names] for body in bodies])
        slot = torch.as_tensor(cases.cases["pos:slot"].to_numpy(copy=True))
        cells = [text[torch.arange(30), slot - back].numpy() - 11 for back in (3, 1)]
        listed = [names.index("-".join(maze.words(4)[11 + c] for c in sorted(pair)))
                  for pair in zip(*cells, strict=True)]
        for place, parts in change.places.items():
            for part in parts:
                wanted = getattr(part, which)(cases)
                asked_for = ~np.isnan(wanted)
                if place == "path start":
                    assert (asked_for.sum(1) == 1).all() and (wanted == truth)[asked_for].all()
                elif place == "current cell":
                    assert wanted.shape == (30, 4) and (asked_for.sum(1) == 1).all()
                    codes = cases.cases[{"before": "was", "after": "becomes"}[which]]
                    assert wanted[asked_for].tolist() == codes.tolist()
                else:
                    assert (asked_for.sum(1) == 2).all() and (np.nansum(wanted, 1) == 1).all()
                    assert np.nan_to_num(wanted).argmax(1).tolist() == listed


def test_measures_give_rows_with_an_interval_for_heads_and_embeddings():
    model, shape = tiny((3, 3)), (3, 3)

    def sample(n, seed):
        return maze.random_mazes(30, shape, seed=seed)

    for rows in (_study_measures.adjacency(model, 0, sample), _study_measures.gathering(model, 0, sample),
                 _study_measures.embedding(model, 0, shape)):
        assert np.isfinite(rows[["value", "ci_low", "ci_high"]]).all(axis=None)
        assert ((rows["ci_low"] <= rows["value"]) & (rows["value"] <= rows["ci_high"])).all()
        keys = [c for c in ("metric", "layer", "head", "control", "subset") if c in rows]
        assert not rows.duplicated(keys).any()
    assert rows["p_value"].between(0, 1).all() and rows["subset"].tolist()[0] == "all"


def test_the_first_two_checks_hold_and_those_without_rows_are_left_out():
    nothing = found()
    assert _study_checks.generators(nothing)["pass"] and _study_checks.tokens(nothing)["pass"]
    every = _study_checks.checks((5, 5))
    assert len(every) == 15
    for make in every[2:]:
        with pytest.raises(LookupError):
            make(nothing)


def test_a_check_of_heads_takes_one_that_passes_all_three():
    rows, heads = [], [(200, 0.9, 300, 0.001), (5, 0.6, 1.0, 0.3), (1, 0.3, 1.0, 0.8)]
    for head, (contrast, score, null, looks) in enumerate(heads):
        for metric, control, value in (("adjacency_contrast", None, contrast), ("adjacency_score", None, score),
                                       ("adjacency_contrast", "shuffled_maze", null),
                                       ("adjacency_score", "shuffled_maze", 0.3), ("connected_attention", None, looks),
                                       ("connected_attention", "shuffled_maze", 0.1)):
            rows.append({"metric": metric, "control": control, "value": value, "ci_low": value, "ci_high": value,
                         "layer": 4, "head": head})
    made = _study_checks.adjacency_heads(found(rows))
    assert made["pass"] and made["ours"] == 5 and made["what"].startswith("head 1 of layer 4")
    assert made["parts"][-1]["ours"] == 1
    assert not _study_checks.adjacency_heads(found([r for r in rows if r["head"] != 1]))["pass"]


def test_the_map_is_held_against_degrees_and_the_contrast_against_the_map():
    mine = found(map_rows("m", 0.95) + FREE)
    made = _study_checks.single_token_map(mine)
    assert made["pass"] and made["ours"] == 0.95
    assert [p["ours"] for p in made["parts"]] == pytest.approx([0.13, 0.35, -0.12])
    early = _study_checks.early_layer(mine)
    assert early["pass"] and early["ours"] == 1 and len(early["parts"]) == 5
    assert _study_checks.border_metric(mine, (6, 6))["ours"] == pytest.approx(maze.border_inclusive(0.95, 6))
    with pytest.raises(LookupError):
        _study_checks.forkless(mine)
    other = _study_checks.forkless(found(map_rows("m", 0.95) + map_rows("maze-forkless", 0.75) + FREE))
    assert other["pass"] and other["ours"] == pytest.approx(-0.07)
    poor = _study_checks.single_token_map(found(map_rows("m", 0.8) + FREE))
    assert not poor["pass"] and not poor["parts"][0]["pass"]


@pytest.mark.parametrize("size", [3, "2x4", "3 in 4"])
def test_pictures_of_what_was_read_and_changed_are_drawn(size):
    shape = maze.shape_of({3: 3, "2x4": (2, 4), "3 in 4": 4}[size])
    asked = study(size="3x3" if size == "3 in 4" else size, d_vocab=len(maze.words(shape)))
    prompts = asked.readings[0].load(12, 0)
    network = tiny(shape)
    read = Read(prompts, np.arange(5, 12), prompts.labels("passage")[5:12] * 0.9, "logistic, resid_post 1")
    cases = asked.changes[0].cases(10, 3)
    p = cases.right_before / cases.right_before.sum(1, keepdims=True)
    after = cases.right_after / cases.right_after.sum(1, keepdims=True)
    rows = np.flatnonzero(cases.cases["split"] == "report")
    changed = Changed(cases, rows, p[rows].astype(float), after[rows].astype(float), after[rows].astype(float),
                      "current cell", "steer", "lda.pair", "resid_post", 1, 2.0)
    heads = [{"metric": "connected_attention", "value": v, "layer": 1, "head": h} for h, v in ((0, 0.1), (1, 0.2))]
    result = found(heads, network=network, readings={"path_start": read}, changes={"add": changed})
    drawn = _study_pictures.pictures(result)
    assert len(drawn) == 2 + min(2, len(rows)) + 1
    for picture in drawn:
        assert ElementTree.fromstring(picture.svg).get("viewBox").startswith("0 0 ")
    assert "Head 1 of layer 1" in drawn[-1].title
    assert _study_pictures.shows(result).count("#") > 10


def test_a_file_of_your_own_mazes_is_studied_or_refused(tmp_path):
    mazes = maze.random_mazes(60, (3, 4), "wilson", seed=2)
    ends = np.stack([np.stack(np.divmod(e, 4), 1) for e in (mazes.origins, mazes.targets)], 1)
    np.save(tmp_path / "mine.npy", mazes.connections)
    said = {"connections": mazes.connections.astype(int).tolist(), "ends": ends.tolist()}
    (tmp_path / "mine.json").write_text(json.dumps(said))
    (tmp_path / "mine.txt").write_text("\n".join(maze.to_text(maze.tokenise(mazes).tokens, (3, 4))))
    for name in ("mine.npy", "mine.json", "mine.txt"):
        read = maze.read_mazes(tmp_path / name)
        np.testing.assert_array_equal(read.connections, mazes.connections)
        if name != "mine.npy":
            np.testing.assert_array_equal(read.paths, mazes.paths)
    asked = study(mazes=str(tmp_path / "mine.json"), d_vocab=23)
    assert asked.readings[0].load(500, 0).tokens.shape[0] == 60
    names = set(maze.identities(mazes.connections))
    for change in asked.changes:
        assert 0 < len(cases := change.cases(400, 1)) <= 60 and set(cases.cases["group"]) <= names
    said["connections"][3] = said["connections"][3][:1]

    def two(ends):
        return f'{{"connections": [[[[0, 0], [0, 0]], [[1, 0], [0, 0]]]], "ends": [{ends}]}}'

    for name, text, message in (("bad.json", json.dumps(said), "maze 3 is .* maze 0 is .*solve each size by itself"),
                                ("no.json", '{"mazes": []}', "bad.json|no.json is no file of mazes: it has no 'conn"),
                                ("ragged.json", "[[[1, 0], [1]]]", "maze 0 is not two planes of rows and columns"),
                                ("five.json", "5", "five.json is no file of mazes: .*not iterable"),
                                ("empty.json", "[]", "there is no maze; give one"),
                                ("off.json", two('[[0, 0], [2, 0]]'), r"an end of maze 0 lies off its lattice of 2x2"),
                                ("cut.json", two('[[0, 0], [1, 1]]'), r"no passages join \(0,0\) and \(1,1\)"),
                                ("many.json", two("[0, 1], [0, 1]"), r"for 1 mazes; these are \(2, 2\)"),
                                ("bad.txt", "once upon a time", "no line names a cell"),
                                ("start.txt", "<ADJLIST_START> (0,0) <--> (0,1) ; <ADJLIST_END> <ORIGIN_START> (0,0) "
                                 "<ORIGIN_END> <TARGET_START> (0,1) <TARGET_END>", "it has no <PATH_START>"),
                                ("bad.csv", "", r"read from .npy, .json or .txt, not from 'bad.csv'")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            maze.read_mazes(tmp_path / name)


def test_a_model_walks_until_it_says_something_else():
    said = iter([11 + 2, 11 + 3, 7])

    def model(tokens):
        out = torch.zeros(1, tokens.shape[1], 20)
        out[0, -1, next(said)] = 1
        return out

    assert maze.walk(model, torch.tensor([0, 1, 6]), 9) == [2, 3]
    assert maze.walk(lambda tokens: torch.eye(20)[[12] * tokens.shape[1]][None], torch.tensor([6]), 4) == [1] * 4


@pytest.mark.parametrize(("added", "random", "patched", "passes"), [
    (0.6, 0.1, 0.9, (True, True, True)), (0.1, 0.05, 0.9, (True, False, True)), (0.6, 0.3, 0.2, (False, False, False))])
def test_edits_are_judged_at_the_place_and_dose_that_were_chosen(added, random, patched, passes):
    cases, none = study(size=3).changes[0].cases(4, 0), np.zeros((1, len(maze.words(3))))
    where = {"stream": "resid_post", "layer": 1, "split": "report", "subset": "solved"}
    rows, changes = [], {}
    for kind, value in (("add", added), ("remove", 0.2)):
        for place in ("path start", "current cell", "semicolon", "whole passage"):
            edit = {"label": kind, "positions": place, "intervention": "steer", "probe": "mass_mean.write", **where}
            for alpha, control, flips in ((1.0, None, 0.01), (2.0, None, value), (2.0, "random_direction", random),
                                          (2.0, "other_target", random), (None, "told", 0.95)):
                rows.append(edit | {"metric": "flip_rate", "alpha": alpha, "control": control, "value": flips})
            for layer in (0, 1):
                rows.append(edit | {"metric": "flip_rate_recovery", "intervention": "patch", "layer": layer,
                                    "alpha": 1.0, "value": patched + 0.05 * layer})
        changes[kind] = Changed(cases, np.array([0]), none, none, None, "whole passage", "steer", "mass_mean.write",
                                "resid_post", 1, 2.0)
    for row in rows:
        row |= {"ci_low": row["value"] - 0.02, "ci_high": row["value"] + 0.02}
    result = found(rows + map_rows("m", 0.95) + FREE, changes=changes)
    names = ("patching", "adding", "decodable_and_causal", "removing")
    made = {name: getattr(_study_checks, name)(result) for name in names}
    assert made["patching"]["ours"] == patched and made["adding"]["ours"] == added
    assert made["removing"]["ours"] == 0.2 and made["removing"]["parts"][1]["ours"] == 0.95
    assert made["removing"]["parts"][-1]["ours"] == pytest.approx(added - 0.2)
    assert "steer along mass_mean.write at whole passage, resid_post.1, dose 2" in made["adding"]["what"]
    assert tuple(made[name]["pass"] for name in names[:3]) == passes
    assert len(made["decodable_and_causal"]["parts"]) == 16


def test_the_map_and_the_paths_are_compared_over_training():
    table = pd.DataFrame([
        {"kind": "behaviour", "reading": None, "metric": "exact", "steepest_from": 128, "steepest_to": 181, "n": 12},
        {"kind": "probe", "reading": "path_start", "metric": "accuracy", "steepest_from": 181, "steepest_to": 256,
         "spearman": 0.9, "n": 12}])
    made = _study_checks.dynamics(found(transitions=table))
    assert made["pass"] and made["ours"] == 0.9
    assert not _study_checks.dynamics(found(transitions=table.assign(steepest_from=[128, 300])))["pass"]
    with pytest.raises(LookupError, match="one of the two curves never moves"):
        _study_checks.dynamics(found(transitions=table.assign(spearman=np.nan)))
