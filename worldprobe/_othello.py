"""The Othello study: `worldprobe run othello` and `worldprobe reproduce othello`.

Reads the stream after every block, fits board probes with their controls, changes one disc inside the model on cases
it has not seen, and reports what the next moves say. Every part is a stage of the run folder: a second call continues.
"""

import functools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import tasks
from interventions import (
    LastToken,
    applied_change,
    best_dose,
    effect,
    project_out,
    random_like,
    reread,
    steer,
    window_map,
)
from interventions._effect import row_context
from probing import (
    LogisticProbe,
    MLPProbe,
    Site,
    bootstrap_mean,
    check_fits,
    check_numerics,
    class_means,
    encoding_patterns,
    extract,
    identify,
    load_model,
    random_init,
    residual_sites,
    results_frame,
    write_results,
)
from probing._controls import baseline_rows, input_only_rows
from probing._probe_site import probe_site
from probing._splits import disjoint_splits
from probing._sweep import correct_p_values
from probing._threads import spread
from tasks import LabelledPrompts, othello
from tasks.othello._tokens import legal_tokens, to_tokens
from tasks.othello.train import HELD_OUT_SEED

from ._othello_edits import METHODS, Handles
from ._run import Run, open_run

PLAN = {  # label -> probes; mine_theirs first: it is the label of the report
    "mine_theirs": ("logistic", "logistic_no_bias", "mlp"),
    "black_white": ("logistic", "mlp"),
    "flipped": ("logistic",),
}
QUICK: dict[str, Any] = {"games": 400, "legality_games": 200, "labels": ["mine_theirs", "black_white"], "tol": 1e-2,
                         "epochs": 12, "follow": 3}
FULL: dict[str, Any] = {"games": 1000, "legality_games": 500, "labels": list(PLAN), "tol": 1e-2, "epochs": 20,
                        "follow": 6}
EDITS = ("flip", "erase")


def run(out: str | Path, model: str = "othello", *, games: int | None = None, cases: str | None = None,
        n_cases: int | None = None, seed: int = 0, quick: bool = False, log: Callable[[str], None] = print) -> Path:
    """The whole study; returns the path of the report. The same call again continues where it stopped.

    Args:
        model: A reference model, a directory, a Hub id or an old TransformerLens file, trained on Othello moves.
        games: Random games for the probes; 400 when quick, else 1,000.
        cases: `published`, `natural` or `unnatural` (see `tasks.othello.cases`). By default the published ones where
            WORLDPROBE_DATA has them and the board is 8x8, else natural ones of our own.
        n_cases: Fewer cases than all of them.
        quick: Fewer games, labels and passes: minutes instead of tens of minutes.
    """
    from ._othello_report import write_othello_report

    return write_othello_report(study(out, model, games=games, cases=cases, n_cases=n_cases, seed=seed, quick=quick,
                                      log=log))


def reproduce(out: str | Path, model: str = "othello", *, games: int | None = None, cases: str | None = None,
              n_cases: int | None = None, seed: int = 0, quick: bool = False,
              log: Callable[[str], None] = print) -> Path:
    """The published results beside ours: runs the whole study, writes `checks.json` and the report, returns the former.

    Every check is measured in that run. Arguments as in `run`.
    """
    from ._othello_checks import write_checks
    from ._othello_report import write_othello_report

    done = study(out, model, games=games, cases=cases, n_cases=n_cases, seed=seed, quick=quick, log=log)
    path = write_checks(done)
    write_othello_report(done, checks=json.loads(path.read_text()))
    return path


