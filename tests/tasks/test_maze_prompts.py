"""Mazes as prompts: the published layout and strings, the labels, the shortcuts, and the counterfactual cases."""

import numpy as np
import pytest
import torch

import tasks
from tasks import maze

PROMPT = ("<ADJLIST_START> (0,0) <--> (0,1) ; (1,1) <--> (0,1) ; (1,0) <--> (1,1) ; <ADJLIST_END> <ORIGIN_START> (0,0) "
          "<ORIGIN_END> <TARGET_START> (1,0) <TARGET_END> <PATH_START> (0,0) (0,1) (1,1) (1,0) <PATH_END>")


def passages(text):
    """The passages of a prompt as sets of two cells, in the order of the list, read without our parser."""
    body = text.split("<ADJLIST_END>")[0].removeprefix("<ADJLIST_START>")
    return [frozenset(part.strip().split(" <--> ")) for part in body.split(";") if part.strip()]


@pytest.mark.parametrize(("size", "n_words"), [(5, 36), (6, 47), (7, 60)])
def test_the_vocabulary_is_that_of_the_legacy_tokenizer(size, n_words):
    words = maze.words(size)
    assert len(words) == n_words
    assert words[:11] == ["<ADJLIST_START>", "<ADJLIST_END>", "<TARGET_START>", "<TARGET_END>", "<ORIGIN_START>",
                          "<ORIGIN_END>", "<PATH_START>", "<PATH_END>", "<-->", ";", "<PADDING>"]
    assert words[11:13] == ["(0,0)", "(0,1)"] and words[11 + size] == "(1,0)"
    assert words[-1] == f"({size - 1},{size - 1})"


def test_a_prompt_is_laid_out_as_published():
    mazes = maze.parse([PROMPT], 2)
    text = maze.to_text(maze.tokenise(mazes, seed=3).tokens, 2)[0]
    assert set(passages(text)) == set(passages(PROMPT))
    assert text.split("<ADJLIST_END>")[1] == PROMPT.split("<ADJLIST_END>")[1]


@pytest.mark.parametrize("generator", ["dfs", "dfs_percolation"])
def test_prompts_list_every_passage_once_and_have_the_length_of_the_formula(generator):
    mazes = maze.random_mazes(200, 6, generator, seed=1)
    made = maze.tokenise(mazes, seed=1)
    n_open = maze.open_edges(mazes.connections).sum(1)
    np.testing.assert_array_equal(made.lengths, 4 * n_open + 10 + mazes.n_nodes)
    names = np.array([frozenset(name.split("-")) for name in maze.edge_names(mazes.shape)])
    for row, text in enumerate(maze.to_text(made.tokens, 6)):
        listed = passages(text)
        assert len(listed) == len(set(listed)) and set(listed) == set(names[maze.open_edges(mazes.connections)[row]])
        closes = made.closes[row][made.closes[row] >= 0]
        assert listed == names[closes].tolist()
        assert text.split()[made.path_start[row]] == "<PATH_START>"
        assert np.flatnonzero(made.closes[row] >= 0).tolist() == [i for i, w in enumerate(text.split()) if w == ";"]


def test_orders_are_drawn_anew_for_every_seed_and_evenly():
    mazes = maze.random_mazes(1, 3, seed=1)
    same = mazes[np.zeros(4000, int)]
    texts = maze.to_text(maze.tokenise(same, seed=0).tokens, 3)
    first = [" ".join(text.split()[1:4]) for text in texts]
    counts = [first.count(passage) for passage in set(first)]
    assert len(counts) == 16 and min(counts) > 250 - 5 * 250**0.5 and max(counts) < 250 + 5 * 250**0.5
    assert maze.to_text(maze.tokenise(same, seed=1).tokens, 3) != texts


