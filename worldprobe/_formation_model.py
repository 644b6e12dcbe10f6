"""`worldprobe formation MODEL`: over the checkpoints of a model, when does it behave, when can its states be read, and
when do states, gradients and weights align? Which is first?

Behaviour and probes are those of the task's study, see `worldprobe._study_dynamics`. The six alignments are measured at
every linear layer on the task's own prompts under the loss of the next token, on disjoint parts of the prompts, see
`worldprobe._formation_followed`. What becomes of the states is in `worldprobe._formation_states`; what they are used
for in `worldprobe._formation_used`.
"""

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
import torch
from torch.nn.functional import cross_entropy

import tasks
from probing import Site, check_fits, identify, load_model, write_results
from probing.formation import alignments, layer_moments
from tasks import LabelledPrompts
from tasks._study import Study

from ._cli import no_such
from ._dynamics_report import dynamics_section
from ._formation_figure import CAPTION, formation_plot
from ._formation_followed import Followed, headline, steps_between
from ._formation_states import probe_table, probes_at, regime_rows, regime_table
from ._formation_used import edit_sites, explained_at, used_rows, used_section
from ._report import Exhibit, Section, Table, write_report
from ._run import Run, open_run
from ._study import model_directory, sized, study_of
from ._study_dynamics import ENOUGH, checkpoints, curves_of

PARTS, PER_PART = 8, 24  # of the prompts, for the alignments
QUICK_PARTS, QUICK_PER_PART = 5, 8
N_NULL = 5
SHAPE = ("vocab_size", "hidden_size", "n_embd", "num_hidden_layers", "n_layer", "num_attention_heads", "n_head",
         "intermediate_size", "n_inner", "model_type")  # what checkpoints of one run share, of config.json
STATES = ("A probe that is new at every checkpoint says when a label can be read; the final probe, read out at earlier "
          "checkpoints, whether it stood in the same place. Where the final probe fails and a new one does not, the "
          "representation is there and rotates later; where both fail, it is not there.")

Text: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def follow(out: str | Path, model: str, task: str | None = None, *, prompts: int | None = None, seed: int = 0,
           quick: bool = False, log: Callable[[str], None] = print) -> Path:
    """Follows a model through training; returns the path of the report. The same call again continues.

    Args:
        model: A reference model, or a directory in Hugging Face format, with `checkpoints/step-*` in it.
        task: What it is asked and what is read, by the task's study; of a reference model, its own.
        prompts: For every reading, instead of the study's numbers.
        quick: The small numbers of the study.
    Raises:
        ValueError: A model without enough checkpoints, none at step 0, or of several architectures; no task; or a study
            that follows nothing.
    """
    return follow_study(*asked(out, model, task, prompts, seed, quick, log))


def asked(out: str | Path, model: str, task: str | None, prompts: int | None, seed: int, quick: bool,
          log: Callable[[str], None]) -> tuple[Run, Study, Path, dict[str, LabelledPrompts], int, bool]:
    """What `follow` gives to `follow_study`: everything is checked, nothing measured."""
    study, bridge = study_of(task or task_of(model), model)
    directory = model_directory(bridge, model)
    paths = checkpoints(directory)
    if len(paths) < ENOUGH or 0 not in paths:
        raise ValueError(f"{model} has checkpoints at steps {', '.join(map(str, paths)) or '(none)'}; to follow it "
                         f"takes step 0 and at least {ENOUGH} in all, in checkpoints/step-000000 and so on of its "
                         "directory" + ("" if directory.exists() else "; revisions on the Hub are followed from "
                                        "Python, with probing.formation.follow"))
    same_architecture(paths)
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
    return folder, study, directory, data, seed, quick


def follow_study(folder: Run, study: Study, directory: Path, data: Mapping[str, LabelledPrompts], seed: int, quick: bool
                 ) -> Path:
    """All stages, `results.parquet` and the report, whose path is returned.

    Args:
        directory: With `checkpoints/step-*` in it.
        data: Prompts of every followed reading.
    """
    return follow_one(folder, study, directory, data, seed, quick)[0]


def follow_one(folder: Run, study: Study, directory: Path, data: Mapping[str, LabelledPrompts], seed: int, quick: bool
               ) -> tuple[Path, Followed]:
    """(path of the report, curves), see `follow_study`."""
    table, found, more = measured(folder, study, directory, data, seed, quick)
    write_results(table, folder.path / "results.parquet", {"config": folder.config, **folder.environment()})
    for line in found.answers:
        folder.log(line)
    return _report(folder, table, found, more), found


