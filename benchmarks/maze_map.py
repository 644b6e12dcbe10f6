"""Under which conditions does a map of the maze form in one token? The recipe of the reference model, one thing changed
at a time.

    python -m benchmarks.maze_map --out runs/map                       # trains what is not trained: hours on a CPU
    python -m benchmarks.maze_map --out runs/map --only base one-query
    python -m benchmarks.maze_map --out runs/map --trained --table benchmarks/maze_map.csv     # only measures

A variant is the model of `python -m tasks.maze.train --out DIR/NAME --steps 300 FLAGS`; `longer` and `forkless` are
the reference models that are shipped. The same command again goes on with a training that was cut off, and repeats
neither a finished one nor its measurement.

How mazes are walked stands in the card of each. Measured on mazes that none of them was trained on: how well a logistic
probe reads every passage from `<PATH_START>` and from `<ADJLIST_END>`, after every block, beside the degrees of the
cells, the majority, the input alone and the same model with random weights. `accuracy_over_degree` is the probe of the
layer that is best on validation minus the degrees, on the same test mazes; intervals are 95 % bootstraps over mazes.
A map has formed where it lies above zero, and the probe above the best layer of the model with random weights: what
those show as well stands in the prompt, and was not put together in training.
"""

import argparse
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file
from scipy.stats import binomtest

import probing
from tasks import LabelledPrompts, maze, reference_models
from tasks.maze import train
from worldprobe._ink import INK, MUTED, SERIES, Plot, plot

VARIANTS = {
    "base": "", "seed-1": "--seed 1", "one-query": "--queries one", "all-loss": "--loss all",
    "sorted": "--listed sorted", "learned": "--positions learned", "layers-3": "--layers 3", "layers-12": "--layers 12",
    "width-64": "--width 64",
}
SHIPPED = {"longer": "maze", "forkless": "maze-forkless"}  # variant -> reference model, of more steps
PLACES = {"path_start": "<PATH_START>", "adjlist_end": "<ADJLIST_END>"}
PROBE = {"logistic": [probing.LogisticProbe(C=c, tol=1e-2) for c in (0.01, 0.1, 1.0)]}
OVER_DEGREE = "accuracy_over_degree"
COLUMNS = ["variant", "flags", "steps", "parameters", "metric", "positions", "stream", "layer", "probe", "control",
           "value", "ci_low", "ci_high", "n", "n_groups", "mazes", "seed", "model_hash"]
MAZES = 1000


def model_of(out: Path, name: str, steps: int, may_train: bool = True) -> Path | None:
    """The directory of a variant, trained if need be; None where there is none and none is to be trained.

    Raises:
        ValueError: What stands there was trained in another way.
    """
    if name in SHIPPED:
        return reference_models().get(SHIPPED[name])
    command = ["--out", str(out / name), "--steps", str(steps), *VARIANTS[name].split()]
    card = out / name / "README.md"  # written last
    if not card.exists():
        if not may_train:
            return None
        train.main(command)
    if (came := recipe(out / name)) != (wanted := train.given(train.parser().parse_args(command))):
        raise ValueError(f"{card} is of the recipe {came!r}, not {wanted!r}; give another --out, or the --steps it was "
                         "trained with")
    return out / name


def recipe(folder: Path) -> str:
    """Options of the training, as the card has them."""
    found = re.search(r"`python -m tasks.maze.train (.*?)`", (folder / "README.md").read_text())
    return found[1] if found else ""


def measured(name: str, folder: Path, file: Path, n: int, seed: int) -> pd.DataFrame:
    """The rows of a variant, from `file` if they are of this model and these numbers."""
    model = probing.load_model(folder)
    said = recipe(folder)
    options = train.parser().parse_args(["--out", ".", *said.split()])
    n_parameters = sum(weight.numel() for weight in load_file(folder / "model.safetensors").values())
    about = {"variant": name, "flags": re.sub(r"--(size|steps) \d+ ?", "", said).strip(), "steps": options.steps,
             "parameters": n_parameters, "mazes": n, "seed": seed, "model_hash": probing.identify(model).digest}
    if file.exists() and (found := read_table(file))[list(about)].drop_duplicates().to_dict("records") == [about]:
        return found
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.concat([walked(folder), read(model, options.listed, n, seed),
                      read_random(model, options.listed, n, seed, file.parent.parent)])
    rows.assign(**about).reindex(columns=COLUMNS).to_csv(file, index=False, float_format="%.4f")
    return read_table(file)


def read_table(file: Path) -> pd.DataFrame:
    """The rows of `main`."""
    return pd.read_csv(file, keep_default_na=False, na_values={c: [""] for c in COLUMNS if c != "flags"},
                       dtype={"layer": "Int64"})