def test_a_sorted_list_names_the_same_passages_in_the_order_of_the_lattice():
    mazes = maze.random_mazes(40, 4, seed=1)
    made = maze.tokenise(mazes, seed=1, listed="sorted")
    np.testing.assert_array_equal(made.lengths, maze.tokenise(mazes, seed=1).lengths)
    for row, text in enumerate(maze.to_text(made.tokens, 4)):
        names = np.array(maze.edge_names((4, 4)))[maze.open_edges(mazes.connections)[row]]
        wanted = "".join(f"{' <--> '.join(name.split('-'))} ; " for name in names)
        assert text.startswith(f"<ADJLIST_START> {wanted}<ADJLIST_END> <ORIGIN_START>")
    prompts, plain = tasks.load("maze", n=40, listed="sorted"), tasks.load("maze", n=40)
    assert prompts.examples.equals(plain.examples) and not torch.equal(prompts.tokens, plain.tokens)
    with pytest.raises(ValueError, match="one of the orders random, sorted, not 'shuffled'"):
        maze.tokenise(mazes, listed="shuffled")


def test_prompt_i_of_a_seed_does_not_depend_on_n():
    few, many = tasks.load("maze", n=30, seed=5), tasks.load("maze", n=90, seed=5)
    assert torch.equal(few.tokens, many.tokens[:30])


@pytest.mark.parametrize("generator", maze.GENERATORS)
def test_parsing_undoes_tokenising(generator):
    mazes = maze.random_mazes(60, (3, 5), generator, seed=2)
    again = maze.parse(maze.to_text(maze.tokenise(mazes, 1).tokens, (3, 5)), (3, 5))
    np.testing.assert_array_equal(again.connections, mazes.connections)
    np.testing.assert_array_equal(again.paths, mazes.paths)
    tokens, lengths = maze.to_ids(maze.to_text(maze.tokenise(mazes, 1).tokens, (3, 5)), (3, 5))
    np.testing.assert_array_equal(tokens, maze.tokenise(mazes, 1).tokens)
    np.testing.assert_array_equal(lengths, maze.tokenise(mazes, 1).lengths)


@pytest.mark.parametrize(("text", "message"), [
    ("once upon a time", "prompt 1 is not a maze in the published layout, it has no <ADJLIST_START>"),
    (PROMPT.replace("<PATH_START>", ""), "prompt 1 .* it has no <PATH_START>"),
    (PROMPT.replace("(1,0) <--> (1,1)", "(1,0) <--> (0,1)"), "no pair of neighbours, such as"),
    (PROMPT.replace("(1,0) <--> (1,1)", "(7,0) <--> (7,1)"), r"'\(7,0\)' is no cell"),
    (PROMPT.replace("(1,0) <--> (1,1) ;", ""), r"no passages join \(0,0\) and \(1,0\) in maze 1"),
])
def test_what_is_no_maze_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        maze.parse([PROMPT, text], 2)


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match=r"prompt 0 has the word '\(4,4\)', which is no token of mazes of size 2"):
        maze.to_ids(["(0,0) (4,4)"], 2)


def test_the_map_is_read_from_path_start_or_the_end_of_the_list():
    prompts = tasks.load("maze", n=100)
    assert prompts.targets("passage") == maze.edge_names((5, 5))
    texts = maze.to_text(prompts.tokens)
    for row, text in enumerate(texts):
        listed = set(passages(text))
        labels = [frozenset(name.split("-")) in listed for name in prompts.targets("passage")]
        assert prompts.labels("passage")[row].tolist() == labels
    words = np.array(prompts.vocabulary)
    for prompts_at, word in ((prompts, "<PATH_START>"), (prompts.at("adjlist_end"), "<ADJLIST_END>"),
                             (tasks.load("maze", n=100, at="adjlist_end"), "<ADJLIST_END>")):
        where = (prompts_at.examples[column].to_numpy() for column in ("prompt", "pos"))
        assert set(words[prompts_at.tokens.numpy()[*where]]) == {word}
    assert prompts.at("last").examples["pos"].equals(prompts.examples["pos"])


@pytest.mark.parametrize(("size", "value"), [(5, 0.822), (6, 0.800)])
def test_degrees_alone_tell_four_passages_in_five(size, value):
    prompts = tasks.load("maze", n=5500, size=size)
    test = prompts.rows("test")
    right = prompts.labels("passage")[test] == prompts.labels("by_degree")[test]
    assert right.mean() == pytest.approx(value, abs=0.01)  # 4,000 mazes to learn from, 1,500 to test
    assert prompts.shortcuts == {"passage": ("by_degree",)}
    majority = np.where(prompts.labels("passage")[~test].mean(0) > 0.5, 1, 0)
    assert (prompts.labels("passage")[test] == majority).mean() == pytest.approx({5: 0.628, 6: 0.612}[size], abs=0.015)