def plan(model: str = "othello", *, games: int | None = None, cases: str | None = None, n_cases: int | None = None,
         seed: int = 0, quick: bool = False) -> str:
    """What `run` would do, before any work: fits, bytes on disk, memory and time."""
    settings = {**(QUICK if quick else FULL), **({} if games is None else {"games": games})}
    bridge = load_model(model)
    size, n_sites, d_model = board_size(bridge), bridge.cfg.n_layers + 1, bridge.cfg.d_model
    rows = settings["games"] * (size**2 - 5)
    fits = 3 * n_sites * sum(len(PLAN[label]) for label in settings["labels"])
    kind = chosen_cases(cases, size)
    # seconds per row of one core, measured on a laptop-class machine: a linear fit of 64 squares, an MLP
    seconds = rows * 3 * n_sites * sum(
        2.5e-4 if p == "mlp" else 1.2e-4 for label in settings["labels"] for p in PLAN[label])
    return (f"model {identify(bridge).name}: {n_sites} sites, d_model {d_model}; "
            f"cases: {n_cases or 'all'} {kind}, seed {seed}\n"
            f"{settings['games']} games, about {rows:,} positions; {fits} fits of {size**2} squares with controls\n"
            f"activations on disk: {2 * rows * n_sites * d_model * 4 / 1e6:,.0f} MB; memory: about "
            f"{(1.5e9 + rows * (6 * d_model * 4 + 20 * size**2)) / 1e9:.1f} GB\n"
            f"time: roughly {max(1, round((seconds + 120) / 60))} minutes on one core")


@dataclass(frozen=True)
class Study:
    """What the report and the checks are made from."""

    folder: Run
    model: Any
    prompts: LabelledPrompts
    weights: Mapping[Site, Mapping[str, np.ndarray]]
    table: pd.DataFrame
    scans: Sequence[pd.DataFrame]
    config: Mapping


def study(out: str | Path, model: str, *, games: int | None, cases: str | None, n_cases: int | None, seed: int,
          quick: bool, log: Callable[[str], None]) -> Study:
    """All stages of the run; writes `results.parquet`."""
    settings = {**(QUICK if quick else FULL), **({} if games is None else {"games": games})}
    bridge = load_model(model)
    size, who = board_size(bridge), identify(bridge)
    kind = chosen_cases(cases, size)
    prompts = othello.load(settings["games"], seed, size)
    check_fits(bridge, prompts)
    config = {"task": "othello", "model": who.name, "size": size, "cases": kind, "n_cases": n_cases, "seed": seed,
              **settings}
    folder = open_run(out, config, fingerprints={"model": who.digest}, log=log)
    log = folder.log
    log(f"model {who.name}, {bridge.cfg.n_layers} layers, d_model {bridge.cfg.d_model}; cases: {kind}")
    check_numerics(bridge, prompts.tokens[:8], prompts.lengths[:8])

    tables = [folder.stage("behaviour", lambda: behaviour(
        bridge, prompts.task, size, settings["legality_games"], seed))]
    log(headline(tables[0], "legal_top1", "top-1 legality"))
    site_weights, probe_tables = probe_stages(folder, bridge, prompts, settings, seed, log)
    tables += probe_tables
    scans: list[pd.DataFrame] = []

    def edited(edit: str) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
        own = bridge if edit == EDITS[0] else load_model(model)  # hooks of one would run in the other
        return edit_stages(folder, own, site_weights, prompts, edit, kind, n_cases, size, settings, seed, log)

    for reported, scanned in spread(edited, EDITS):
        tables += reported
        scans += scanned
    table = correct_p_values(results_frame(pd.concat(tables, ignore_index=True).to_dict("records")))
    ways = sorted((best_dose(scan).value, f"{scan['intervention'].iloc[0]} {scan['probe'].iloc[0]}") for scan in scans)
    write_results(table, folder.path / "results.parquet", {
        "config": config, **folder.environment(), "set_aside": {"mine_theirs": {"last": [way for _, way in ways]}}})
    return Study(folder, bridge, prompts, site_weights, table, scans, config)


def board_size(model) -> int:
    """Side of the board that the model's vocabulary fits: padding and all squares but the four in the centre."""
    size = math.isqrt(model.cfg.d_vocab + 3)
    if size * size != model.cfg.d_vocab + 3 or size not in (4, 6, 8):
        raise ValueError(
            f"the model has {model.cfg.d_vocab} tokens; Othello moves need 61 (8x8) or 33 (6x6): one per playable "
            f"square and padding. Use a model trained on Othello, such as {', '.join(reference_names())}")
    return size


def reference_names() -> list[str]:
    return [name for name in tasks.reference_models() if name.startswith("othello")]


