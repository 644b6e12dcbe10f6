"""How far the readings of a study go: blocks held out, other prompts, few components, scores of the task's own."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

import pandas as pd

from probing import Site
from probing._transfer import held_out, in_components, scores, transfer
from tasks import LabelledPrompts
from tasks._study import Reading, Study

from ._report import Section, Table
from ._rows import cell, metric_name, pick
from ._run import Run
from ._study_readings import acts_of, metric_of, probes_of
from ._verdicts import best_probe


def generalise_stages(folder: Run, model: Any, study: Study, data: Mapping[str, LabelledPrompts],
                      tables: Sequence[pd.DataFrame], seed: int) -> list[pd.DataFrame]:
    """Result rows, a stage per reading that asks: the best probe (chosen on validation) of each reading, fitted again
    on part of what there is. `positions` is the name of the reading."""
    @functools.cache
    def acts(name: str):
        return acts_of(model, data[name], seed)

    found = []
    for reading, table in zip(study.readings, tables, strict=False):
        if not (reading.held_out or reading.transfer or reading.components or reading.scores):
            continue

        def rows(reading=reading, table=table) -> pd.DataFrame:
            prompts = data[reading.name]
            best = best_probe(table, reading.label, metric_of(prompts, reading.label))
            site, name = Site(best["stream"], int(best["layer"])), str(best["probe"])
            parts = list(_asked(reading, prompts, data, acts, probes_of(reading)[name], site, name, seed))
            return pd.concat(parts, ignore_index=True).assign(positions=reading.name)

        found.append(folder.stage(f"generalise-{reading.name}", rows))
    return found


def _asked(reading: Reading, prompts: LabelledPrompts, data: Mapping[str, LabelledPrompts], acts, probe: Any,
           site: Site, name: str, seed: int) -> Iterator[pd.DataFrame]:
    own, how = acts(reading.name), cast(dict[str, Any], {"name": name, "seed": seed})
    if reading.scores:
        yield scores(own, prompts, reading.label, probe, site, extra=reading.scores, **how)
    for column in reading.held_out:
        yield held_out(own, prompts, reading.label, column, probe, site, extra=reading.scores, **how)
    for other in reading.transfer:
        yield transfer(own, prompts, acts(other), data[other], reading.label, probe, site, other,
                       extra=reading.scores, **how)
    if reading.components:
        yield in_components(own, prompts, reading.label, probe, site, extra=reading.scores, **how)


def generalise_section(table: pd.DataFrame, reading: Reading, metric: str) -> Section | None:
    """Blocks held out, other prompts and components, beside the same with the controls."""
    rows = pick(table, positions=reading.name, label=reading.label, intervention=None, split="test")
    wanted = [f"{column} held out" for column in reading.held_out]
    wanted += [f"to {other}{words}" for other in reading.transfer for words in ("", ", centred")]
    wanted += sorted({s for s in rows["subset"].dropna() if s.endswith(" components")}, key=lambda s: int(s.split()[0]))
    metrics = [metric, *reading.scores]
    shown = []
    for subset in ["all", *wanted] if wanted else []:
        for name in metrics:
            here = pick(rows, subset=subset, metric=name)
            own = pick(here, control=None)
            if own.empty:
                continue
            best = own.loc[own["value"].idxmax()] if subset == "all" else own.iloc[0]
            line = {"read from": "as it was fitted" if subset == "all" else subset, "score": metric_name(name),
                    "value": cell(best)}
            for control in ("majority", "input_only", "random_init"):
                there = pick(here, control=control)
                line[control.replace("_", " ")] = f"{there['value'].iloc[-1]:.3f}" if len(there) else ""
            shown.append(line)
    if not shown:
        return None
    return Section("How far it goes", "The best probe of the reading, fitted again on part of what there is and scored "
                   f"on the rest; intervals over {reading.groups}.", (),
                   [Table("Generalisation", pd.DataFrame(shown), "In brackets: 95 % interval, cluster bootstrap.",
                          rows[rows["subset"].isin(wanted)])])
