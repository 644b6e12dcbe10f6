"""How mazes are walked and learned: rollouts beside plain generation, packed queries beside lone ones, training."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tasks
from tasks import maze
from tasks._rotary import RotaryDecoder, save_neox
from tasks._training import save_gpt2, word_tokenizer
from tasks.maze import train
from tasks.maze._tokens import CELL, ORIGIN_START, PADDING, PATH_END, PATH_START


def decoder(size=4, seed=0, std=0.2, **shape):
    """A tiny decoder whose weights are large enough to matter."""
    torch.manual_seed(seed)
    model = RotaryDecoder(len(maze.words(size)), 200, **{"n_layers": 2, "d_model": 32, "n_heads": 4} | shape)
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.normal_(std=std)
    return model


class Solver:
    """Says the next cell of the shortest path, plus noise that depends on the last token alone."""

    def __init__(self, size, noise=0.0):
        self.size, self.noise = size, noise * torch.randn(2 * [len(maze.words(size))], generator=torch.manual_seed(1))

    def __call__(self, tokens):
        out = torch.zeros(*tokens.shape, len(maze.words(self.size)))
        for row, text in enumerate(maze.to_text(tokens, self.size)):
            mazes = maze.parse([text], self.size)
            left = maze.distances(mazes.connections, mazes.targets)[0]
            for pos in range(text.split().index("<PATH_START>"), len(text.split())):
                cell = int(tokens[row, pos]) - CELL
                if cell < 0:
                    word = CELL + mazes.origins[0]
                elif left[cell] == 0:
                    word = PATH_END
                else:
                    path = maze.shortest_paths(mazes.connections, np.array([cell]), mazes.targets)
                    word = CELL + path[0, 1]
                out[row, pos, word] = 3
        return out + self.noise[tokens]


def plain_rollout(model, prompt, most):
    """Greedy, one token at a time: what was written after the prompt."""
    row = list(prompt)
    while len(row) < len(prompt) + most:
        row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
        if row[-1] < CELL:
            break
    return row[len(prompt):]


def test_a_solver_is_right_everywhere_and_the_walker_by_chance():
    mazes = maze.random_mazes(150, 4, seed=3)
    rates = maze.behaviour(Solver(4), mazes)
    certain = ["exact", "valid", "target", "ended", "token", "origin_after_path_start", "first_path_choice", "path_end",
               "rand_path_token", "final_before_path_end"]
    assert (rates[certain] == 1).all(axis=None)
    forward = np.where(mazes.ways_forward > 1, mazes.ways_forward, 1)
    np.testing.assert_allclose(rates["walker"], 1 / forward.prod(1))
    np.testing.assert_array_equal(rates["n_decisions"], (forward > 1).sum(1))
    two = rates["n_decisions"] == 1
    np.testing.assert_allclose(rates["chance"][two], rates["walker"][two])


def test_the_walker_walks_the_path_as_often_as_one_who_walks():
    mazes, rng = maze.random_mazes(300, 5, seed=2), np.random.default_rng(0)
    walked = np.zeros(len(mazes))
    for row, path in enumerate(mazes.paths.tolist()):
        exits = maze.ways(mazes.connections[row : row + 1])[0]
        neighbours = maze.edges(mazes.shape)
        joined = {cell: [b for pair in neighbours[maze.open_edges(mazes.connections[row : row + 1])[0]].tolist()
                         if cell in pair for b in pair if b != cell] for cell in range(25)}
        assert [len(joined[cell]) for cell in range(25)] == exits.sum(1).tolist()
        path = [cell for cell in path if cell >= 0]
        for _ in range(40):
            trail = path[:1]
            while trail[-1] != path[-1] and (ways := [c for c in joined[trail[-1]] if c not in trail[-2:]]):
                trail.append(int(rng.choice(ways)))
            walked[row] += trail == path
    rates = maze.behaviour(Solver(5), mazes[:1], roll=False)
    assert "valid" not in rates and len(rates) == 1
    forward = np.where(mazes.ways_forward > 1, mazes.ways_forward, 1)
    assert walked.mean() / 40 == pytest.approx((1 / forward.prod(1)).mean(), abs=0.015)


@pytest.mark.parametrize("model", [Solver(4, noise=1.0), decoder()], ids=["noisy", "random"])
def test_rollouts_are_those_of_plain_generation(model):
    mazes = maze.random_mazes(60, 4, seed=4)
    rates, made = maze.behaviour(model, mazes), maze.tokenise(mazes, 0)
    for row in range(len(mazes)):
        words = plain_rollout(model, made.tokens[row, : made.path_start[row] + 1].tolist(), 17)
        cells = [word - CELL for word in words if word >= CELL]
        true = [cell for cell in mazes.paths[row].tolist() if cell >= 0]
        joined = maze.ways(mazes.connections[row : row + 1])[0]
        steps = {(cell, cell + step) for cell in range(16) for way, step in enumerate((-4, 4, -1, 1))
                 if joined[cell, way]}
        lawful = set(words) <= {PATH_END, *range(CELL, CELL + 16)} and all(
            pair in steps for pair in zip(cells, cells[1:], strict=False))
        rate = rates.iloc[row]
        assert rate["exact"] == (words == [*(CELL + cell for cell in true), PATH_END])
        assert rate["valid"] == (lawful and cells[:1] == true[:1])
        assert rate["target"] == (words[len(cells) - 1 :][:1] == [CELL + true[-1]] and bool(cells)
                                  and words[len(cells):] in ([], [PATH_END]))
        assert rate["ended"] == (words[-1] == PATH_END)


def test_with_cycles_every_shortest_step_is_right():
    square = np.zeros((1, 2, 2, 2), bool)
    square[0, 0, 0], square[0, 1, :, 0] = True, True
    mazes = maze.solve(square, np.array([[0, 3]]))
    right = []
    for first in (1, 2):
        def model(tokens, first=first):
            said = torch.zeros(*tokens.shape, len(maze.words(2)))
            said[tokens == PATH_START, CELL], said[tokens == CELL, CELL + first] = 1, 1
            said[(tokens == CELL + 1) | (tokens == CELL + 2), CELL + 3] = said[tokens == CELL + 3, PATH_END] = 1
            return said

        rates = maze.behaviour(model, mazes).iloc[0]
        assert rates["token"] == rates["valid"] == rates["target"] == 1
        right.append(rates["exact"])
    assert sorted(right) == [0, 1]


@pytest.mark.parametrize("options", [{"generator": "dfs"}, {"generator": "dfs_percolation"}, {"do_forks": False},
                                     {"learned": True}])
def test_packed_queries_are_answered_as_if_each_stood_alone(options):
    model = decoder(5, learned=options.pop("learned", False))
    mazes = maze.random_mazes(4, 5, seed=1, **options)
    tokens, goal, shared = train.pack(mazes, (1, 0))
    logits, place, n_queries = model(tokens, shared=shared), 0, 0
    for row, goals in zip(tokens.tolist(), goal.tolist(), strict=True):
        n_list = row.index(PADDING) if PADDING in row[: shared.width] else shared.width
        starts = [at for at in range(shared.width, len(row)) if row[at] == ORIGIN_START]
        for start in starts:
            end = next((at for at in range(start + 1, len(row)) if row[at] in (ORIGIN_START, PADDING)), len(row))
            alone = row[:n_list] + row[start:end]
            asked = [at for at in range(start, end) if goals[at] >= 0]
            wanted = model(torch.tensor([alone]))[0, [n_list + at - start for at in asked]]
            torch.testing.assert_close(logits[place : place + len(asked)], wanted, rtol=0, atol=1e-4)
            place += len(asked)
            made = maze.parse(maze.to_text(torch.tensor([alone])))  # the goals are the path and its end
            assert [goals[at] for at in asked] == [*(CELL + made.paths[0]).tolist(), PATH_END]
            n_queries += 1
    assert place == len(logits) and n_queries > 20


def test_one_query_and_goals_in_the_list_are_ordinary_prompts():
    model, mazes = decoder(4), maze.random_mazes(5, 4, seed=2)
    tokens, goal, shared = train.pack(mazes, (1, 0), queries="one", whole=True)
    logits, place = model(tokens, shared=shared), 0
    for row, goals in zip(tokens.tolist(), goal.tolist(), strict=True):
        assert row.count(ORIGIN_START) == 1
        alone = [token for token in row if token != PADDING]
        asked = [at for at in range(len(row)) if goals[at] >= 0]
        kept = [len([t for t in row[:at] if t != PADDING]) for at in asked]
        wanted = model(torch.tensor([alone]))[0, kept]
        torch.testing.assert_close(logits[place : place + len(asked)], wanted, rtol=0, atol=1e-4)
        n_list = alone.index(ORIGIN_START)
        assert [goals[at] for at in asked[: n_list - 1]] == alone[1:n_list]  # every next token of the list
        place += len(asked)
    assert place == len(logits)


def test_batches_are_a_function_of_the_step_alone():
    one, other = (train.batches(4, 8, generator="dfs") for _ in range(2))
    for step in (0, 70, 3):
        a, b = one(step), other(step)
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1]) and torch.equal(a[2].seen, b[2].seen)
    assert not torch.equal(one(0)[0], one(1)[0])


@pytest.mark.parametrize("learned", [False, True])
def test_a_saved_decoder_computes_the_same_in_hugging_face(tmp_path, learned):
    model = decoder(4, learned=learned)
    (save_gpt2 if learned else save_neox)(model, tmp_path, word_tokenizer(maze.words(4), pad="<PADDING>"))
    net, tokens = AutoModelForCausalLM.from_pretrained(tmp_path).eval(), torch.randint(0, 27, (3, 50))
    with torch.inference_mode():
        torch.testing.assert_close(net(tokens).logits, model(tokens), rtol=1e-5, atol=1e-5)
    ids = AutoTokenizer.from_pretrained(tmp_path)("(0,1) <--> (1,1) ; <PATH_START>")["input_ids"]
    assert [maze.words(4)[i] for i in ids] == ["(0,1)", "<-->", "(1,1)", ";", "<PATH_START>"]


def test_training_resumes_and_writes_a_directory_with_checkpoints_and_a_card(tmp_path, monkeypatch):
    for name, value in dict(BATCH=4, HELD_OUT=8).items():
        monkeypatch.setattr(train, name, value)

    class Killed(Exception):
        pass

    def killed(batch):
        def loss_at(model, step):
            if step == 33:
                raise Killed
            return whole(batch)(model, step)
        return loss_at

    whole, arguments = train.token_loss, [
        *"--size 3 --steps 34 --every 32 --layers 2 --width 16 --heads 2 --out".split()]
    train.main([*arguments, str(tmp_path / "whole")])
    monkeypatch.setattr(train, "token_loss", killed)
    with pytest.raises(Killed):
        train.main([*arguments, str(tmp_path / "killed")])
    monkeypatch.setattr(train, "token_loss", whole)
    train.main([*arguments, str(tmp_path / "killed")])
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "killed")]
    assert weights[0] == weights[1]
    steps = [json.loads(line)["step"] for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert steps == [0, 32, 34]
    assert sorted(p.name for p in (tmp_path / "whole" / "checkpoints").iterdir()) == [
        "step-000000", "step-000032", "step-000034"]
    card = (tmp_path / "whole" / "README.md").read_text()
    assert "Solves 3x3 lattice mazes (dfs)" in card and "--size 3 --steps 34 --layers 2 --width 16" in card


def test_snapshots_are_log_spaced_and_the_same_for_longer_runs():
    assert train.snapshots(1000) == [0, 32, 45, 64, 91, 128, 181, 256, 362, 512, 724, 1000]
    assert train.snapshots(4000)[:-1][:11] == train.snapshots(1000)[:-1]


def test_the_reference_model_walks_most_mazes_it_has_not_seen():
    net = AutoModelForCausalLM.from_pretrained(tasks.reference_models()["maze"]).eval()
    mazes = maze.random_mazes(200, 5, seed=77, reserved=True)
    rates = maze.behaviour(lambda tokens: net(tokens).logits, mazes)
    assert rates["exact"].mean() > 0.6 > 1.5 * rates["walker"].mean()
    assert rates["valid"].mean() > 0.7 and rates["target"].mean() > 0.9
    decision, chance = (np.average(rates[c].fillna(0), weights=rates["n_decisions"]) for c in ("decision", "chance"))
    assert decision > 0.75 and decision > chance + 0.2