def chosen_cases(kind: str | None, size: int) -> str:
    """The kind that is asked for; else `published` where the mirror has them, else `natural`: no network is needed by
    default.

    Raises:
        ValueError: There is no such kind, or it is not for this board; said before anything is computed.
    """
    if kind is not None:
        othello.cases(kind, n=1, size=size)
        return kind
    mirror = os.environ.get("WORLDPROBE_DATA")
    there = mirror and (Path(mirror) / "othello" / "intervention_benchmark.json").exists()
    return "published" if there and size == 8 else "natural"


def headline(table: pd.DataFrame, metric: str, words: str) -> str:
    row = table[(table["metric"] == metric) & table["control"].isna()].iloc[0]
    return f"{words}: {row['value']:.4f} [{row['ci_low']:.4f}, {row['ci_high']:.4f}]"


def behaviour(model, task: str, size: int, n: int, seed: int) -> pd.DataFrame:
    """Strict top-1 legality on held-out random games, of the model and of its randomly initialised twin."""
    squares, legal = othello.random_games(n, size, HELD_OUT_SEED)
    tokens = torch.from_numpy(to_tokens(squares, size)[:, :-1])
    allowed, played = torch.from_numpy(legal_tokens(legal[:, 1:], size)), squares[:, 1:] >= 0
    game = np.broadcast_to(np.arange(n)[:, None], played.shape)[played]
    who = identify(model)
    rows = []
    for control, each in ((None, model), ("random_init", random_init(model, seed))):
        right, mass = [], []
        with torch.inference_mode():
            for part in range(0, n, 128):
                p = each(tokens[part : part + 128].to(each.cfg.device)).float().softmax(-1).cpu()
                right.append(allowed[part : part + 128].gather(-1, p.argmax(-1, keepdim=True))[..., 0])
                mass.append((p * allowed[part : part + 128]).sum(-1))
        for metric, values in (("legal_top1", right), ("legal_mass", mass)):
            value, low, high = bootstrap_mean(torch.cat(values).numpy()[played].astype(float), game, seed=seed)
            rows.append({"task": task, "model": who.name, "revision": who.revision, "model_hash": who.digest,
                         "data_hash": f"random games, seed {HELD_OUT_SEED}, {size}x{size}, first {n}",
                         "control": control, "metric": metric, "split": "test", "subset": "all", "value": value,
                         "ci_low": low, "ci_high": high, "n": int(played.sum()), "n_groups": n, "seed": seed})
    return results_frame(rows)


def probe_stages(folder: Run, model, prompts, settings: Mapping, seed: int, log) -> tuple[dict[Site, dict], list]:
    """Rows of every probe with its controls, and the weights that the edits need, one stage per site."""
    acts = extract(model, prompts, residual_sites(model.cfg.n_layers), random_init=seed)
    known = identify(model)
    common = {"task": prompts.task, "model": known.name, "revision": known.revision, "model_hash": known.digest,
              "data_hash": acts.identity["prompts"]["tokens"]}
    makers = {"logistic": LogisticProbe(tol=settings["tol"]),
              "logistic_no_bias": LogisticProbe(bias=False, tol=settings["tol"]),
              "mlp": MLPProbe(epochs=settings["epochs"], lr=0.01)}

    def table(rows: list[dict]) -> pd.DataFrame:
        return results_frame([{**common, **row} for row in rows])

    # every position counts, as in the papers: split by game, whose first moves may also occur in a training game
    splits, asked = disjoint_splits(prompts), {label: PLAN[label] for label in settings["labels"]}

    def baselines() -> pd.DataFrame:
        rows = [row for label in asked for row in baseline_rows(prompts, label, seed, splits)]
        surface = spread(lambda label: input_only_rows(
            prompts, label, {p: [makers[p]] for p in asked[label]}, seed, splits), asked)
        return table(rows + [row for rows in surface for row in rows])

    tables = [folder.stage("baselines", baselines)]
    weights = {}
    todo = [site for site in acts if not (folder.has(f"probes-{site}") and folder.has(f"weights-{site}"))]
    results = spread(lambda site: probe_site(acts, prompts, site, asked, makers, seed=seed, splits=splits), todo)
    for site in acts:
        fit = functools.cache(lambda: next(results))

        def rows(fit=fit) -> pd.DataFrame:
            log(fit().line)
            return table(fit().rows)

        def arrays(site=site, fit=fit) -> dict[str, np.ndarray]:
            return site_arrays(np.asarray(acts[site]), prompts, {key[:2]: p for key, p in fit().probes.items()})

        tables.append(folder.stage(f"probes-{site}", rows))
        weights[site] = folder.stage(f"weights-{site}", arrays)
    return weights, tables