def test_the_published_metric_counts_walls_around_the_maze():
    assert maze.border_inclusive(0.800, 6) == pytest.approx(0.833, abs=5e-4)
    assert maze.border_inclusive(0.936, 6) == pytest.approx(0.947, abs=5e-4)
    assert maze.border_inclusive(1, (2, 7)) == 1 and maze.border_inclusive(0, (1, 2)) == 6 / 8


def test_every_listed_passage_is_labelled_where_it_is_closed():
    prompts = tasks.load("maze", n=40, at="edges")
    texts = [text.split() for text in maze.to_text(prompts.tokens)]
    for (_, ex), own in zip(prompts.examples.iterrows(), prompts.labels("own"), strict=True):
        words = texts[ex["prompt"]]
        assert words[ex["pos"]] == ";" and own.sum() == 1
        cells = {words[ex["pos:first_cell"]], words[ex["pos:second_cell"]]}
        assert set(prompts.targets("own")[own.argmax()].split("-")) == cells


def test_every_cell_of_the_path_is_labelled_with_its_own_passages():
    prompts = tasks.load("maze", n=60, at="path", generator="dfs_percolation")
    moves = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
    assert prompts.targets("local") == list(moves)
    texts = [text.split() for text in maze.to_text(prompts.tokens)]
    for row, (_, ex) in enumerate(prompts.examples.iterrows()):
        words = texts[ex["prompt"]]
        listed, cell = set(passages(" ".join(words))), words[ex["pos"]]
        r, c = eval(cell)
        for way, (name, (dr, dc)) in enumerate(moves.items()):
            other = f"({r + dr},{c + dc})"
            assert prompts.labels("local")[row, way] == (frozenset((cell, other)) in listed), (cell, name)
            assert prompts.subsets["interior"][row, way] == (other in prompts.vocabulary)
            came_from_there = ex["step"] > 0 and words[ex["pos"] - 1] == other
            assert prompts.subsets["ahead"][row, way] == (other in prompts.vocabulary and not came_from_there)


def test_knowing_the_way_in_tells_more_than_nothing_and_less_than_the_maze():
    prompts = tasks.load("maze", n=2000, at="path")
    test = prompts.rows("test")
    right = prompts.labels("local")[test] == prompts.labels("by_step")[test]
    assert right[prompts.subsets["interior"][test]].mean() == pytest.approx(0.755, abs=0.015)


def test_equal_mazes_lie_in_one_split_whatever_their_ends():
    prompts = tasks.load("maze", n=3000, size=3)
    names = maze.identities(maze.parse(maze.to_text(prompts.tokens, 3), 3).connections)
    assert (names == prompts.examples["group"]).all()
    assert len(set(names)) < 3000 and prompts.examples.groupby("group")["split"].nunique().max() == 1


@pytest.mark.parametrize("at", ["path_start", "adjlist_end", "edges", "path"])
def test_mazes_of_your_own_and_of_other_shapes_are_prompts_as_well(at):
    mine = maze.solve(maze.random_mazes(50, (4, 3), "wilson").connections)
    prompts = tasks.load("maze", mazes=mine, at=at)
    assert prompts.task == "maze-4x3" and prompts.tokens.shape[0] == 50
    assert tasks.load("maze", mazes=mine, n=20, at=at).tokens.shape[0] == 20
    with pytest.raises(ValueError, match="at is one of path_start, adjlist_end, edges, path, not 'end'"):
        tasks.load("maze", at="end")


@pytest.mark.parametrize(("kind", "size", "generator"), [
    ("add", 5, "dfs"), ("remove", 5, "dfs"), ("add", (3, 6), "wilson"), ("remove", 4, "kruskal"),
    ("remove", 5, "dfs_percolation")])
