"""Checkpoints into which a label is written at a known step: two classes of tokens move apart between 8 and 32."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from probing import correct_p_values, validate
from tasks import LabelledPrompts, split_by_group
from tasks._study import Behaviour, Reading, Study
from worldprobe._report import write_report
from worldprobe._rows import pick
from worldprobe._run import open_run
from worldprobe._study_dynamics import checkpoints, dynamics_section, dynamics_stages

STEPS, N_TOKENS = (0, 2, 4, 8, 16, 32, 64, 128), 120
CLASS = np.random.default_rng(0).integers(0, 2, N_TOKENS)


def save(folder, steps=STEPS):
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=N_TOKENS, n_positions=4,
                                       bos_token_id=0, eos_token_id=0))
    start, apart = model.transformer.wte.weight.detach().clone(), torch.randn(16)
    for step in steps:
        written = 1 / (1 + (16 / step) ** 6) if step else 0.0
        model.transformer.wte.weight.data = start + 0.1 * written * torch.tensor(2 * CLASS - 1)[:, None] * apart
        model.save_pretrained(folder / "checkpoints" / f"step-{step:06d}")
    return folder


def load(n, seed):
    token = np.arange(N_TOKENS)
    examples = pd.DataFrame({"prompt": token, "pos": 0, "group": token, "split": split_by_group(token, seed),
                             "class/token": CLASS, "odd/token": token % 2})
    return LabelledPrompts("toy", torch.from_numpy(token)[:, None], torch.ones(N_TOKENS, dtype=torch.long), examples,
                           classes={"class": ("a", "b"), "odd": ("a", "b")}, shortcuts={"class": ("odd",)})


def measure(model, n, seed):
    """Whether tokens of its own class are likelier after a token; items without a weight count nothing."""
    token = np.arange(n)
    logits = model(torch.from_numpy(token)[:, None])[:, 0].detach().numpy()
    right = (logits[:, CLASS == 1].mean(1) > logits[:, CLASS == 0].mean(1)) == (CLASS[:n] == 1)
    return pd.DataFrame({"group": token, "kin": right, "half": 0.5, "odd_kin": np.where(token % 2, right, np.nan),
                         "weight": 1 + token % 3})


@pytest.fixture(scope="module")
def study():
    return Study("toy", "{model}", "?", "toy", Behaviour(
        measure, {"kin": "tokens of its own class are likelier", "odd_kin": "of odd tokens"}, {"kin": "half"},
        {"odd_kin": "weight"}, n=N_TOKENS, quick=N_TOKENS, items="tokens"),
        [Reading("token", "class", "the class of a token", load, followed=True, groups="tokens")])


@pytest.fixture(scope="module")
def done(study, tmp_path_factory):
    path = tmp_path_factory.mktemp("dynamics")
    save(path / "model")
    lines: list[str] = []

    def run(log=lines.append):
        folder = open_run(path / "run", {"model": "toy"}, log=log)
        return dynamics_stages(folder, study, path / "model", {"token": load(0, 0)}, 0, False)

    return *run(), run, lines


def test_checkpoints_are_found_by_their_names(tmp_path):
    save(tmp_path, (0, 4, 32))
    (tmp_path / "checkpoints" / "step-000064").mkdir()  # without a model in it
    (tmp_path / "checkpoints" / "notes").mkdir()
    assert list(checkpoints(tmp_path)) == [0, 4, 32]
    assert checkpoints(tmp_path / "nowhere") == {}


def test_the_rows_are_valid_each_probe_beside_its_controls_at_every_step(done):
    (table,), *_ = done
    table = correct_p_values(table)
    validate(table)
    assert set(table["revision"]) == {f"step {s}" for s in STEPS} and set(table["model"]) == {"toy"}
    untrained = pick(table, control="random_init", metric="accuracy", split="test", stream="resid_post", layer=0)
    own = pick(table, control=None, revision="step 0", metric="accuracy", split="test", stream="resid_post", layer=0)
    for probe in ("logistic", "logistic:final"):
        assert set(pick(untrained, probe=probe)["value"]) == set(pick(own, probe=probe)["value"])
    assert pick(table, control="shortcut:half")["value"].eq(0.5).all()


def test_probe_and_behaviour_rise_where_the_label_was_written(done):
    _, transitions, *_ = done
    curves = transitions.set_index("curve")
    for name in ("kin", "token", "token, final probe"):
        assert curves.loc[name, "sharp"], name
        assert 4 <= curves.loc[name, "step"] <= 32, name
        assert curves.loc[name, "last"] > 0.95
        assert curves.loc[name, "step_low"] <= curves.loc[name, "step"] <= curves.loc[name, "step_high"]
    assert set(curves["kind"]) == {"behaviour", "probe", "final_probe"}
    assert abs(curves.loc["token", "lag"]) < 0.5 and curves.loc["token", "other"] == "kin"
    assert curves.loc["token", "lag_low"] <= curves.loc["token", "lag"] <= curves.loc["token", "lag_high"]
    assert curves.loc["token", "first"] < 0.75 and curves.loc["token", "spearman"] > 0.5


def test_the_values_are_those_of_the_items(done, study):
    (table,), *_ = done
    last = pick(table, revision="step 128", control=None, label=None)
    items = last.set_index("metric")["n"]
    assert items["kin"] == N_TOKENS and items["odd_kin"] == N_TOKENS // 2
    probe = pick(table, revision="step 128", control=None, split="test", probe="logistic", layer=0, stream="resid_post")
    final = pick(table, revision="step 128", control=None, split="test", probe="logistic:final", layer=0,
                 stream="resid_post")
    assert probe["value"].item() == final["value"].item()  # at the last checkpoint they are one
    assert set(probe["n"]) == {int((load(0, 0).examples["split"] == "test").sum())}


def test_a_second_run_reads_no_model(done):
    (table,), transitions, run, _ = done
    again: list[str] = []
    (same,), also = run(again.append)
    assert sum("done before" in line for line in again) == 2 * len(STEPS) + 1
    pd.testing.assert_frame_equal(same, table)
    pd.testing.assert_frame_equal(also, transitions)


def test_the_section_shows_curves_transitions_and_lag(done, study, tmp_path):
    (table,), transitions, *_ = done
    section = dynamics_section(table, transitions, study)
    text = " ".join(section.text)
    assert "halfway at step" in text and "The class of a token" in text and "8 checkpoints" in text
    html = write_report(tmp_path / "report.html", title="t", sections=[section]).read_text()
    assert "final probe" in html and "behind behaviour, decades" in html
    assert dynamics_section(table, pd.DataFrame(), study) is None


def test_without_step_0_training_is_not_followed_and_the_log_says_why(study, tmp_path):
    save(tmp_path / "model", (2, 4))
    lines: list[str] = []
    folder = open_run(tmp_path / "run", {}, log=lines.append)
    tables, transitions = dynamics_stages(folder, study, tmp_path / "model", {"token": load(0, 0)}, 0, True)
    assert not tables and transitions.empty and "step 0" in lines[-1]
    tables, transitions = dynamics_stages(folder, study, tmp_path / "none", {"token": load(0, 0)}, 0, True)
    assert not tables and transitions.empty
