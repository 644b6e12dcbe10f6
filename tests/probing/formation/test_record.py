"""What is recorded in a training loop: the same numbers as afterwards, and a training that never notices."""

import huggingface_hub.constants
import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from probing import load_model
from probing._models import ModelError
from probing.formation import (
    alignment_score,
    alignments,
    follow,
    layer_moments,
    probe_score,
    record,
    recorded,
    transition,
)
from tasks import LabelledPrompts, split_by_group

STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128)


def loss(model, batch):
    return cross_entropy(model(batch[0]), batch[1], reduction="none")


def data(n, seed):
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    return x, (x[:, 0] * x[:, 1] > 0).long()


HELD_OUT = data(300, 1)
SCORES = {"right": lambda net: (net(HELD_OUT[0]).argmax(1) == HELD_OUT[1]).float(),
          "pairs": lambda net: (np.ones((4, 2)), np.full((4, 2), 2.0)),
          "": alignment_score(loss, [data(60, seed) for seed in (2, 3, 4)])}


def train(folder=None, scores=SCORES, stop=STEPS[-1]):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 2))
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for step in range(stop + 1):
        if folder is not None and step in STEPS:
            record(folder, step, net, scores)
        optimiser.zero_grad()
        loss(net, [part[16 * step :][:16] for part in data(16 * 200, 0)]).mean().backward()
        optimiser.step()
    return net


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("record")
    return path, train(path)


def test_training_goes_on_as_if_nothing_had_been_recorded(folder):
    net = folder[1]
    for a, b in zip(net.parameters(), train().parameters(), strict=True):
        assert torch.equal(a, b)
    assert net.training and net[2].training


def test_curves_of_the_loop_have_their_steps_and_their_draws(folder):
    curves = {curve.name: curve for curve in recorded(folder[0], n_boot=100)}
    assert set(curves) == {"right", "pairs", *(f"{s}-{r}" for s in ("out", "in") for r in ("RGA", "RWA", "GWA"))}
    right = curves["right"]
    assert tuple(right.steps) == STEPS and right.draws.shape == (100, len(STEPS))
    assert right.values[0] < 0.65 < 0.7 < right.values[-1]
    assert 4 < transition(right)["step"] < 128
    assert (curves["pairs"].values == 0.5).all()
    net = train(stop=STEPS[-2] - 1)  # as it was when step 64 was recorded
    assert right.values[-2] == pytest.approx(SCORES["right"](net.eval()).mean().item())
    table = alignments(layer_moments(net, loss, [data(60, 2)]), n_null=0).set_index(["layer", "relation", "side"])
    stored = np.load(folder[0] / "step-000000064.npz")["gain.out-RWA"]
    assert stored[0] == pytest.approx(table.loc[[("0", "RWA", "out"), ("3", "RWA", "out")], "value"].mean())


def test_what_is_recorded_is_not_scored_again(folder):
    def never(net):
        raise AssertionError("scored again")

    before = [curve.values for curve in recorded(folder[0], 10)]
    train(folder[0], {"right": never})
    assert record(folder[0], 128, folder[1], {"right": never})["pairs"] == 0.5
    np.testing.assert_array_equal([curve.values for curve in recorded(folder[0], 10)], before)


@pytest.mark.parametrize("score, said", [
    (lambda net: 0.5, r"'bad' returned \[\(\)\]"), (lambda net: (np.ones(3), np.ones(4)), r"\[\(3,\), \(4,\)\]"),
])
def test_what_is_no_score_is_refused(score, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        record(tmp_path, 0, nn.Linear(2, 2), {"bad": score})
    assert not list(tmp_path.iterdir())


def test_records_that_do_not_belong_together_are_refused(tmp_path):
    net = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="nothing is recorded in"):
        recorded(tmp_path)
    with pytest.raises(ValueError, match="count from 0"):
        record(tmp_path, -1, net, {"a": lambda _: np.ones(3)})
    with pytest.raises(ValueError, match="nothing to record"):
        record(tmp_path, 0, net, {})
    for step in (1, 2, 4, 8, 16):
        record(tmp_path, step, net, {"a": lambda _: np.ones(3)})
    with pytest.raises(ValueError, match="begins at step 0"):
        recorded(tmp_path)
    record(tmp_path, 0, net, {"a": lambda _: np.ones(4)})
    with pytest.raises(ValueError, match=r"'a' was scored on \(3,\) at step 1 and on \(4,\) at step 0"):
        recorded(tmp_path)