def site_arrays(X: np.ndarray, prompts, probes: Mapping[tuple[str, str], LogisticProbe]) -> dict[str, np.ndarray]:
    """What the edits need from one site, fitted on train: read weights, write patterns, class means, mean margins."""
    train, pos = prompts.rows("train"), prompts.examples["pos"].to_numpy()
    X = X[train]
    arrays = {}
    for label in ("mine_theirs", "black_white"):
        Y, n = prompts.labels(label)[train], len(prompts.classes[label])
        arrays[f"{label}.encoding"] = encoding_patterns(X, Y, n, pos[train])
        arrays[f"{label}.means"] = np.nan_to_num(class_means(X, Y, n))
        probe = probes[label, "logistic"]
        arrays[f"{label}.coef"], arrays[f"{label}.intercept"] = probe.coef_, probe.intercept_
        scores = probe.logits(X)
        with np.errstate(invalid="ignore"):
            arrays[f"{label}.scores"] = np.nan_to_num(np.stack(
                [(scores * (Y == c)[..., None]).sum(0) / (Y == c).sum(0)[:, None] for c in range(n)], axis=1))
    arrays["mean"] = X.mean(0, dtype=np.float64)
    arrays["mine_theirs.coef_no_bias"] = probes["mine_theirs", "logistic_no_bias"].coef_
    return arrays


def edit_stages(folder: Run, model, weights: Mapping[Site, dict], prompts, edit: str, kind: str, n_cases, size: int,
                settings: Mapping, seed: int, log) -> tuple[list[pd.DataFrame], list[pd.DataFrame]]:
    """(tables to report, scans they were chosen from): window and dose of every method are chosen on one half of the
    cases and reported, with every control, on the other."""
    cases = othello.cases(kind, edit, n_cases, size, seed)
    sites = [Site("resid_post", layer) for layer in range(model.cfg.n_layers)]
    targets = prompts.targets("mine_theirs")
    handles = Handles(cases, {site: weights[site] for site in sites}, targets, seed)
    run = LastToken.of(model, cases)

    def arm(method) -> dict:
        return {"unit": method.unit, "intervention": edit, "probe": method.name, "seed": seed}

    scans = {m.name: folder.stage(f"{edit}-choose-{m.name}", lambda m=m: window_map(
        run, cases, sites=sites, alphas=m.doses(handles), **handles.source(m), **arm(m))) for m in METHODS}
    doses = {name: best_dose(scan) for name, scan in scans.items()}
    best = min(METHODS, key=lambda m: doses[m.name].value)
    tables = []
    for m in METHODS:
        dose, single = doses[m.name], best_dose(scans[m.name], within=1)

        def report(m=m, dose=dose, single=single) -> pd.DataFrame:
            alphas = sorted({*m.doses(handles), dose.alpha}) if m is best else [dose.alpha]
            shared = {**arm(m), **handles.source(m), "others": handles.controls(edit),
                      "ideal_null": othello.ideal_null(cases)}
            parts = [effect(run, cases, sites=dose.sites, alphas=alphas, **shared)]
            if single.sites != dose.sites:
                parts.append(effect(run, cases, sites=single.sites, alphas=[single.alpha], **shared))
            return pd.concat(parts, ignore_index=True)

        tables.append(folder.stage(f"{edit}-report-{m.name}", report))
        log(f"{edit} by {m.name}, layers {dose.layer}-{dose.layer_end}, dose {dose.alpha:g} {m.unit}: "
            + headline_edit(tables[-1], dose))
    if edit == "flip":  # once is enough: the square's state is taken away, whatever would have been written
        tables.append(folder.stage("ablate-report", lambda: ablate(run, cases, handles, doses[best.name].sites, seed)))
        log("ablate: " + headline_edit(tables[-1], doses[best.name]._replace(alpha=1.0)))
    tables.append(folder.stage(f"{edit}-after", lambda: after_edit(
        run, cases, handles, best, doses[best.name], weights, targets, settings["follow"], arm(best))))
    return tables, list(scans.values())