def measured(folder: Run, study: Study, directory: Path, data: Mapping[str, LabelledPrompts], seed: int, quick: bool
             ) -> tuple[pd.DataFrame, Followed, list[Section]]:
    """(result rows, curves, sections on states and on use), all stages of the run."""
    paths = checkpoints(directory)
    parts, per_part = (QUICK_PARTS, QUICK_PER_PART) if quick else (PARTS, PER_PART)
    text = text_of(study, data, parts * per_part, seed)
    aligned = {step: folder.stage(f"alignment-{step:06d}", lambda: of_checkpoint(path, text, parts, seed))  # noqa: B023
               for step, path in paths.items()}
    tables, curves = curves_of(folder, study, directory, data, seed, quick)
    found = Followed(study, aligned, curves, seed)
    readings = [r for r in study.readings if r.followed]
    finals = found.first[found.first["kind"] == "final_probe"].set_index("reading")
    sites = {name: Site(row["stream"], int(row["layer"])) for name, row in finals.iterrows()}
    probes = {step: folder.stage(f"probes-{step:06d}", lambda: probes_at(path, readings, data, sites, seed))  # noqa: B023
              for step, path in paths.items()}
    moved = folder.stage("regime", lambda: regime_rows(paths[0], paths[max(paths)], readings[0],
                                                       data[readings[0].name]))
    used = used_rows(folder, paths[max(paths)], study, readings, data, seed)
    where = edit_sites(sites, used)
    explained = {step: folder.stage(f"explained-{step:06d}", lambda: explained_at(path, readings, data, where))  # noqa: B023
                 for step, path in paths.items()}
    values = {(about["kind"], about["reading"]): curve.values for about, curve in curves}
    states = [*(probe_table(r, probes, found.first, values) for r in readings), regime_table(moved)]
    return tables[0], found, [used_section(readings, explained, used, tables[0], sites),
                              Section("Does it rotate or appear, and what moved", STATES, [], states)]


def text_of(study: Study, data: Mapping[str, LabelledPrompts], n: int, seed: int) -> Text:
    """(inputs, next tokens, real) of about `n` prompts: those of the study, or of the longest followed prompts every
    token that has a next one."""
    if study.text is not None:
        return study.text(n, seed)
    longest = max(data.values(), key=lambda read: read.tokens.shape[1])
    tokens, lengths = longest.tokens[:n], longest.lengths[:n]
    real = torch.arange(tokens.shape[1]) < lengths[:, None]
    following = torch.where(real, tokens, -1).roll(-1, 1)
    following[:, -1] = -1
    return tokens, following, real


