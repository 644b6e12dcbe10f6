"""The readings of a study: every probe at every layer with its controls, of the model and of its contrasts."""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray

from probing import (
    LDAProbe,
    LogisticProbe,
    MassMeanProbe,
    MLPProbe,
    MLPRegressorProbe,
    RidgeProbe,
    Site,
    TTPDProbe,
    extract,
    load_model,
    residual_sites,
    sweep,
)
from probing._guards import check_fits
from probing._splits import splits_of
from probing._transfer import answers_apart
from tasks import LabelledPrompts, reference_models
from tasks._study import Read, Reading, Study

from ._cli import no_such
from ._run import Run
from ._verdicts import best_probe

PROBES: dict[str, Any] = {
    "logistic": [LogisticProbe(C=c, tol=1e-2) for c in (0.01, 0.1, 1.0)],
    "logistic_no_bias": [LogisticProbe(C=c, bias=False, tol=1e-2) for c in (0.01, 0.1, 1.0)],
    "mass_mean": MassMeanProbe(), "lda": LDAProbe(), "ridge": RidgeProbe(), "mlp": MLPProbe(lr=0.01),
    "mlp_regression": MLPRegressorProbe(), "ttpd": TTPDProbe(tol=1e-2),
}


def probes_of(reading: Reading) -> dict[str, Any]:
    """Its probes by name; of those with a penalty several, of which the best on validation is kept.

    Raises:
        ValueError: A name that is not known.
    """
    if wrong := [name for name in reading.probes if name not in PROBES]:
        raise ValueError(no_such("probe", wrong[0], PROBES))
    return {name: PROBES[name] for name in reading.probes}


def metric_of(prompts: LabelledPrompts, label: str) -> str:
    """What layers and penalties are chosen by."""
    return "accuracy" if prompts.classes.get(label) else "r2"


def reading_stages(folder: Run, model: Any, study: Study, data: Mapping[str, LabelledPrompts], seed: int
                   ) -> tuple[list[pd.DataFrame], dict[str, Read]]:
    """(result rows, what the best probe of every reading says of the test examples), two stages per reading, a third
    where blocks of numbers are held out, and one per reading of a contrast model."""
    tables, shown = [], {}
    for reading in study.readings:
        prompts = data[reading.name]
        taken = functools.cache(functools.partial(_taken, folder, model, reading, prompts, seed))
        table = folder.stage(f"reading-{reading.name}", lambda: taken()[0])  # noqa: B023
        said = folder.stage(f"said-{reading.name}", lambda: taken()[1])  # noqa: B023
        best = best_probe(table, reading.label, metric_of(prompts, reading.label))
        folder.log(f"{reading.name}: {reading.label} {best['value']:.4f} [{best['ci_low']:.4f}, {best['ci_high']:.4f}] "
                   f"({best['probe']}, {best['stream']} {best['layer']})" + _rivals(table, best))
        tables.append(table)
        apart = dict[str, ndarray]()
        if reading.held_out and not prompts.classes.get(reading.label):
            apart = folder.stage(f"apart-{reading.name}", lambda: _apart(model, reading, prompts, best, seed))  # noqa: B023
        shown[reading.name] = Read(prompts, said["rows"], said["values"],
                                   f"{best['probe']}, {best['stream']} {best['layer']}",
                                   {column: values[said["rows"]] for column, values in apart.items()})
    return tables + contrast_stages(folder, study, data, seed), shown


def contrast_stages(folder: Run, study: Study, data: Mapping[str, LabelledPrompts], seed: int) -> list[pd.DataFrame]:
    """The same readings from other reference models; those that are not there are left out, and named in the log."""
    tables, by_name = [], {r.name: r for r in study.readings}
    for name, readings in study.contrasts.items():
        if name not in reference_models():
            folder.log(f"contrast left out: there is no reference model {name}")
            continue
        other = functools.cache(lambda name=name: load_model(name))
        for reading in (by_name[r] for r in readings):
            def rows(reading=reading, other=other) -> pd.DataFrame:
                check_fits(other(), data[reading.name])
                return _taken(folder, other(), reading, data[reading.name], seed)[0]

            table = folder.stage(f"contrast-{name}-{reading.name}", rows)
            best = best_probe(table, reading.label, metric_of(data[reading.name], reading.label))
            folder.log(f"{name}, {reading.name}: {best['value']:.4f} [{best['ci_low']:.4f}, {best['ci_high']:.4f}]")
            tables.append(table)
    return tables


def acts_of(model: Any, prompts: LabelledPrompts, seed: int):
    """Activations of every layer, and of the model with random weights."""
    return extract(model, prompts, residual_sites(model.cfg.n_layers), random_init=seed)


def _taken(folder: Run, model: Any, reading: Reading, prompts: LabelledPrompts, seed: int
           ) -> tuple[pd.DataFrame, dict[str, ndarray]]:
    acts = acts_of(model, prompts, seed)
    found = sweep(acts, prompts, [reading.label], probes_of(reading), seed=seed)
    table = found.rows.assign(positions=reading.name)
    best = best_probe(table, reading.label, metric_of(prompts, reading.label))
    site = Site(best["stream"], int(best["layer"]))
    rows = np.flatnonzero(splits_of(acts, prompts)["test"])
    return table, {"rows": rows, "values": said_by(found.probes[reading.label, best["probe"], site],
                                                   np.asarray(acts[site])[rows], len(prompts.targets(reading.label)))}


def _apart(model: Any, reading: Reading, prompts: LabelledPrompts, best: pd.Series, seed: int) -> dict[str, ndarray]:
    """Column of blocks -> (example, target) numbers read by the best probe, fitted without the block of the example."""
    acts, probe = acts_of(model, prompts, seed), probes_of(reading)[best["probe"]]
    site = Site(best["stream"], int(best["layer"]))
    return {c: answers_apart(acts, prompts, reading.label, c, probe, site) for c in reading.held_out}


def said_by(probe: Any, X: Float[ndarray, "row d_model"], n_targets: int) -> Float[ndarray, "row target"]:
    """The probability of the last class where there are two and the probe has one, else its prediction."""
    sure = hasattr(probe, "predict_proba") and len(getattr(probe, "classes_", ())) == 2
    found = np.asarray(probe.predict_proba(X) if sure else probe.predict(X), np.float64)
    found = found[:, -1] if sure and n_targets == 1 else found  # of one target both classes have a probability
    return found.reshape(len(X), n_targets)


def _rivals(table: pd.DataFrame, best: pd.Series) -> str:
    """The strongest shortcut and control beside the best probe, for the log."""
    same = table["control"].notna() & (table["split"] == "test") & (table["subset"] == "all")
    same &= table["metric"] == best["metric"]
    top = table[same].groupby("control")["value"].max()
    return "".join(f"; {name} {value:.4f}" for name, value in top.items()) if len(top) else ""


