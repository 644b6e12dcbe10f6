"""What users mistype, misplace and mix up: one line that names what came and what to do next, and no traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import BertConfig, BertForMaskedLM

import tasks
import worldprobe
from probing._huggingface import quiet
from worldprobe import _cli
from worldprobe._run import open_run

STAGED = """
import pandas as pd
from worldprobe._run import open_run

def run(out, model="tiny", *, log=print):
    folder = open_run(out, {"task": "staged", "model": model}, log=log)
    folder.stage("numbers", lambda: pd.DataFrame({"n": [1, 2, 3]}))
    return folder.path / "report.html"
"""

MISTAKES = {  # command -> what came, what to do next
    # which command, which task
    "wakl othello": ("'wakl'", "there are: run, reproduce"),
    "models decoy": ("'decoy'", "there are: path"),
    "cache lst": ("'lst'; did you mean ls?", "there are: ls, verify, repair, prune"),
    "run": ("TASK, --out", "See worldprobe run --help"),
    "run othelo --out x": ("'othelo'", "did you mean othello?"),
    "run decoy maze --out x": ("unexpected 'maze'", "See worldprobe run --help"),
    "reproduce otello --out x": ("'otello'", "did you mean othello"),
    "intervene deocy --out x": ("'deocy'", "did you mean decoy?"),
    "formation mase --out x": ("'mase'", "did you mean maze? (there are: decoy"),
    "models path decoi": ("'decoi'", "did you mean decoy"),
    # options
    "run decoy --out x --debg": ("'--debg'", "did you mean --debug"),
    "run othello --quick --full --out x": ("--full", "give one of the two"),
    "run othello --out x --games 1e3": ("'1e3'", "a whole number from 1"),
    "run decoy --out x --seed -1": ("'-1' is no seed", "from 0 to"),
    "run maze --games 10 --out x": ("--games", "it takes --model, --prompts"),
    "run decoy --with sizr --out x": ("'sizr'", "say KEY=VALUE"),
    "run maze --with sise=6 --out x": ("'sise'", "it takes generator, mazes, size"),
    "run maze --with size=six --out x": ("'six'", "such as 6 or 4x6"),
    "run maze --with model=mine --out x": ("model=mine", "--model mine"),
    "run maze --with size=6 --out x": ("6x6", "python -m tasks.maze.train --size"),
    "run othello --cases publishd --out x": ("'publishd'", "'published', 'natural', 'unnatural'"),
    "intervene othello --with size=7 --out x": ("not 7", "one of (4, 6, 8)"),
    "intervene decoy --labels mrk --out x": ("'mrk'", "did you mean mark?"),
    "intervene decoy --edits ster --out x": ("'ster'", "did you mean steer?"),
    "intervene decoy --directions mass_mean --out x": ("'mass_mean'", "did you mean mass_mean.write?"),
    "intervene decoy --price -1 --out x": ("'-1' is no price", "a number of nats above 0"),
    "intervene decoy --target e6 --out x": ("'e6'", "there are: answer"),
    "intervene decoy --n-cases 2 --prompts 40 --out x": ("2 cases", "give more with --n-cases"),
    "run decoy --prompts 1 --out x": ("there are 1", "give more prompts"),
    "reproduce formation --out x --model decoy": ("--model", "it takes --seed, --quick"),
    # models
    "run decoy --model ./nosuch --out x": ("no model at nosuch", "holds bert"),
    "run decoy --model weightless --out x": ("weightless has no weights", "save_pretrained"),
    "run decoy --model unconfigured --out x": ("it has no config.json", "save_pretrained"),
    "run decoy --model garbled --out x": ("config.json cannot be read", "restore it"),
    "run decoy --model cut --out x": ("cut/model.safetensors is damaged (2000 bytes)", "Restore it"),
    "run decoy --model notes.txt --out x": ("notes.txt is no model", "wanted a directory"),
    "run othello --model decoy --out x": ("22 tokens", "such as othello"),
    "run decoy --model othello --out x": ("61 tokens", "use --model decoy"),
    "intervene decoy --model bert --out x": ("bert is an encoder", "Take a decoder"),
    "formation decoy --out x": ("decoy has checkpoints at steps (none)", "checkpoints/step-000000"),
    # data
    "run truthfulness --with data=words.csv --out x": ("data=words.csv", "--model"),
    "run truthfulness --model wordless --with data=words.csv --out x": ("data=words.csv", "its tokenizer"),
    "run truthfulness --model copy --with data=words.csv --out x": ("lable", "rename"),
    "run truthfulness --model copy --with data=notes.csv --out x": ("notes.csv is no table", "save it as CSV"),
    "run space_time --model copy --with data=plce.csv --out x": ("plce.csv", "one of world_place"),
    # folders
    "run decoy --out notes.txt": ("notes.txt: it is a file", "with --out"),
    "run decoy --out notes.txt/run": ("notes.txt/run: Not a directory", "with --out"),
    "run decoy --out thesis": ("chapter.tex", "a new or empty folder"),
    "run decoy --out thesis --fresh": ("chapter.tex", "a new or empty folder"),
    "run decoy --out other": ("config.task is \"othello\" there", "--fresh"),
    "run decoy --out broken": ("broken/run.json is damaged", "remove broken"),
    "cache ls --cache nosuch": ("--cache nosuch", "leave --cache out"),
    "cache verify ./thesis --cache other": ("'./thesis'", "there are: none"),
    "cache prune --cache other": ("say what to remove", "--older-than 30d"),
    "cache prune --older-than 30 --cache other": ("'30'", "say 12h, 30d or 8w"),
    # results
    "export nosuch --to csv": ("no nosuch", "name a run folder"),
    "export other --to csv": ("other has no results.parquet", "the same command again"),
    "export other --to cvs": ("'cvs'", "there are csv, parquet"),
    "export words.csv --to csv": ("'words.csv'", "name the folder of a run"),
    "export results.parquet --to csv": ("results.parquet is not a results file or is damaged", "restore it"),
    "export results.json --to csv": ("it is a list", "restore it"),
    "leaderboard build nosuch": ("no nosuch", "name a run folder"),
    "leaderboard build results.parquet --out site": ("results.parquet is not a results file", "write it again"),
    "cite results.json/x": ("no results.json/x", "name a run folder"),
    "leaderboard add results.json": ("--to", "See worldprobe leaderboard add --help"),
    "cite notes.txt": ("'notes.txt'", "name the folder of a run"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with everything that a mistake needs, which nothing in it changes."""
    here = tmp_path_factory.mktemp("mistakes")
    decoy = tasks.reference_models()["decoy"]
    for name, without in {"weightless": "*.safetensors", "unconfigured": "config.json", "garbled": "sha256.json",
                          "cut": "sha256.json", "wordless": "tokenizer*", "copy": ""}.items():
        shutil.copytree(decoy, here / name, ignore=shutil.ignore_patterns(without, "sha256.json"))
    (here / "garbled" / "config.json").write_text("{nope")
    weights = here / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with quiet():
        BertForMaskedLM(BertConfig(vocab_size=22, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                                   intermediate_size=64, max_position_embeddings=16)).save_pretrained(here / "bert")
    for name, text in {"notes.txt": "not a model", "words.csv": "statement,lable\nSnow is white.,1\n",
                       "results.parquet": "nonsense", "results.json": "[]", "thesis/chapter.tex": "kept",
                       "broken/run.json": "{"}.items():
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_text(text)
    (here / "notes.csv").write_bytes(bytes(range(256)))
    open_run(here / "other", {"task": "othello"})
    return here


