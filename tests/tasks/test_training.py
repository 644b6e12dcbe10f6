import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks._training import Decoder, Muon, _orthogonalise, next_token_loss, schedule, train
from tasks.othello import train as othello_train
from tasks.othello._tokens import words


class Killed(Exception):
    pass


def session(out, steps=6, kill_at=None):
    """A short training of a tiny 6x6 model, killed before the given step."""
    torch.manual_seed(0)
    model = Decoder(len(words(6)), 31, n_layers=2, d_model=16, n_heads=2)
    batch = othello_train.batches(6, batch=8)

    def step(k):
        if k == kill_at:
            raise Killed
        return batch(k)

    def save(model, folder, metrics):
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), folder / "weights.pt")

    train(model, next_token_loss(step), steps, out, evaluate=lambda m: {"zero": 0.0}, save=save, snapshots=(0, 3),
          every=2, log=lambda line: None)
    return model.state_dict()


def test_a_killed_training_resumes_bit_for_bit(tmp_path):
    whole = session(tmp_path / "whole")
    with pytest.raises(Killed):
        session(tmp_path / "killed", kill_at=5)
    resumed = session(tmp_path / "killed")
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    logs = [[json.loads(line)["step"] for line in (tmp_path / d / "log.jsonl").read_text().splitlines()]
            for d in ("whole", "killed")]
    assert logs[0] == logs[1] == [0, 2, 3, 4, 6]
    assert sorted(p.name for p in (tmp_path / "whole" / "checkpoints").iterdir()) == ["step-000000", "step-000003"]


def test_training_lowers_the_loss_and_muon_orthogonalises():
    g = torch.randn(3, 8, 20)
    values = torch.linalg.svdvals(_orthogonalise(g))
    assert 0.5 < values.min() and values.max() < 1.3
    p = torch.nn.Parameter(torch.eye(4))
    p.grad = torch.eye(4)
    Muon([p], lr=0.1, weight_decay=0.0).step()
    assert (p.detach().diagonal() < 0.95).all()


def test_schedule_warms_up_stays_and_decays():
    assert schedule(0, 1000) == pytest.approx(0.01)
    assert schedule(300, 1000) == 1.0
    assert schedule(1000, 1000) == pytest.approx(0.02)


def test_the_exact_target_is_the_mean_of_sampled_ones():
    tokens, legal, weight = othello_train.batches(6, batch=64)(0)
    _, sampled, _ = othello_train.batches(6, batch=64, target="sampled")(0)
    played = weight.bool()
    torch.testing.assert_close(legal[played].sum(-1), torch.ones(int(played.sum())))
    assert (legal[played][sampled[played].bool()] > 0).all()  # what was played was legal
    assert tokens.shape == (64, 31)


def test_the_command_writes_a_hugging_face_directory_with_a_card(tmp_path, monkeypatch):
    monkeypatch.setitem(othello_train.RECIPES, 6, dict(n_layers=2, d_model=16, n_heads=2, batch=8, steps=4))
    othello_train.main(["--size", "6", "--steps", "4", "--every", "2", "--out", str(tmp_path)])
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer("b3 b2", add_special_tokens=False)["input_ids"]
    assert [words(6)[i] for i in ids] == ["b3", "b2"]
    assert model(torch.tensor([ids])).logits.shape == (1, 2, 33)
    assert "Board labels are never seen" in (tmp_path / "README.md").read_text()
    assert load_file(tmp_path / "checkpoints" / "step-000000" / "model.safetensors")
