import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import tasks
import worldprobe
from worldprobe import __version__, _cli

HELP = """
import sys
from worldprobe import _cli
try:
    _cli.main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code
heavy = ("torch", "pandas", "transformer_lens", "sklearn", "matplotlib", "rich")
print("HEAVY", [m for m in heavy if m in sys.modules])
"""


STUDY = r"""
import json
from pathlib import Path

def run(out, model="tiny", *, games=10, seed=0, quick=False, log=print):
    if model == "gone":
        raise ValueError("no model 'gone';\n  there is: tiny")
    if model == "bug":
        raise TypeError("unhashable")
    if model == "long":
        raise KeyboardInterrupt
    log(f"model {model}, {games} games, seed {seed}, quick {quick}")
    return Path(out) / "report.html"

def reproduce(out, *, log=print):
    checks = [{"id": 1, "what": "flip error", "paper": 0.12, "ours": 0.0501, "ci_low": 0.04, "ci_high": 0.06,
               "pass_mark": "<= 0.25", "pass": out != "bad"},
              {"id": 2, "what": "discs never flip", "paper": None, "ours": 0.803, "ci_low": None, "ci_high": None,
               "pass_mark": "0.803", "pass": True}]
    path = Path(__file__).with_name("checks.json")
    path.write_text(json.dumps(checks))
    return path

def plan(model="tiny", games=10, seed=0):
    return f"{games} games"
"""


@pytest.fixture
def study(monkeypatch, tmp_path):
    """The name of a small task with a study, found the way ours are."""
    for package, file, text in ((tasks, "toy.py", ""), (worldprobe, "_toy.py", STUDY)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / file).write_text(text)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    yield "toy"
    sys.modules.pop("worldprobe._toy", None)