def call(capsys, *argv) -> tuple[int, list[str], list[str]]:
    try:
        code = _cli.main(list(argv))
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


@pytest.mark.parametrize("command", MISTAKES)
def test_a_mistake_is_one_line_with_what_came_and_what_to_do(capsys, monkeypatch, folder, command):
    monkeypatch.chdir(folder)
    monkeypatch.delenv("WORLDPROBE_DATA", raising=False)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    code, out, err = call(capsys, *command.split())
    assert (code, out, len(err)) == (2, [], 1), err
    came, remedy = MISTAKES[command]
    assert came in err[0] and remedy in err[0], err[0]
    assert err[0].startswith("worldprobe") and len(err[0]) < 700
    now = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != ".lock"}
    assert now == before, "a mistake leaves no folder behind that the right command would trip over"


@pytest.mark.parametrize(("file", "came"), [("nosuch.json", "no file nosuch.json"), ("results.json", "a list of 0"),
                                            ("results.parquet", "no JSON"), ("notes.csv", "byte 128")])
def test_a_refused_submission_is_one_line_and_exit_code_1(capsys, monkeypatch, folder, file, came):
    monkeypatch.chdir(folder)
    code, out, err = call(capsys, "leaderboard", "validate", file)
    assert (code, out, len(err)) == (1, [], 1) and err[0].startswith("refused: ")
    assert came in err[0] and "results.json of a run" in err[0], err[0]


def test_debug_shows_where_a_mistake_was_noticed(monkeypatch, folder):
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="nosuch"):
        _cli.main(["run", "decoy", "--model", "./nosuch", "--out", "x", "--debug"])


@pytest.fixture
def staged(monkeypatch, tmp_path):
    """A study of one stage, found the way ours are, and run once: the folder of the run."""
    for package, file, text in ((tasks, "staged.py", ""), (worldprobe, "_staged.py", STAGED)):
        where = tmp_path / package.__name__
        where.mkdir()
        (where / file).write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(where)])
    assert _cli.main(["run", "staged", "--out", str(tmp_path / "run")]) == 0
    yield tmp_path / "run"
    del sys.modules["worldprobe._staged"]


def test_a_damaged_stage_is_named_with_both_hashes(capsys, staged):
    file = staged / "stages" / "numbers.parquet"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    capsys.readouterr()
    code, _, err = call(capsys, "run", "staged", "--out", str(staged))
    assert code == 2 and str(file) in err[-1] and "recorded are" in err[-1] and "Restore it, or remove" in err[-1]


def test_a_folder_of_another_configuration_says_what_differs(capsys, staged):
    capsys.readouterr()
    code, _, err = call(capsys, "run", "staged", "--model", "large", "--out", str(staged))
    assert code == 2 and 'config.model is "tiny" there, "large" was asked for' in err[0] and "--fresh" in err[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(capsys, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = call(capsys, "run", "decoy", "--out", str(tmp_path / "run"))
    assert code == 2 and str(tmp_path / "run") in err[-1] and "Permission denied" in err[-1]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "worldprobe", "models", "path", "decoy"], stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode in (2, 120) and "No space left" in done.stderr and "Traceback" not in done.stderr


def test_exit_codes_are_in_the_help_and_are_those(capsys, folder, tmp_path):
    code, out, _ = call(capsys, "--help")
    text = " ".join(" ".join(out).split())
    assert code == 0 and _cli._EXIT_CODES in text
    for number in ("0", "1", "2", "130"):
        assert number in _cli._EXIT_CODES
    refused = tmp_path / "results.json"
    refused.write_text(json.dumps({"rows": []}))
    assert call(capsys, "leaderboard", "validate", str(refused))[0] == 1
    assert call(capsys, "run", "nosuch", "--out", "x")[0] == 2  # 130 and a failed check: test_cli.py