def ablate(run: LastToken, cases, handles: Handles, sites: Sequence[Site], seed: int) -> pd.DataFrame:
    """Necessity: the plane in which the edited square's state varies is set to the mean, and the moves are scored
    against the true board, whose answers should suffer."""
    still = replace(cases, right_after=cases.right_before)
    return effect(run, still, sites=sites, alphas=[1.0], unit="removed", intervention="ablate", probe="encoding",
                  seed=seed, edit=lambda site, alpha: project_out(handles.plane(site), handles.mean(site)))


def headline_edit(table: pd.DataFrame, dose) -> str:
    same = (table["layer"] == dose.layer) & (table["layer_end"] == dose.layer_end)
    here = table[same & (table["metric"] == "set_error")]
    own = here[here["control"].isna() & (here["alpha"] == dose.alpha)].iloc[0]
    null = here[here["control"] == "null"].iloc[0]
    return f"error {own['value']:.3f} [{own['ci_low']:.3f}, {own['ci_high']:.3f}], without an edit {null['value']:.3f}"


def after_edit(run: LastToken, cases, handles: Handles, method, dose, weights, targets, n_follow: int,
               arm: Mapping) -> pd.DataFrame:
    """What the chosen edit leaves behind, on the cases for reporting: how later layers read the board
    (`specificity_*`), and whether the moves that follow are legal on the edited board (`legal_follow_step1`, ...)."""
    part = run.select((cases.cases["split"] == "report").to_numpy()[run.rows])
    source = handles.source(method)
    make = source.get("edit") or (lambda site, alpha: steer(source["directions"][site], alpha))
    edits = {site: make(site, dose.alpha) for site in dose.sites}
    draws = random_like(applied_change(part, edits), 20, arm["seed"])
    readers = {site: LogisticProbe.from_weights(w["mine_theirs.coef"], w["mine_theirs.intercept"], (0, 1, 2)).predict
               for site, w in weights.items() if site.stream == "resid_post" and site.layer >= dose.layer_end}
    arm = {**arm, "alpha": dose.alpha}
    tables = [reread(part, edits, readers, cases, targets, draws=draws, **arm)]

    common = row_context(part, cases, dose.sites, split="report", **{k: v for k, v in arm.items() if k != "alpha"})
    shown = cases.cases.iloc[part.rows.numpy()]
    groups = shown["group"].to_numpy()
    kept = replace(cases, cases=shown.reset_index(drop=True), right_before=cases.right_before[part.rows.numpy()],
                   right_after=cases.right_after[part.rows.numpy()])

    arms = [edits, {}, *draws]
    moves = part.generate_many(arms, n_follow)
    legal = [othello.follow(kept, each).numpy().astype(float) for each in moves]

    def rows(legal: np.ndarray, control: str | None) -> pd.DataFrame:
        values = zip(*bootstrap_mean(legal, groups, seed=arm["seed"]), strict=True)
        return results_frame([{**common, "metric": f"legal_follow_step{k + 1}", "control": control,
                               "alpha": None if control == "null" else dose.alpha,
                               "unit": None if control == "null" else method.unit, "value": v, "ci_low": lo,
                               "ci_high": hi, "n": len(legal), "n_groups": len(set(groups))}
                              for k, (v, lo, hi) in enumerate(values)])

    random = band([rows(each, "random_direction") for each in legal[2:]])
    tables += [rows(legal[0], None), rows(legal[1], "null"), random]
    return pd.concat(tables, ignore_index=True)


def band(draws: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """One row per number of the draws: their mean, 5th and 95th percentile, and how many they are."""
    values = np.stack([d["value"].to_numpy() for d in draws])
    mean, (low, high) = values.mean(0), np.percentile(values, [5, 95], axis=0)
    return draws[0].assign(value=mean, ci_low=np.minimum(low, mean), ci_high=np.maximum(high, mean), n=len(draws),
                           n_groups=None)
