"""Our own reference results, the first rows of the leaderboard: whole runs on the shipped models, cut to what it shows.

    worldprobe reproduce maze --out runs/maze                # and othello, space_time, truthfulness
    python -m benchmarks.reference runs/maze runs/othello    # -> benchmarks/results/maze.parquet, ...
    make board                                               # -> site/index.html

Left out are checkpoints, scores by position and target, and metrics and controls of edits that the board does not
read. No number is changed and the board is the same. What is left is validated again, and written with the command, the
versions and the digest of the code of the run, and the day of its last stage.
"""

import argparse
import re
from pathlib import Path

import pandas as pd

from probing import read_results, validate, write_results
from worldprobe._board_effects import SHARES
from worldprobe._board_rows import METRICS, board_rows
from worldprobe._verdicts import NECESSITY

OUT = Path(__file__).with_name("results")
SUBSETS = ("all", "solved", "unrelated")
EFFECTS = (*SHARES, "set_error", "kl")
CONTROLS = ("null", "clean", "random_direction", "random_subspace", "random_heads", "told",
            "full_patch")  # of an effect


def reference(run: str | Path, out: str | Path = OUT) -> Path:
    """Writes the results of a run folder as TASK.parquet (TASK-intervene.parquet of that command); returns the file.

    Raises:
        ResultsError: What is left would break a rule of the results.
        ValueError: The board would show something else.
    """
    run, out = Path(run), Path(out)
    table, metadata = read_results(run / "results.parquet")
    command = metadata["command"]
    task = table["task"].iloc[0].partition("-")[0]
    name = f"{task}-{command[1]}" if command[1] == "intervene" else task
    last = (run / "run.log").read_text().splitlines()[-1]
    days = re.findall(r"^\d{4}-\d\d-\d\d", last)
    kept = {k: v for k, v in metadata.items() if k != "python"}
    out.mkdir(parents=True, exist_ok=True)
    kept_rows = validate(cut(table))
    rows = [board_rows(t, metadata).drop(columns=["score_row", "effect_row"]) for t in (table, kept_rows)]
    if not rows[0].equals(rows[1]):
        raise ValueError(f"the board of {run} is another once its results are cut; mend benchmarks/reference.py")
    path = write_results(kept_rows, out / f"{name}.parquet", kept | {
        "command": portable(command, name), "made": days[0] if days else "unknown"})
    path.with_suffix(".json").unlink()
    return path


def cut(table: pd.DataFrame) -> pd.DataFrame:
    """The rows that a board shows, and the controls that they cannot be without."""
    edited = table["intervention"].notna()
    planned = table["metric"].str.endswith("_difference") & (table["split"] == "report")
    held = (table["control"].isna() | table["control"].isin(CONTROLS)) & (table["probe"] != "witness").fillna(True)
    removes = table["intervention"].isin(NECESSITY) | (table["metric"] != "set_error")
    shown = (edited & table["metric"].isin(EFFECTS) & held & removes) | planned | (
        ~edited & table["label"].notna() & table["metric"].isin(METRICS[:2]))
    own = ~table["revision"].fillna("").str.startswith("step ")
    return table[shown & own & table["subset"].isin(SUBSETS)].reset_index(drop=True)


def portable(command: list[str], name: str) -> list[str]:
    """The command line without the folders of a machine."""
    words = [word for word in command if word != "--debug"]
    return [f"runs/{name}" if i and words[i - 1] == "--out" else word for i, word in enumerate(words)]


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("runs", nargs="+", metavar="DIR", help="folders of finished runs")
    for run in options.parse_args().runs:
        path = reference(run)
        print(f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}: "
              f"{path.stat().st_size / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
