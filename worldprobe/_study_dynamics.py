"""When behaviour and readings of a study appear in training: the checkpoints of the model, two stages each.

At every checkpoint the model is asked what the study asks, on fewer items, and every followed reading is read with the
linear probe at every layer, fitted on train at that checkpoint; its layer is chosen on validation, there too. The probe
of the last checkpoint is read out at all others (`logistic:final`): where that fails and a new probe does not, the
label is there in another place.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy import ndarray

from probing import identify, load_model, results_frame
from probing.formation import Curve, coincidence, transition
from tasks import LabelledPrompts
from tasks._study import Reading, Study

from ._dynamics_report import dynamics_section
from ._rows import cell, pick
from ._run import Run
from ._study_checkpoints import FINAL, chosen, model_free_rows, read_checkpoint

__all__ = ["ENOUGH", "checkpoints", "curves_of", "dynamics_section", "dynamics_stages", "transition_table"]

ENOUGH = 5  # checkpoints, step 0 among them
HEADLINES = 3  # metrics of behaviour that are followed as curves; the rows have all

Groups = Mapping[int, Mapping[str, ndarray]]  # step -> arrays of `read_checkpoint`


def checkpoints(model_dir: Path) -> dict[int, Path]:
    """Step -> directory of every saved step of a model, ascending: `checkpoints/step-000032` in its directory."""
    found = {int(m[1]): path for path in (model_dir / "checkpoints").glob("step-*")
             if (m := re.fullmatch(r"step-(\d+)", path.name)) and (path / "config.json").exists()}
    return dict(sorted(found.items()))


def dynamics_stages(folder: Run, study: Study, model_dir: Path, prompts: Mapping[str, LabelledPrompts], seed: int,
                    quick: bool) -> tuple[list[pd.DataFrame], pd.DataFrame]:
    """(result rows per checkpoint with `revision` = `step N`, one row per followed curve: its transition), see
    `curves_of`."""
    tables, curves = curves_of(folder, study, model_dir, prompts, seed, quick)
    return tables, transition_table(curves, seed)


def curves_of(folder: Run, study: Study, model_dir: Path, prompts: Mapping[str, LabelledPrompts], seed: int,
              quick: bool) -> tuple[list[pd.DataFrame], list[tuple[dict, Curve]]]:
    """(result rows per checkpoint with `revision` = `step N`, what each followed curve is, and the curve).

    Both are empty for a model without checkpoints, or with fewer than a curve needs; the log says so. The last
    checkpoint stands for the model. Control `random_init` is what was read at step 0.
    """
    paths = checkpoints(model_dir)
    followed = [r for r in study.readings if r.followed]
    if not paths or not (followed or study.behaviour):
        return [], []
    if len(paths) < ENOUGH or 0 not in paths:
        folder.log(f"training is not followed: {model_dir / 'checkpoints'} has the steps {', '.join(map(str, paths))}; "
                   f"it takes step 0 and at least {ENOUGH} in all")
        return [], []
    n = 0 if study.behaviour is None else study.behaviour.quick // (2 if quick else 1)
    tables, groups, final = {}, {}, {}
    for step in [max(paths), *sorted(paths)[:-1]]:  # the last one first: its probes are read out everywhere
        read = functools.cache(functools.partial(read_checkpoint, paths[step], study, followed, prompts, n, seed,
                                                 dict(final)))
        tables[step] = folder.stage(f"dynamics-{step:06d}", lambda: read()[0])  # noqa: B023
        groups[step] = folder.stage(f"dynamics-{step:06d}-groups", lambda: read()[1])  # noqa: B023
        final = final or {key: value for key, value in groups[step].items() if not key[0].isdigit()}
        folder.log(f"step {step}: {_line(tables[step], study, followed)}")
    free = folder.stage("dynamics-baselines", lambda: model_free_rows(
        followed, study, prompts, seed, identify(load_model(paths[0])).causal)) if followed else results_frame([])
    tables = {step: tables[step] for step in paths}
    table = results_frame(_complete(tables, free, str(folder.config["model"])))
    return [table], list(_curves(study, followed, tables, groups, seed))


def transition_table(curves: Sequence[tuple[dict, Curve]], seed: int = 0) -> pd.DataFrame:
    """One row per curve: what it is (`kind` behaviour, probe or final_probe, `reading`, `metric`), its transition, and
    its lag behind the first curve of behaviour, see `probing.formation`."""
    first = next((curve for about, curve in curves if about["kind"] == "behaviour"), None)
    rows = []
    for about, curve in curves:
        row = about | transition(curve, seed)
        if first is not None and about["kind"] != "behaviour":
            row |= {k: v for k, v in coincidence(curve, first, seed).items() if k != "curve"}
        rows.append(row)
    return pd.DataFrame(rows)


def _curves(study: Study, followed: Sequence[Reading], tables: Mapping[int, pd.DataFrame], groups: Groups, seed: int
            ) -> Iterator[tuple[dict, Curve]]:
    """(what it is, the curve) of the headline metrics, and of the probes of every followed reading."""
    last = tables[max(tables)]
    for metric in list(study.behaviour.metrics)[:HEADLINES] if study.behaviour else ():
        found = {step: pick(rows, metric=metric, control=None, label=None) for step, rows in tables.items()}
        if all(len(rows) for rows in found.values()):
            yield ({"kind": "behaviour", "reading": None, "metric": metric},
                   _curve(metric, {step: rows.index[0] for step, rows in found.items()}, groups, seed))
    for reading in followed:
        top = chosen(last, reading.name)
        about = {"reading": reading.name, "metric": top["metric"]}
        name = reading.name  # of some studies that of a metric, too
        if study.behaviour is not None and name in study.behaviour.metrics:
            name += ", probe"
        yield (about | {"kind": "probe"}, _curve(name, {
            step: chosen(rows, reading.name).name for step, rows in tables.items()}, groups, seed))
        where = {"stream": top["stream"], "layer": top["layer"]}
        final = {step: pick(rows, positions=reading.name, probe=top["probe"] + FINAL, control=None, split="test",
                            **where) for step, rows in tables.items()}
        yield (about | where | {"kind": "final_probe"}, _curve(f"{reading.name}, final probe", {
            step: rows.index[0] for step, rows in final.items()}, groups, seed))


def _curve(name: str, rows: Mapping[int, Any], groups: Groups, seed: int) -> Curve:
    gain, size = (np.stack([groups[step][f"{row}.{part}"] for step, row in rows.items()]) for part in ("gain", "size"))
    return Curve.of_groups(name, np.array(list(rows)), gain, size, seed=seed)


def _complete(tables: Mapping[int, pd.DataFrame], free: pd.DataFrame, model: str) -> Iterator[dict]:
    """All rows under the name of the model and their steps; beside the probes of each step the controls that are the
    same at all, and those read at step 0."""
    untrained = tables[0][tables[0]["control"].isna() & tables[0]["probe"].notna()].assign(control="random_init")
    data = tables[0].dropna(subset="positions").drop_duplicates("positions").set_index("positions")["data_hash"]
    free = free.assign(data_hash=free["positions"].map(data))
    for step, rows in tables.items():
        for part in (rows, untrained, free):
            yield from part.assign(model=model, revision=f"step {step}").to_dict("records")


def _line(rows: pd.DataFrame, study: Study, followed: Sequence[Reading]) -> str:
    """The headlines of a checkpoint, for the log."""
    shown = [chosen(rows, reading.name) for reading in followed]
    if study.behaviour is not None:
        shown += [row for _, row in pick(rows, metric=next(iter(study.behaviour.metrics)), control=None).iterrows()]
    return "; ".join(f"{row['metric'] if pd.isna(row['positions']) else row['positions']} {cell(row)}" for row in shown)