def walked(folder: Path) -> pd.DataFrame:
    """How the model walks held-out mazes of the kind it was trained on, as its card has it; Wilson's intervals."""
    said = " ".join((folder / "README.md").read_text().split()).partition("**Held-out metrics** (")[2]
    n, rows = int(said.split()[0].replace(",", "")), []
    for metric in ("exact", "valid", "target"):
        value = float(re.search(rf"\b{metric}(?: reached)? (\d\.\d+)", said)[1])
        low, high = binomtest(round(value * n), n).proportion_ci(method="wilson")
        rows.append({"metric": metric, "value": value, "ci_low": low, "ci_high": high, "n": n, "n_groups": n})
    return pd.DataFrame(rows)


def read(model, listed: str, n: int, seed: int) -> pd.DataFrame:
    """Of every place, accuracy after every block and of the controls that need no model on test mazes, and before them
    what the best layer has over the degrees. Every prompt is run once."""
    prompts = {at: maze.load(n, seed, at=at, listed=listed) for at in PLACES}
    every = replace(next(iter(prompts.values())),
                    examples=pd.concat([each.examples for each in prompts.values()], ignore_index=True))
    acts, tables = probing.extract(model, every, cache=False, random_init=None), []
    for i, (at, own) in enumerate(prompts.items()):
        part = {site: acts[site][i * n : (i + 1) * n] for site in acts}
        found = probing.sweep(part, own, ["passage"], PROBE, controls=("input_only",), seed=seed)
        rows = found.rows
        rows = rows[(rows["metric"] == "accuracy") & (rows["split"] == "test") & (rows["subset"] == "all")]
        tables += [pd.DataFrame([over_degrees(found, part, own, seed) | {"positions": at}]),
                   rows[[c for c in COLUMNS if c in rows]].assign(positions=at)]
    return pd.concat(tables, ignore_index=True)


def read_random(model, listed: str, n: int, seed: int, folder: Path) -> pd.DataFrame:
    """The same model with random weights, as the control `random_init`: measured once per architecture."""
    twin = probing.random_init(model, seed)
    file = folder / f"random-{probing.identify(twin).digest[:12]}-{listed}-{n}-{seed}.csv"
    if not file.exists():
        rows = read(twin, listed, n, seed)
        rows = rows[(rows["metric"] == "accuracy") & rows["control"].isna()].assign(control="random_init")
        rows.reindex(columns=COLUMNS).to_csv(file, index=False, float_format="%.4f")
    return read_table(file)


def over_degrees(found: probing.Sweep, acts: Mapping, prompts: LabelledPrompts, seed: int) -> dict:
    """The row of the best layer's gain, by maze."""
    site, probe = found.best("passage")
    test = prompts.rows("test")
    truth, group = prompts.labels("passage")[test], prompts.examples["group"].to_numpy()[test]
    right = (probe.predict(np.asarray(acts[site])[test]) == truth).mean(1)
    value, low, high = probing.bootstrap_mean(right - (prompts.labels("by_degree")[test] == truth).mean(1), group,
                                              seed=seed)
    return {"metric": OVER_DEGREE, "stream": site.stream, "layer": site.layer, "probe": "logistic", "value": value,
            "ci_low": low, "ci_high": high, "n": int(test.sum()), "n_groups": len(np.unique(group))}


def summary(table: pd.DataFrame, at: str) -> pd.DataFrame:
    """One row per variant: `exact` paths; and of the place `at` the best `layer` (-1: the embedding), its `accuracy`
    beside those of the `degrees`, the `majority`, the `input` alone and the best layer of the `random` twin, the gain
    `over` the degrees, and whether a map has `formed`. `exact` and `over` with the ends of their intervals."""
    out = {}
    for name, rows in table.groupby("variant", sort=False):
        exact = rows[(rows["metric"] == "exact") & rows["control"].isna()].iloc[0]
        here = rows[rows["positions"] == at]
        over = here[here["metric"] == OVER_DEGREE].iloc[0]
        same = (here["stream"] == over["stream"]) & (here["layer"] == over["layer"])
        scores = here[(here["metric"] == "accuracy") & (same | here["layer"].isna())]
        own = scores[scores["control"].isna()].iloc[0]
        twin = here[(here["metric"] == "accuracy") & (here["control"] == "random_init")]
        twin = twin.loc[twin["value"].idxmax()]
        scores = scores.set_index(scores["control"].fillna("probe"))["value"]
        out[name] = {"flags": exact["flags"], "steps": exact["steps"]} | _interval("exact", exact) | {
            "layer": -1 if over["stream"] == "resid_pre" else int(over["layer"]), "accuracy": scores["probe"],
            "degrees": scores["shortcut:by_degree"], "majority": scores["majority"], "input": scores["input_only"],
            "random": twin["value"]} | _interval("over", over) | {
            "formed": bool(over["ci_low"] > 0 and own["ci_low"] > twin["ci_high"])}
    return pd.DataFrame(out).T.infer_objects()


def _interval(name: str, row: pd.Series) -> dict[str, float]:
    return {name: row["value"], f"{name}_low": row["ci_low"], f"{name}_high": row["ci_high"]}