def test_a_case_changes_one_passage_and_with_it_the_right_step(kind, size, generator):
    cases = maze.cases(kind, n=120, size=size, generator=generator)
    words = np.array(maze.words(size))
    for row, (text, case) in enumerate(zip(maze.to_text(cases.tokens, size), cases.cases.itertuples(), strict=True)):
        edited = case.witness
        passage = frozenset(case.target.split("-"))
        assert (passage in passages(text)) == (kind == "remove") and (passage in passages(edited)) == (kind == "add")
        assert set(passages(text)) ^ set(passages(edited)) == {passage}
        changed = [i for i, (a, b) in enumerate(zip(text.split(), edited.split(), strict=True)) if a != b]
        slot = cases.cases["pos:slot"][row]
        assert set(changed) <= {slot - 3, slot - 1} and text.split()[slot] == ";"
        here = text.split()[-1]
        assert here == case.cell and here in passage
        (r, c), (to_r, to_c) = (eval(cell) for cell in (here, next(iter(passage - {here}))))
        assert (to_r - r, to_c - c) == {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}[case.direction]
        listed, told = (passages(t).count(frozenset(case.stand_in.split("-"))) for t in (text, edited))
        assert {listed, told} == {1, 2} and (listed == 2) == (kind == "add")
        before, after = set(words[cases.right_before[row]]), set(words[cases.right_after[row]])
        was = maze.parse([text], size)
        path = [str(words[11 + cell]) for cell in was.paths[0] if cell >= 0]
        assert text.split("<PATH_START> ")[1].split() == path[: case.node + 1] and before == {path[case.node + 1]}
        if kind == "add":
            now = maze.parse([edited], size)
            new = [str(words[11 + cell]) for cell in now.paths[0] if cell >= 0]
            assert new[: case.node + 1] == path[: case.node + 1] and after == {new[case.node + 1]} == passage - {here}
            assert len(path) - len(new) == case.saves >= 2
        else:
            ways = {cell for pair in passages(edited) if here in pair for cell in pair - {here}}
            assert after == ways and before == passage - {here}
            assert after - {path[case.node - 1] if case.node else ""}, "there is another way forward"


def test_pairs_are_the_cases_and_their_edited_prompts():
    cases, pairs = (make("add", n=60, seed=3) for make in (maze.cases, maze.pairs))
    assert torch.equal(pairs.clean, cases.tokens) and pairs.label == cases.kind == "passage to add"
    assert maze.to_text(pairs.corrupted) == cases.cases["witness"].tolist()
    np.testing.assert_array_equal(pairs.right_corrupted, cases.right_after)
    groups = cases.cases.groupby("group")["split"].nunique()
    assert groups.max() == 1 and set(cases.cases["split"]) == {"choose", "report"}


def test_impossible_cases_are_refused():
    with pytest.raises(ValueError, match=r"kind must be one of \('add', 'remove'\), not 'flip'"):
        maze.cases("flip")
    with pytest.raises(ValueError, match=r"found only 0 of 5 cases to add among .* dfs mazes of size \(1, 6\)"):
        maze.cases("add", n=5, size=(1, 6), reserved=None)
    with pytest.raises(ValueError, match="found only 0 of 70 reserved dfs mazes of 1x6"):  # the one there is, is not
        maze.cases("add", n=5, size=(1, 6))


@pytest.mark.parametrize("kind", ["add", "remove"])
def test_cases_of_mazes_of_your_own_are_as_many_as_they_offer(kind):
    mine = maze.solve(maze.random_mazes(40, (4, 3), "wilson", seed=3).connections)
    cases = maze.cases(kind, n=500, mazes=mine)
    assert cases.task == "maze-4x3" and 5 < len(cases) <= 40
    assert set(cases.cases["group"]) <= set(maze.identities(mine.connections))
    assert len(maze.cases(kind, n=3, mazes=mine)) == 3
    if kind == "add":
        corridor = maze.solve(maze.random_mazes(3, (1, 6)).connections)
        with pytest.raises(ValueError, match=r"found only 0 of 9 cases to add among mazes of your own \(3\)"):
            maze.cases(kind, n=9, mazes=corridor)
