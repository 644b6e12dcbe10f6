"""The first hour of a new user: what the page says is what runs, on a model and a table of one's own."""

import random
import re
from pathlib import Path

import pandas as pd
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from tasks._training import word_tokenizer

PAGE = Path(__file__).parent.parent / "docs" / "your_own.md"
ANIMALS, TOOLS = "cat dog cow hen fox owl bat elk pig ant".split(), "saw axe pen jar cup nail pan rod mop key".split()
PEOPLE = "ada ben".split()


def make_inputs(folder: Path) -> None:
    """`my-model`, a GPT-2 of two layers with its tokenizer, and `mine.csv`, as in the page."""
    rows = [(f"{who} has a {noun} .", "yes" if noun in ANIMALS else "no", noun)
            for noun in ANIMALS + TOOLS for who in PEOPLE]
    random.Random(0).shuffle(rows)
    pd.DataFrame(rows, columns=["text", "animal", "noun"]).to_csv(folder / "mine.csv", index=False)
    words = ["<pad>", "has", "a", ".", *PEOPLE, *ANIMALS, *TOOLS]
    config = GPT2Config(vocab_size=len(words), n_embd=32, n_layer=2, n_head=2, n_positions=8, bos_token_id=None,
                        eos_token_id=None, initializer_range=0.2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder / "my-model")
    word_tokenizer(words).save_pretrained(folder / "my-model")


def test_the_page_runs_on_a_model_and_a_table_of_ones_own(tmp_path, monkeypatch, capsys):
    block = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)[0]
    assert len([line for line in block.splitlines() if line.strip()]) <= 40
    make_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLDPROBE_CACHE", str(tmp_path / "cache"))
    space: dict = {}
    exec(compile(block, str(PAGE), "exec"), space)
    said = capsys.readouterr().out
    assert "mine, 40 prompts" in said and "strongest control" in said and "random_low" in said
    assert set(space["sweep"].summary()["probe"]) == {"mass_mean", "mine"}
    assert set(space["mine"].loc[space["mine"]["control"] == "random_direction", "metric"]) >= {"flip_rate"}
    page = (tmp_path / "report.html").read_text()
    assert all(word in page for word in ("steer", "squeeze", "reads", "is enough"))