def of_checkpoint(path: Path, text: Text, parts: int, seed: int) -> pd.DataFrame:
    """The six alignments of every layer on every part of the prompts; those of the first part with a null of rotated
    eigenvectors. Missing where a matrix is zero."""
    model = load_model(path)
    if (size := len(text[0]) // parts) < 1:
        raise ValueError(f"{parts} parts need as many prompts, there are {len(text[0])}; give more with --prompts")
    found = []
    for part in range(parts):
        rows = slice(part * size, (part + 1) * size)
        batch = tuple(each[rows] for each in text)
        moments = layer_moments(model, next_token_loss, [batch], keep=lambda batch: batch[2], zeros=True)
        found.append(alignments(moments, N_NULL if part == 0 else 0, seed).assign(part=part))
    return pd.concat(found, ignore_index=True)


def next_token_loss(model: Any, batch: Text) -> torch.Tensor:
    """Sum over the tokens of every prompt that are asked for, in nats."""
    tokens, following, _ = batch
    loss = cross_entropy(model(tokens).flatten(0, 1), following.flatten(), reduction="none", ignore_index=-1)
    return loss.view(len(tokens), -1).sum(1)


def task_of(model: str) -> str:
    """The task of a reference model."""
    known = tasks.reference_models()
    if model not in known:
        raise ValueError(f"{no_such('reference model', model, known)}; of a model of your own, say with --task what it "
                         "was trained on")
    return known[model].parent.parent.name


def same_architecture(paths: Mapping[int, Path]) -> None:
    """Whether checkpoints can be of one run.

    Raises:
        ValueError: Two that differ in size, naming both and in what.
    """
    shapes = {step: shape_of(path) for step, path in paths.items()}
    last = max(paths)
    for step, shape in shapes.items():
        if odd := sorted(k for k in {*shape, *shapes[last]} if shape.get(k) != shapes[last].get(k)):
            raise ValueError(f"checkpoints of one run have one architecture, but {odd[0]} is {shape.get(odd[0])} at "
                             f"step {step} and {shapes[last].get(odd[0])} at step {last}; keep those of one model in "
                             f"{paths[last].parent}")


def shape_of(directory: Path) -> dict[str, Any]:
    """What of the configuration of a model says its architecture."""
    return {k: v for k, v in json.loads((directory / "config.json").read_text()).items() if k in SHAPE}


def _report(folder: Run, table: pd.DataFrame, found: Followed, more: list[Section]) -> Path:
    section = dynamics_section(table, found.first, found.study)
    assert section is not None  # a reading is followed
    figure = formation_plot(table, found)
    layers = found.alignments["layer"].nunique()
    about = folder.environment()
    first = Section(
        "When it appears, and when states, gradients and weights align", section.text,
        [Exhibit("Behaviour, probes and alignments over training", figure, CAPTION.format(layers=layers),
                 found.alignments)],
        [*section.tables, Table("Where the alignments rise", _shown(found), _NULLS, found.transitions),
         Table("Alignments against probes and behaviour", _shown_lags(found), _LAGS, found.lags),
         Table("Layer by layer", _shown_layers(found), _LAYERS, found.by_layer)])
    return write_report(folder.path / "report.html", title=f"How {folder.config['model']} forms",
                        summary=[found.study.question, *found.headlines],
                        sections=[first, *more],
                        run={"command": shlex.join(about.pop("command")), "configuration": dict(folder.config),
                             **about})


_NULLS = ("Mean over layers. Null: the same with the eigenvectors of one matrix rotated at random, at the last step. "
          "Halfway: the checkpoints between which the curve first crosses half of its gain, 95 % of resamples. At "
          "once: a sigmoid in log step beats a straight line, see the first table.")
_LAGS = ("By the checkpoints between which both are halfway. Where both have a step of their own, decades of training "
         "from that of the other to that of the alignment, too: below 0, the alignment is first; in brackets 95 %, "
         "groups and parts of the prompts resampled, places between checkpoints that fit no worse among them. Of one "
         "run of training.")
_LAYERS = ("Of all linear layers, how many end aligned (above the null of the same layer, and above their value at "
           "step 0 by 95 % of resamples), how many rise at once, and how many are halfway before or after the probe "
           "that gains most. Every layer is in the CSV.")


def _shown(found: Followed) -> pd.DataFrame:
    lines = []
    for (_, row), relation in zip(found.transitions.iterrows(), found.relations, strict=True):
        step = f"{row['step']:,.0f} [{row['step_low']:,.0f}, {row['step_high']:,.0f}]"
        lines.append({"relation": row["curve"], "at step 0": row["first"], "at the end": row["last"],
                      "gain": f"{row['gain']:+.3f} [{row['gain_low']:+.3f}, {row['gain_high']:+.3f}]",
                      "rotated null": relation.null[-1].mean(),
                      "halfway": steps_between(row) if row["gain_low"] > 0 else "does not grow",
                      "rises at once at step": step if row["sharp"] else "no step of its own"})
    return pd.DataFrame(lines)


def _shown_lags(found: Followed) -> pd.DataFrame:
    every = pd.concat([found.first, found.transitions]).drop_duplicates("curve")
    sharp = set(every[every["sharp"].astype(bool)]["curve"])
    text = found.lags.assign(lag=[
        row["order"] + (f", {row['lag']:+.2f} [{row['lag_low']:+.2f}, {row['lag_high']:+.2f}]"
                        if {row["curve"], row["other"]} <= sharp else "") for _, row in found.lags.iterrows()])
    wide = text.pivot(index="curve", columns="other", values="lag").loc[text["curve"].unique(), text["other"].unique()]
    return wide.reset_index().rename(columns={"curve": "relation"})


def _shown_layers(found: Followed) -> pd.DataFrame:
    probes = found.first[found.first["kind"] == "probe"]
    other = pd.concat([headline(found.first, "probe"), probes])["curve"].iloc[0]
    rows, lines = found.by_layer[found.by_layer["other"] == other], []
    for relation, part in rows.groupby("relation", sort=False):
        above = (part["last"] > part["null"]) & (part["gain_low"] > 0)
        lines.append({"relation": relation, "layers": len(part), "aligned": int(above.sum()),
                      "with a step": int(part["sharp"].sum())} | {
            f"{word} {other}": int((part["order"] == kind).sum()) for kind, word in (
                ("leads", "lead"), ("cannot be told", "not told from"), ("follows", "follow"))}
            | {"do not grow": int((part["order"] == "does not grow").sum())})
    return pd.DataFrame(lines)
