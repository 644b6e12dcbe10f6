"""`worldprobe formation MODEL`: over the checkpoints of a model, when does it behave, when can its states be read, and
when do states, gradients and weights align? Which is first?

Behaviour and probes are those of the task's study, see `worldprobe._study_dynamics`. The six alignments are measured at
every linear layer on the task's own prompts under the loss of the next token, on disjoint parts of the prompts: the
curve of a relation is the mean over layers, and its interval resamples the parts.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from torch.nn.functional import cross_entropy

import tasks
from probing import check_fits, identify, load_model, write_results
from probing.formation import Curve, alignment_gains, alignments, coincidences, layer_moments, transitions
from tasks import LabelledPrompts
from tasks._study import Study

from ._cli import no_such
from ._dynamics_report import dynamics_plot, dynamics_section
from ._ink import SERIES
from ._report import Exhibit, Section, Table, write_report
from ._run import Run, open_run
from ._study import model_directory, sized, study_of
from ._study_dynamics import ENOUGH, checkpoints, curves_of, transition_table

PARTS, PER_PART = 8, 24  # of the prompts, for the alignments
QUICK_PARTS, QUICK_PER_PART = 5, 8
N_NULL = 5
RELATIONS = tuple((side, relation) for side in ("out", "in") for relation in ("RGA", "RWA", "GWA"))


def follow(out: str | Path, model: str, task: str | None = None, *, prompts: int | None = None, seed: int = 0,
           quick: bool = False, log: Callable[[str], None] = print) -> Path:
    """Follows a model through training; returns the path of the report. The same call again continues.

    Args:
        model: A reference model, or a directory in Hugging Face format, with `checkpoints/step-*` in it.
        task: What it is asked and what is read, by the task's study; of a reference model, its own.
        prompts: For every reading, instead of the study's numbers.
        quick: The small numbers of the study.
    Raises:
        ValueError: A model without enough checkpoints, or none at step 0; no task; or a study that follows nothing.
    """
    study, bridge = study_of(task or task_of(model), model)
    directory = model_directory(bridge, model)
    paths = checkpoints(directory)
    if len(paths) < ENOUGH or 0 not in paths:
        raise ValueError(f"{model} has checkpoints at steps {', '.join(map(str, paths)) or '(none)'}; to follow it "
                         f"takes step 0 and at least {ENOUGH} in all, in checkpoints/step-000000 and so on of its "
                         "directory")
    study = sized(study, prompts, None, quick)
    data = {r.name: r.load(r.n, seed) for r in study.readings if r.followed}
    if not data:
        raise ValueError(f"the study of {study.task} follows no reading through training, so there is nothing to hold "
                         "alignments against; name another task with --task")
    for read in data.values():
        check_fits(bridge, read)
    who = identify(bridge)
    folder = open_run(out, {"followed": True, "model": who.name, "task": study.task, "prompts": prompts, "seed": seed,
                            "quick": quick}, fingerprints={"model": who.digest}, log=log)
    return follow_study(folder, study, directory, data, seed, quick)


def follow_study(folder: Run, study: Study, directory: Path, data: Mapping[str, LabelledPrompts], seed: int, quick: bool
                 ) -> Path:
    """All stages, `results.parquet` and the report, whose path is returned.

    Args:
        directory: With `checkpoints/step-*` in it.
        data: Prompts of every followed reading.
    """
    paths = checkpoints(directory)
    text = max(data.values(), key=lambda read: read.tokens.shape[1])
    size = (QUICK_PARTS, QUICK_PER_PART) if quick else (PARTS, PER_PART)
    aligned = {step: folder.stage(f"alignment-{step:06d}", lambda: of_checkpoint(
        path, text, *size, nulls=step in (0, max(paths)), seed=seed)) for step, path in paths.items()}  # noqa: B023
    tables, curves = curves_of(folder, study, directory, data, seed, quick)
    table, found = tables[0], Followed(study, aligned, curves, seed)
    write_results(table, folder.path / "results.parquet", {"config": folder.config, **folder.environment()})
    for line in found.answers:
        folder.log(line)
    return _report(folder, table, found)


class Followed:
    """Curves of behaviour, probes and alignments of one model, and the lags between them.

    Attributes:
        alignments: One row per step, part, layer, relation and side, with `gain`, what it has grown by since step 0.
        curves: Of the six relations, mean over layers.
        transitions: Of all curves; of behaviour and probes as `transition_table` says.
        lags: One row per pair of a relation and a probe or behaviour: see `probing.formation.coincidence`.
        answers: Which is first, a line per probe.
    """

    def __init__(self, study: Study, aligned: Mapping[int, pd.DataFrame], others: Sequence[tuple[dict, Curve]],
                 seed: int):
        self.study = study
        self.alignments = with_gains(aligned)
        self.curves = [alignment_curve(aligned, side, relation, seed) for side, relation in RELATIONS]
        against = [curve for about, curve in others if about["kind"] in ("behaviour", "probe")]
        self.first = transition_table(others, seed)
        self.transitions = pd.DataFrame(transitions(self.curves, seed))
        self.lags = coincidences(self.curves, against, seed)
        self.answers = [answer(rows, self.transitions) for _, rows in self.lags.groupby("other", sort=False)]

    def draw(self, ax: Axes, x: np.ndarray) -> list[tuple[float, str, str]]:
        """The six relations at log steps: out-side solid, in-side dashed."""
        ends = []
        for i, curve in enumerate(self.curves):
            colour = SERIES[i % 3]
            low, high = np.percentile(curve.draws, [2.5, 97.5], axis=0)
            ax.vlines(x, low, high, color=colour, lw=1.2, alpha=0.7)
            ax.plot(x, curve.values, color=colour, lw=1.7, ls="-" if i < 3 else (0, (4, 2)))
            ends.append((float(curve.values[-1]), curve.name, colour))
        ax.set_ylabel("alignment (mean over layers)")
        return ends


def of_checkpoint(path: Path, text: LabelledPrompts, parts: int, per_part: int, *, nulls: bool, seed: int
                  ) -> pd.DataFrame:
    """The six alignments of every layer on every part of the prompts; those of the first part with a null of rotated
    eigenvectors. Missing where a matrix is zero."""
    model = load_model(path)
    size = min(per_part, len(text.tokens) // parts)
    if size < 1:
        raise ValueError(f"{parts} parts need as many prompts, there are {len(text.tokens)}; give more with --prompts")
    found = []
    for part in range(parts):
        rows = slice(part * size, (part + 1) * size)
        moments = layer_moments(model, next_token_loss, [(text.tokens[rows], text.lengths[rows])], keep=real,
                                zeros=True)
        found.append(alignments(moments, N_NULL if nulls and part == 0 else 0, seed).assign(part=part))
    return pd.concat(found, ignore_index=True)


def next_token_loss(model: Any, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Sum over real tokens of every prompt, in nats."""
    tokens, lengths = batch
    loss = cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
    return (loss.view(len(tokens), -1) * (torch.arange(1, tokens.shape[1]) < lengths[:, None])).sum(1)