def test_checkpoints_are_followed_by_their_paths_and_revisions(tmp_path):
    """Embeddings into which a class is written step by step, read by a probe as they are loaded."""
    n, steps = 90, (0, 2, 4, 8, 16)
    label = np.random.default_rng(0).integers(0, 2, n)
    torch.manual_seed(0)
    plain = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=n, n_positions=4, bos_token_id=0,
                                       eos_token_id=0))
    token = np.arange(n)
    examples = pd.DataFrame({"prompt": token, "pos": 0, "group": token, "split": split_by_group(token, 0),
                             "class/token": label})
    prompts = LabelledPrompts("toy", torch.from_numpy(token)[:, None], torch.ones(n, dtype=torch.long), examples,
                              classes={"class": ("a", "b")})
    start, apart = plain.transformer.wte.weight.detach().clone(), torch.randn(16)
    models, score = {}, {"class": probe_score(prompts, "class")}
    for step in steps:
        plain.transformer.wte.weight.data = start + 0.02 * step * torch.tensor(2 * label - 1)[:, None] * apart
        plain.save_pretrained(tmp_path / f"{step}")
        models[step] = (str(tmp_path / f"{step}"), "main") if step == 4 else tmp_path / f"{step}"
        in_loop = record(tmp_path / "loop", step, plain.train(), score)  # a copy of it is read
        assert plain.training
    lines: list[str] = []
    curve, = follow(tmp_path / "followed", models, score, lines.append)
    assert curve.values[0] < 0.8 and curve.values[-1] == 1 == in_loop["class"] and len(lines) == 5
    np.testing.assert_array_equal(curve.values, recorded(tmp_path / "loop")[0].values)
    follow(tmp_path / "followed", dict.fromkeys(steps, "no-such-model"), score, lines.append)  # nothing is loaded
    assert len(lines) == 5
    assert probe_score(prompts, "class")(load_model(tmp_path / "16"))[0].sum() == in_loop["class"] * (
        examples["split"] == "test").sum()
    with pytest.raises(ValueError, match="write a score of your own"):
        score["class"](nn.Linear(2, 2))


def test_revisions_of_a_hub_model_are_followed_and_a_missing_one_is_named(tmp_path, monkeypatch):
    """From the cache, without a network: every step is the snapshot that its branch points to."""
    repository, steps = tmp_path / "models--acme--tiny", (0, 1, 2, 4, 8)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=5, n_positions=4, bos_token_id=0,
                                       eos_token_id=0))
    (repository / "refs").mkdir(parents=True)
    for step in steps:
        commit = f"{step:040x}"
        model.transformer.ln_f.bias.data.fill_(step)
        model.save_pretrained(repository / "snapshots" / commit)
        (repository / "refs" / f"step{step}").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    scores = {"bias": lambda model: model.ln_final.bias.detach()}
    said: list[str] = []
    curve, = follow(tmp_path / "forms", {s: ("acme/tiny", f"step{s}") for s in steps}, scores, log=said.append)
    assert curve.values.tolist() == curve.steps.tolist() == list(steps) and said[-1] == "step 8: bias 8.000"
    with pytest.raises(ModelError, match="^revision 'step16' of acme/tiny is not in the local cache, which has step0, "
                                         "step1, step2, step4, step8, and .* hf download acme/tiny --revision step16$"):
        follow(tmp_path / "forms", {16: ("acme/tiny", "step16")}, scores)
    with pytest.raises(ModelError, match="revision 'main' of acme/tiny is not"):
        load_model("acme/tiny")