def call(capsys, *argv) -> tuple[int, list[str], list[str]]:
    """Exit code, lines of standard output, lines of standard error."""
    try:
        code = _cli.main(list(map(str, argv)))
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    return code, out.splitlines(), err.splitlines()


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["cache", "prune", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(argv):
    done = subprocess.run([sys.executable, "-c", HELP, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_python_m_worldprobe_is_the_command():
    done = subprocess.run([sys.executable, "-m", "worldprobe", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"worldprobe {__version__}\n")


def test_run_ends_with_the_path_of_the_report_and_talks_on_standard_error(capsys, study, tmp_path):
    code, out, err = call(capsys, "run", study, "--out", tmp_path, "--games", 3, "--quick")
    assert (code, out, err) == (0, [str(tmp_path / "report.html")], ["model tiny, 3 games, seed 0, quick True"])


def test_options_that_are_not_given_keep_the_defaults_of_the_study(capsys, study, tmp_path):
    assert call(capsys, "run", study, "--out", tmp_path)[2] == ["model tiny, 10 games, seed 0, quick False"]


def test_a_dry_run_prints_the_plan_and_writes_nothing(capsys, study, tmp_path):
    assert call(capsys, "run", study, "--out", tmp_path / "run", "--games", 3, "--dry-run") == (0, ["3 games"], [])
    assert not (tmp_path / "run").exists()


def test_reproduce_prints_the_checks_and_fails_when_one_does(capsys, study):
    code, out, err = call(capsys, "reproduce", study, "--out", "good")
    text = "\n".join(out)
    assert (code, err) == (0, []) and out[-1].endswith("checks.json")
    assert "flip error" in text and "0.12" in text and "0.0501 [0.04, 0.06]" in text and "<= 0.25" in text
    assert call(capsys, "reproduce", study, "--out", "bad")[0] == 1


@pytest.mark.parametrize(("argv", "message"), [
    (["run", "othelo", "--out", "x"], "worldprobe: no task 'othelo'; did you mean othello?"),
    (["reproduce", "otello", "--out", "x"], "worldprobe: no paper 'otello'; did you mean othello"),
    (["models", "path", "no such model"], "worldprobe: no reference model 'no such model'"),
    (["run", "othello"], "worldprobe run: the following arguments are required: --out. See worldprobe run --help"),
    (["run", "othello", "--out", "x", "--games", "0"], "worldprobe run: argument --games: '0' is not a whole number"),
    (["run", "othello", "--out", "x", "--learning-rate", "1"], "no option '--learning-rate'"),
    (["walk"], "no command 'walk' (there are: run, "),
    ([], "the following arguments are required"),
])
def test_a_wrong_command_is_one_line_and_exit_code_2(capsys, argv, message):
    code, out, err = call(capsys, *argv)
    assert (code, out, len(err)) == (2, [], 1)
    assert message in err[0]


def test_an_option_that_the_study_does_not_take_is_named(capsys, study):
    code, _, err = call(capsys, "run", study, "--out", "x", "--n-cases", 3)
    assert code == 2
    assert err == ["worldprobe: run toy does not take --n-cases; it takes --model, --games, --seed, --quick"]


def test_an_error_of_the_study_is_one_line_unless_debugging(capsys, study):
    argv = ["run", study, "--out", "x", "--model"]
    assert call(capsys, *argv, "gone") == (2, [], ["worldprobe: no model 'gone'; there is: tiny"])
    assert call(capsys, *argv, "bug") == (2, [], ["worldprobe: TypeError: unhashable (--debug shows where)"])
    with pytest.raises(TypeError):
        _cli.main([*argv, "bug", "--debug"])


def test_ctrl_c_says_how_to_continue(capsys, study):
    code, _, err = call(capsys, "run", study, "--out", "my runs", "--model", "long", "--fresh")
    assert code == 130
    assert err[-1] == "stopped; what is done is kept. To continue: worldprobe run toy --out 'my runs' --model long"


def test_fresh_never_discards_a_folder_that_is_not_a_run(capsys, study, tmp_path):
    (tmp_path / "chapter.tex").write_text("kept")
    code, _, err = call(capsys, "run", study, "--out", tmp_path, "--fresh")
    assert code == 2 and "is not a run folder" in err[0] and (tmp_path / "chapter.tex").exists()


def test_a_model_is_listed_with_its_size_and_the_first_sentence_of_its_card(tmp_path):
    folder = tmp_path / "othello" / "models" / "othello-6x6"
    folder.mkdir(parents=True)
    save_file({"wte": np.zeros((33, 8), np.float32), "bias": np.zeros(8, np.float32)}, folder / "model.safetensors")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# A card\n\nPredicts moves\nof 6x6 games. Seed 0.")
    cells = _cli.model_cells("othello-6x6", folder)
    assert cells == ("othello-6x6", "othello", "272", "0.0 MB", "Predicts moves of 6x6 games")


def test_the_directory_of_every_reference_model_is_printed_alone(capsys):
    for name, folder in tasks.reference_models().items():
        assert call(capsys, "models", "path", name) == (0, [str(folder)], [])
        assert name in "\n".join(call(capsys, "models")[1])


def test_a_study_is_a_module_with_a_run_or_what_a_task_says_of_its_own():
    own = _cli._own_studies()
    assert "othello" in own and {"decoy", "maze", "space_time", "truthfulness"} <= set(_cli.studies()) - set(own)
    for name in own:
        assert "def run(" in Path(_cli.__file__).with_name(f"_{name}.py").read_text()


def test_the_product_names_no_task_that_says_what_its_study_asks():
    """A task is added without a change to probing, interventions or worldprobe."""
    packages = [Path(_cli.__file__).parent, Path(_cli.__file__).parent.parent / "interventions",
                Path(_cli.__file__).parent.parent / "probing"]
    for file in (f for package in packages for f in package.rglob("*.py")):
        for name in ("tasks.maze", "tasks.space_time", "tasks.truthfulness", "import maze", "import space_time"):
            assert name not in file.read_text(), f"{file.name} names {name}"
