"""The reference world of space and time: what its prompts, answers and cases say, and what its models carry."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_score
from transformers import AutoModelForCausalLM, AutoTokenizer

import tasks
from tasks import space_time
from tasks.space_time import _world as world
from tasks.space_time import train

MODELS = ("space_time", "space_time-1", "space_time-2")
PENALTIES = np.logspace(-6, 3, 10)


def _text(tokens) -> list[str]:
    return [" ".join(world.words()[t] for t in row) for row in tokens.tolist()]


@pytest.mark.parametrize(("scheme", "n"), [("place", 200), ("time", 150)])
def test_names_are_distinct_and_say_nothing_of_where_or_when(scheme, n):
    known = space_time.entities(scheme)
    assert len(known) == n == known.table["entity"].nunique()
    syllables = {kind: set(known.tokens[(known.table["kind"] == kind).to_numpy()].ravel().tolist())
                 for kind in set(known.table["kind"])}
    assert sum(map(len, syllables.values())) == len(set().union(*syllables.values()))
    Y = known.table[list(world.COORDINATES[scheme])].to_numpy()
    assert Y.min() >= (-1 if scheme == "place" else 0) and Y.max() <= 1
    bag = np.zeros((n, len(world.words())))
    bag[np.arange(n)[:, None], known.tokens] = 1
    assert cross_val_score(RidgeCV(PENALTIES), bag, Y, cv=5).mean() < 0.15


def test_answers_are_those_of_a_ruler_and_a_compass():
    p, t = (space_time.entities(s).table[list(world.COORDINATES[s])].to_numpy() for s in ("place", "time"))
    a, b = np.random.default_rng(0).integers(0, 150, (2, 400))
    a, b = a[a != b], b[a != b]
    got = {r: space_time.answers(r, a, b).tolist() for r in space_time.RELATIONS}
    for k, (i, j) in enumerate(zip(a, b, strict=True)):
        assert got["distance"][k] == min(23, int(12 * math.dist(p[i], p[j])))
        turn = math.degrees(math.atan2(p[j][1] - p[i][1], p[j][0] - p[i][0])) % 360
        assert got["direction"][k] == round(turn / 22.5) % 16
        assert got["order"][k] == (t[j][0] < t[i][0])
        assert got["gap"][k] == min(15, int(16 * abs(t[i][0] - t[j][0])))
    assert world.COMPASS[4] == "north" and space_time.RELATIONS["order"].answers[0] == "before"
    assert world.bins_apart("direction", np.array([0]), np.array([15])).tolist() == [1]
    assert world.bins_apart("distance", np.array([0]), np.array([15])).tolist() == [15]


@pytest.mark.parametrize("relation", space_time.RELATIONS)
def test_a_tenth_of_the_pairs_is_never_asked_about_in_training(relation):
    kept, apart = (len(world.pairs_of(relation, reserved)[0]) for reserved in (False, True))
    n = len(space_time.entities(space_time.RELATIONS[relation].scheme))
    assert kept + apart == n * (n - 1) and 0.085 < apart / (kept + apart) < 0.115
    held = set(_text(world.prompts_of(relation, *world.pairs_of(relation, True))))
    batch = train.batches(3)
    asked = {text for step in range(8) for text in _text(batch(step)[0])}
    assert len({text for text in asked if text.startswith(relation)}) > 400 and not held & asked
    assert all(x.equal(y) for x, y in zip(batch(7), train.batches(3)(7), strict=True))


@pytest.mark.parametrize("relation", space_time.RELATIONS)
def test_prompts_read_as_text_and_are_probed_at_the_last_token_of_the_name(relation):
    prompts = tasks.load("space_time", prompt=relation)
    tokenizer = AutoTokenizer.from_pretrained(tasks.reference_models()["space_time"])
    table, texts = prompts.examples, _text(prompts.tokens)
    assert tokenizer(texts)["input_ids"] == prompts.tokens.tolist() and prompts.vocabulary == world.words()
    for text, row in zip(texts, table.itertuples(), strict=True):
        assert text.startswith(f"{relation} {row.entity} ") and row.entity not in text[len(relation) + 6 :]
        assert text.split()[: row.pos + 1] == [relation, *row.entity.split()]
    assert (table["pos:entity"] == table["pos"]).all() and (table["pos:first"] == 1).all()
    scheme = space_time.RELATIONS[relation].scheme
    assert prompts.shortcuts == {scheme: ("block_mean",)} and prompts.task == "space_time"
    Y, mean = prompts.labels(scheme), prompts.labels("block_mean")
    oracle = 1 - ((Y - mean) ** 2).sum() / ((Y - Y.mean(0)) ** 2).sum()
    assert 0.75 < oracle < 0.95  # most of the variance lies between blocks
    apart = space_time.load(prompt=relation, split="block").examples
    assert (apart.groupby("block")["split"].nunique() == 1).all()
    assert len(space_time.load(prompt=relation, n=50)) == 50


@pytest.mark.parametrize("scheme", ["place", "time"])
def test_every_case_moves_its_answer_by_more_than_two_bins_and_its_witness_says_so(scheme):
    cases, pairs = space_time.cases(scheme, n=300), space_time.pairs(scheme, n=300)
    assert len(cases) == 300 and not (cases.right_before & cases.right_after).any()
    assert pairs.clean.equal(cases.tokens) and _text(pairs.corrupted) == cases.cases["witness"].tolist()
    assert ((pairs.clean != pairs.corrupted).nonzero()[:, 1].unique() == torch.tensor([1, 2])).all()
    table, of = cases.cases, space_time.entities(scheme).table.set_index("entity")
    names = {name: i for i, name in enumerate(of.index)}
    a, to, b = (table[c].map(names).to_numpy() for c in ("entity", "becomes_entity", "other"))
    for relation, rows in table.groupby("relation"):
        k = rows.index.to_numpy()
        assert _text(world.prompts_of(relation, to[k], b[k])) == rows["witness"].tolist()
        assert world.is_reserved(relation, a[k], b[k]).all()
        before, after = (space_time.answers(relation, x[k], b[k]) for x in (a, to))
        right = world.answer_tokens(relation)
        assert cases.right_before[k, right[before]].all() and cases.right_after[k, right[after]].all()
        assert (cases.right_after[k].sum(1) <= 3).all()
        assert relation == "order" or (world.bins_apart(relation, before, after) > 2).all()
    for c in world.COORDINATES[scheme]:
        assert np.array_equal(table[f"{c}_becomes"], of[c].to_numpy()[to])
    halves = table.groupby("group")["split"].nunique()
    assert (halves == 1).all() and (table["split"] == "report").mean() == pytest.approx(0.5, abs=0.1)
    with pytest.raises(ValueError, match=f"no relation 'nearness' with the scheme|not 'nearness'.*|{scheme}"):
        space_time.cases(scheme, relation="nearness")
    with pytest.raises(ValueError, match="no relation '' with the scheme 'colour'; there are distance .place."):
        space_time.cases("colour")


def test_behaviour_is_perfect_for_who_knows_the_world_and_chance_for_who_says_one_thing():
    code = {}
    for relation in space_time.RELATIONS:
        a, b = world.pairs_of(relation, True)
        right = world.answer_tokens(relation)[space_time.answers(relation, a, b)]
        code |= dict(zip(map(tuple, world.prompts_of(relation, a, b).tolist()), right.tolist(), strict=True))

    def knows(tokens):
        logits = torch.zeros(*tokens.shape, len(world.words()))
        logits[torch.arange(len(tokens)), -1, torch.tensor([code[tuple(t)] for t in tokens.tolist()])] = 1
        return logits

    def parrot(tokens):
        return torch.eye(len(world.words()))[world.words().index("d05")].expand(*tokens.shape, -1)

    rows = space_time.behaviour(knows, n=200)
    assert len(rows) == 800 and rows["exact"].all() and rows["within_one"].all()
    said = space_time.behaviour(parrot, n=1000).query("relation == 'distance'")
    assert said["within_one"].mean() == pytest.approx(said["chance"].iloc[0], abs=0.06)


@pytest.fixture(scope="module", params=MODELS)
def carried(request):
    """(run, its name): run(tokens, layer, delta) -> logits of the answer, and resid_post of every layer at the name."""
    net = AutoModelForCausalLM.from_pretrained(tasks.reference_models()[request.param]).eval()
    return _runner(net), request.param


def _runner(net):
    def run(tokens, layer=None, delta=None):
        seen = []

        def hook(block, args, output, i):
            x = output[0] if isinstance(output, tuple) else output
            seen.append(x[:, 2].clone())
            if i == layer:
                x[:, 2] += delta

        hooks = [block.register_forward_hook(lambda *a, i=i: hook(*a, i)) for i, block in enumerate(net.transformer.h)]
        with torch.inference_mode():
            logits = net(tokens).logits[:, -1]
        for h in hooks:
            h.remove()
        return logits, seen

    return run


@pytest.mark.parametrize("relation", space_time.RELATIONS)
def test_coordinates_are_linear_after_the_first_block_and_answers_follow_them_there_only(carried, relation):
    run, name = carried
    scheme, rng = space_time.RELATIONS[relation].scheme, np.random.default_rng(0)
    prompts, cases = space_time.load(prompt=relation), space_time.cases(scheme, 200, relation=relation)
    Y, fit, test = prompts.labels(scheme).astype(float), ~prompts.rows("test"), prompts.rows("test")
    acts = [x.double().numpy() for x in run(prompts.tokens)[1]]
    scores = [RidgeCV(PENALTIES).fit(x[fit], Y[fit]).score(x[test], Y[test]) for x in acts]
    assert scores[0] > 0.99 and min(scores) > 0.85
    step = np.stack([cases.cases[f"{c}_becomes"] - cases.cases[f"{c}_was"] for c in world.COORDINATES[scheme]], 1)
    told = torch.tensor([[world.words().index(w) for w in text.split()] for text in cases.cases["witness"]])
    (clean, here), (_, there) = run(cases.tokens), run(told)

    def follow(layer, delta):
        logits = run(cases.tokens, layer, torch.as_tensor(delta, dtype=torch.float32))[0]
        return cases.right_after[np.arange(200), logits.argmax(-1).numpy()].mean()

    assert cases.right_before[np.arange(200), clean.argmax(-1).numpy()].mean() > 0.97
    for layer, x in enumerate(acts):
        pattern = step @ np.linalg.lstsq(Y - Y.mean(0), x - x.mean(0))[0]
        random = [follow(layer, pattern @ np.linalg.qr(rng.normal(size=(64, 64)))[0]) for _ in range(5)]
        swap, moved = follow(layer, there[layer] - here[layer]), follow(layer, pattern)
        if layer == 0:
            assert swap > 0.97 and moved > 0.6 and moved > 5 * np.mean(random)
        else:  # read as easily, and nothing answers to it
            assert max(swap, moved) <= 0.02


def test_a_model_with_random_weights_has_no_map():
    config = AutoModelForCausalLM.from_pretrained(tasks.reference_models()["space_time"]).config
    torch.manual_seed(0)
    run = _runner(AutoModelForCausalLM.from_config(config).eval())
    for relation in ("distance", "gap"):
        prompts = space_time.load(prompt=relation)
        for x in run(prompts.tokens)[1]:
            assert cross_val_score(RidgeCV(PENALTIES), x.numpy(), prompts.labels(
                space_time.RELATIONS[relation].scheme), cv=5).mean() < 0.05


def test_checkpoints_ship_from_before_training_on():
    folders = sorted((tasks.reference_models()["space_time"] / "checkpoints").iterdir())
    assert len(folders) >= 12 and folders[0].name == "step-000000" and folders[-1].name == "step-001000"
    first, last = (AutoModelForCausalLM.from_pretrained(f) for f in (folders[0], folders[-1]))
    assert first.dtype == torch.bfloat16
    right = [space_time.behaviour(lambda t, m=m: m.float()(t).logits, n=100)["within_one"].mean()
             for m in (first, last)]
    assert right[0] < 0.1 and right[1] > 0.97


def test_training_that_was_killed_goes_on_bit_for_bit(tmp_path):
    class Killed(Exception):
        pass

    def kill(line):
        if line.startswith("step 3"):
            raise Killed

    train.fit(tmp_path / "whole", seed=5, steps=4, every=1, log=lambda line: None)
    with pytest.raises(Killed):
        train.fit(tmp_path / "cut", seed=5, steps=4, every=1, log=kill)
    train.fit(tmp_path / "cut", seed=5, steps=4, every=1, log=lambda line: None)
    whole, cut = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut"))
    assert whole == cut and "| gap |" in (tmp_path / "cut" / "README.md").read_text()


def test_real_names_want_a_tokenizer_and_the_world_a_relation():
    with pytest.raises(ValueError, match="names of world_place need a tokenizer: give that of the model"):
        space_time.load("world_place")
    with pytest.raises(ValueError, match="is one of distance, direction, order, gap, not 'coords'"):
        space_time.load(prompt="coords")