def real(batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Tokens that are no padding."""
    tokens, lengths = batch
    return torch.arange(tokens.shape[1]) < lengths[:, None]


def alignment_curve(aligned: Mapping[int, pd.DataFrame], side: str, relation: str, seed: int = 0) -> Curve:
    """Mean over layers over the steps, parts resampled. A matrix of zeros aligns with nothing: 0."""
    steps = np.array(sorted(aligned))
    cells = []
    for step in steps:
        rows = aligned[int(step)]
        rows = rows[(rows["side"] == side) & (rows["relation"] == relation)]
        cells.append(rows.pivot(index="part", columns="layer", values="value").fillna(0.0))
    gain = np.stack([cell[cells[-1].columns].to_numpy() for cell in cells])
    return Curve.of_groups(f"{side}-{relation}", steps, gain, np.ones_like(gain), seed=seed)


def with_gains(aligned: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """All steps in one table, every value beside that at step 0.

    Raises:
        ValueError: Checkpoints of different architectures.
    """
    start = aligned[0]
    parts = [alignment_gains(now[now["part"] == part], start[start["part"] == part]).assign(step=step)
             for step, now in aligned.items() for part in now["part"].unique()]
    return pd.concat(parts, ignore_index=True)


def answer(lags: pd.DataFrame, about: pd.DataFrame) -> str:
    """Whether alignments lead or follow one probe (or behaviour), in a line."""
    sharp = set(about[about["sharp"].astype(bool)]["curve"])
    parts = []
    for _, lag in lags.iterrows():
        low, high = lag["lag_low"], lag["lag_high"]
        order = "leads" if high < 0 else "follows" if low > 0 else "cannot be told from it"
        if lag["curve"] not in sharp:
            order = "has no step of its own"
        parts.append(f"{lag['curve']} {order} ({lag['lag']:+.2f} decades [{low:+.2f}, {high:+.2f}])")
    return f"{lags['other'].iloc[0]}: " + "; ".join(parts)


def task_of(model: str) -> str:
    """The task of a reference model."""
    known = tasks.reference_models()
    if model not in known:
        raise ValueError(f"{no_such('reference model', model, known)}; of a model of your own, say with --task what it "
                         "was trained on")
    return known[model].parent.parent.name


def _report(folder: Run, table: pd.DataFrame, found: Followed) -> Path:
    section = dynamics_section(table, found.first, found.study)
    assert section is not None  # a reading is followed
    rows = table[table["revision"].fillna("").str.startswith("step ")]
    rows = rows.assign(step=rows["revision"].str.removeprefix("step ").astype(int))
    figure = dynamics_plot(rows, found.first, found.draw)
    layers = found.alignments["layer"].nunique()
    caption = (f"{section.exhibits[0].caption} Lowest panel: the six alignments, mean over {layers} linear layers; "
               "whiskers: 95 % interval, parts of the prompts resampled. Where a matrix is zero, as in blocks that "
               "start as the identity, the alignment counts 0. Out-RWA and in-GWA can be high at step 0 by algebra.")
    whole = Section(
        "When it appears in training, and when states, gradients and weights align", [*section.text, *found.answers],
        [Exhibit("Behaviour, probes and alignments over training", figure, caption, found.alignments)],
        [*section.tables, Table("Where the alignments rise", _shown(found), _NULLS, found.transitions),
         Table("Alignments against probes and behaviour", _shown_lags(found.lags),
               "Decades of training from the transition of the other to that of the alignment: below 0, the alignment "
               "is first. In brackets: 95 %, groups and parts of the prompts resampled, of one run of training.",
               found.lags)])
    about = folder.environment()
    return write_report(folder.path / "report.html", title=f"How {folder.config['model']} forms",
                        summary=found.study.question, sections=[whole],
                        run={"command": shlex.join(about.pop("command")), "configuration": dict(folder.config),
                             **about})


_NULLS = ("Mean over layers. Null: the same with the eigenvectors of one matrix rotated at random, at the last step. A "
          "step of its own: a sigmoid in log step beats a straight line, see the first table.")


def _shown(found: Followed) -> pd.DataFrame:
    last = found.alignments[found.alignments["step"] == found.alignments["step"].max()]
    lines = []
    for _, row in found.transitions.iterrows():
        side, relation = row["curve"].split("-")
        null = last[(last["side"] == side) & (last["relation"] == relation)]["null"].mean()
        step = f"{row['step']:,.0f} [{row['step_low']:,.0f}, {row['step_high']:,.0f}]"
        lines.append({"relation": row["curve"], "at step 0": row["first"], "at the end": row["last"],
                      "gain": row["last"] - row["first"], "rotated null": null,
                      "rises at step": step if row["sharp"] else "no step of its own"})
    return pd.DataFrame(lines)


def _shown_lags(lags: pd.DataFrame) -> pd.DataFrame:
    text = lags.assign(lag=[f"{r['lag']:+.2f} [{r['lag_low']:+.2f}, {r['lag_high']:+.2f}]"
                            for _, r in lags.iterrows()])
    return text.pivot(index="curve", columns="other", values="lag").reset_index().rename(columns={"curve": "relation"})
