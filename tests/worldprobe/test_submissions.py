import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.submissions import ROWS, broken, damaged, signed
from probing._statistics import bootstrap_mean
from tests.worldprobe.payloads import PAYLOADS
from worldprobe import _cli
from worldprobe._board_effects import AT_KL
from worldprobe._leaderboard import add, validate
from worldprobe._submission import MAX_BYTES, SubmissionError, parse

WHOLE = signed(ROWS)
DIGEST = json.loads(WHOLE)["digest"]


def with_samples(n: int = 400, seed: int = 0) -> tuple[bytes, bytes]:
    """A submission whose first row is the mean of scores, and those scores."""
    rng = np.random.default_rng(seed)
    groups, scores = rng.integers(20, size=n), (rng.random(n) < 0.9).astype(int)
    value, low, high = bootstrap_mean(scores, groups, seed=0)
    row = ROWS[0] | {"value": float(value), "ci_low": float(low), "ci_high": float(high), "n": n,
                     "n_groups": len(np.unique(groups))}
    rows = [row, *ROWS[1:]]
    whole = signed(rows)
    samples = {"digest": json.loads(whole)["digest"],
               "samples": [{"row": 0, "group": groups.tolist(), "score": scores.tolist()}]}
    return whole, json.dumps(samples).encode()


def test_what_a_run_writes_is_accepted():
    found = parse(WHOLE)
    assert len(found.table) == len(ROWS) and not found.recomputed.any() and found.digest == DIGEST


@pytest.mark.parametrize("seed", range(2))
def test_nothing_that_is_wrong_is_accepted_and_nothing_crashes(seed):
    rng = random.Random(seed)
    for _ in range(40):
        name, data = broken(rng)
        with pytest.raises(SubmissionError) as refused:
            parse(data)
        assert str(refused.value).isprintable() or "\n" in str(refused.value), name
        try:
            found = parse(damaged(rng, WHOLE))
        except SubmissionError:
            continue
        assert found.digest == DIGEST and len(found.table) == len(ROWS)


@pytest.mark.parametrize("column", ["model", "positions"])
def test_no_payload_in_a_submission_reaches_a_terminal(column, capsys, tmp_path):
    file = tmp_path / "s.json"
    for payload in PAYLOADS[-30:]:  # those meant for one
        file.write_bytes(signed([row | {column: payload} for row in ROWS]))
        _cli.main(["leaderboard", "validate", str(file)])
        said = "".join(capsys.readouterr())
        assert said.startswith(("refused: ", "valid: ")) and all(c.isprintable() or c == "\n" for c in said)


@pytest.mark.parametrize(("data", "message"), [
    (b" " * (MAX_BYTES + 1), "at most 32 MB"), (b"\xff", "UTF-8, byte 0"), (b"[1, 2]", "a list of 2"),
    (b'{"rows": []}', 'an object with "rows"'), (b"[" * 14 + b"]" * 14, "nested 14 deep"),
    (b'{"a": 1, "a": 2}', 'the key "a" stands twice'), (b'{"a": NaN}', "NaN is no JSON number"),
    (b'{"a": 1e999}', "not finite"), (b'{"a": ' + b"9" * 5000 + b"}", "no room in 64 bits"),
    (signed(ROWS, digest="0" * 64), "does not match its digest"),
    (signed([ROWS[0] | {"learning_rate": 1}]), 'a column "learning_rate"'),
    (signed([ROWS[0] | {"layer": 3.0}]), "layer must be a whole number"),
    (signed([ROWS[0] | {"value": True}]), "value must be a number"),
    (signed([ROWS[0] | {"value": 1.5, "ci_high": 1.6}, *ROWS[1:]]), "a share is between 0 and 1"),
    (signed(ROWS[1:2] + ROWS[:1]), "a probe without its control 'shuffled_labels'"),
])
def test_a_refusal_says_what_is_wrong(data, message):
    with pytest.raises(SubmissionError) as refused:
        parse(data)
    assert message in str(refused.value)


def test_rows_are_recomputed_from_the_scores_of_their_examples():
    whole, samples = with_samples()
    assert parse(whole, samples).recomputed.tolist() == [True] + [False] * (len(ROWS) - 1)


@pytest.mark.parametrize(("change", "message"), [
    (lambda s: s["samples"][0]["score"].__setitem__(slice(0, 9), [0] * 9), "its samples give"),
    (lambda s: s["samples"][0]["group"].reverse(), "its samples give"),
    (lambda s: s["samples"][0].update(row=99), "row must be a number from 0 to 8"),
    (lambda s: s["samples"][0].update(row=8), "is no mean over examples"),
    (lambda s: s["samples"][0]["score"].pop(), "as many of each"),
    (lambda s: s["samples"][0]["score"].__setitem__(0, "1"), "score numbers"),
    (lambda s: s["samples"][0]["score"].extend([1] * 9) or s["samples"][0]["group"].extend([0] * 9), "the row has n"),
    (lambda s: s["samples"][0].update(extra=1), "row, group and score"),
    (lambda s: s.update(digest="0"), "belong to other results"), (lambda s: s.update(samples={}), "a list"),
])
def test_samples_that_do_not_give_the_number_are_refused(change, message):
    whole, samples = with_samples()
    wrong = json.loads(samples)
    change(wrong)
    with pytest.raises(SubmissionError, match=message):
        parse(whole, json.dumps(wrong).encode())


def test_a_submission_is_added_once_with_its_samples(tmp_path, capsys):
    file, board = tmp_path / "mine.json", tmp_path / "board"
    whole, samples = with_samples()
    file.write_bytes(whole)
    file.with_suffix(".samples.json").write_bytes(samples)
    assert validate(file).startswith("valid: 9 rows of othello (schema 3); 1 recomputed")
    assert _cli.main(["leaderboard", "add", str(file), "--to", str(board)]) == 0
    path = capsys.readouterr().out.strip()
    assert path.startswith(str(board / "othello-othello-")) and len(list(board.iterdir())) == 2
    with pytest.raises(SubmissionError, match="has these results already"):
        add(file, board)


def test_an_invalid_submission_leaves_no_trace(tmp_path, capsys):
    file, board = tmp_path / "mine.json", tmp_path / "board"
    file.write_bytes(WHOLE[:-30])
    assert _cli.main(["leaderboard", "add", str(file), "--to", str(board)]) == 1
    assert "refused: this is no JSON" in capsys.readouterr().err and not board.exists()
    assert _cli.main(["leaderboard", "validate", str(tmp_path / "gone.json")]) == 1
    assert "there is no file" in capsys.readouterr().err
    shutil.rmtree(board, ignore_errors=True)


def test_side_effects_are_compared_where_the_edits_compare_them():
    source = (Path(__file__).parents[2] / "interventions" / "_doses.py").read_text()  # importing it loads torch
    assert float(re.search(r"^AT_KL = ([\d.]+)", source, re.MULTILINE)[1]) == AT_KL