def figure(table: pd.DataFrame) -> Plot:
    """For every variant, how much better than the degrees the best layer tells the passages, against how often it walks
    without a mistake; one panel per place. Hollow: the best layer of the same model with random weights."""
    picture, axes = plot(table, len(PLACES), (9.6, 4.3))
    points = {}
    for ax, (at, token) in zip(axes, PLACES.items(), strict=True):
        rows = summary(table, at)
        points[ax] = rows[["exact", "over"]].astype(float)
        ax.axhline(0, color=INK, lw=1.1, ls=(0, (5, 2)))
        for _, row in rows.iterrows():
            colour = SERIES[2] if row["formed"] else SERIES[1]
            ax.plot(row["exact"], row["random"] - row["degrees"], "o", mfc="none", mec=MUTED, ms=6, mew=1.1)
            ax.vlines(row["exact"], row["over_low"], row["over_high"], color=colour, lw=1.3)
            ax.hlines(row["over"], row["exact_low"], row["exact_high"], color=colour, lw=1.3)
            ax.plot(row["exact"], row["over"], "o", color=colour, ms=6, mec="white", mew=0.8)
        ax.set_title(f"read from {token}", size=10, color=INK, loc="left")
        ax.set_xlabel("paths without a mistake (share of held-out mazes)")
        ax.margins(0.12, 0.1)
    low, high = (end(ax.get_ylim()[i] for ax in axes) for i, end in enumerate((min, max)))
    for ax in axes:
        ax.set_ylim(low, high)
    axes[0].set_ylabel("accuracy of the probe minus that of the degrees")
    axes[0].plot([], [], "o", mfc="none", mec=MUTED, ms=6, mew=1.1, label="random weights, best layer")
    axes[0].legend(loc="upper left", frameon=False, fontsize=8.5)
    axes[0].text(0.99, 0.0, "the degrees of the cells", transform=axes[0].get_yaxis_transform(), ha="right",
                 va="bottom", size=8, color=MUTED)
    picture.draw_without_rendering()  # the layout is then what it will be
    for ax, rows in points.items():
        _name(ax, rows.to_numpy(), list(rows.index))
    return picture


def _name(ax, points: np.ndarray, names: list[str]) -> None:
    """Each name beside its point (x, y), where it covers least of the other points and names."""
    at = ax.transData.transform(points) * 72 / ax.figure.dpi  # in points of 1/72 inch
    taken = [(px - 4, py - 4, px + 4, py + 4) for px, py in at]
    for (px, py), place, name in zip(at, points, names, strict=True):
        wide, high = 4.8 * len(name), 9
        boxes = [(dx, dy, (px + dx, py + dy, px + dx + wide, py + dy + high)) for dx, dy in (
            (6, 3), (6, -12), (-6 - wide, 3), (-6 - wide, -12), (-wide / 2, 10), (-wide / 2, -19), (12, 14), (12, -23))]
        dx, dy, box = min(boxes, key=lambda each: sum(_shared(each[2], other) for other in taken))
        taken.append(box)
        ax.annotate(name, place, (dx, dy), textcoords="offset points", size=8.5, color=INK)


def _shared(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    """The area that two boxes (left, bottom, right, top) have in common."""
    wide, high = (max(0.0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1))
    return wide * high


def said(table: pd.DataFrame) -> str:
    """A line about a variant."""
    lines = {token: summary(table, at).iloc[0] for at, token in PLACES.items()}
    return f"exact {next(iter(lines.values()))['exact']:.3f}; " + "; ".join(
        f"{token} {line['accuracy']:.3f} at layer {line['layer']}, over the degrees {line['over']:+.3f} "
        f"[{line['over_low']:+.3f}, {line['over_high']:+.3f}]" for token, line in lines.items())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*VARIANTS, *SHIPPED]
    parser.add_argument("--out", type=Path, required=True, help="folder of the trainings and their measurements")
    parser.add_argument("--only", nargs="+", choices=every, default=every, metavar="NAME", help=", ".join(every))
    parser.add_argument("--steps", type=int, default=300, help="of every training")
    parser.add_argument("--trained", action="store_true", help="leave out what is not trained")
    parser.add_argument("--mazes", type=int, default=MAZES, help="for the probes")
    parser.add_argument("--seed", type=int, default=0, help="of mazes and probes")
    parser.add_argument("--table", type=Path, help="where the table goes (default: OUT/maze_map.csv)")
    args = parser.parse_args(argv)
    tables = []
    for name in args.only:
        if (folder := model_of(args.out, name, args.steps, not args.trained)) is None:
            print(f"{name}: not trained, left out", flush=True)
            continue
        tables.append(measured(name, folder, args.out / name / "maze_map.csv", args.mazes, args.seed))
        print(f"{name}: {said(tables[-1])}", flush=True)
    if not tables:
        parser.error("nothing is trained; leave --trained out")
    file = args.table or args.out / "maze_map.csv"
    table = pd.concat(tables)
    table.to_csv(file, index=False, float_format="%.4f")
    figure(table).savefig(file.with_suffix(".png"), dpi=160)
    print(file)


if __name__ == "__main__":
    main()
