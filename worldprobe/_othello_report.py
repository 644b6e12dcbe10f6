"""The report of the Othello study: the generic sections, with boards."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from interventions import LastToken, best_dose, saliency, steer
from probing import LogisticProbe, Site, identify
from tasks import othello
from tasks.othello._tokens import token_squares

from . import _boards
from ._cite import cited
from ._othello import Study
from ._othello_edits import COLOUR_OF, METHODS, Handles, tensor
from ._othello_items import board_samples, boards_section, read_boards
from ._report import Exhibit, Section, Table, write_report
from ._samples import write_samples
from ._sections import effect_section, headline, probe_section
from ._verdicts import verdicts

SHOWN = 3  # cases drawn before and after the edit: the first of the half for reporting, not the best ones
WORDS = {
    "mine_theirs": "mine, theirs, empty (from the player to move)", "black_white": "black, white, empty",
    "flipped": "turned over by this move",
}


def write_othello_report(study: Study, checks: Sequence[Mapping] | None = None) -> Path:
    """Write `report.html` into the run folder and return its path."""
    folder, model, prompts, weights, table = study.folder, study.model, study.prompts, study.weights, study.table
    scans, config, known = study.scans, study.config, identify(study.model)
    everything = pd.concat([table, *scans], ignore_index=True)
    n_test = prompts.examples.loc[prompts.rows("test"), "prompt"].nunique()
    cases = othello.cases(config["cases"], "flip", config["n_cases"], config["size"], config["seed"])
    boards = read_boards(study)
    pictures, maps = edit_exhibits(model, prompts, weights, cases, scans, config["seed"])
    summary = [
        f"Does the model {known.name} hold the state of an Othello board in its hidden states, and does it use it? It "
        f"reads moves and predicts legal ones; it never sees a board. Probes were fitted on {config['games']} random "
        f"games, split by game ({n_test} games for test); discs were then changed inside the model on {len(cases)} "
        f"{config['cases']} cases, half of them kept for the report.",
    ]
    more = [Exhibit("Accuracy by square, mine_theirs", _boards.accuracy_by_square(table, "mine_theirs", config["size"]),
                    f"Left: the best linear probe. Right: the shortcut, a disc keeps the colour it was placed with. "
                    f"Test split, {n_test} games.")]
    others = [Section(f"{label}: {WORDS[label]}", (), (), [label_table(table, label)], about=f"label:{label}")
              for label in config["labels"] if label != "mine_theirs"]
    sections = [
        Section("Does it play legal moves", behaviour_text(table), (), [behaviour_table(table)]),
        probe_section(table, "mine_theirs", against="black_white", positions="ply",
                      subsets=("occupied", "flipped_once"), groups="games", more=more),
        Section("Other ways to label the same board", "Scores on the test split, all squares.", subsections=others),
        replace(effect_section(everything, groups="cases with one opening", text=[
            method_text(), "Layers and dose were chosen on one half of the cases and are reported on the other. An "
            "edit counts only beyond doing nothing and beyond random directions of the same length."]),
            about="change:mine_theirs"),
        Section("One disc at a time", "The chosen flip on single boards, and what the most likely move rests on.",
                [*pictures, *maps]),
        Section("What the edit leaves behind", after_text(table), (), [follow_table(table)]),
        boards_section(study, *boards),
    ]
    write_samples(folder.path / "results.parquet", board_samples(study, *boards))
    about = folder.environment()
    run = {"command": shlex.join(about.pop("command")), "configuration": dict(config), **about,
           "citation": cited(table)}
    return write_report(folder.path / "report.html", title=f"What the model {known.name} knows of the board, and uses",
                        summary=summary, verdicts=verdicts(everything, "mine_theirs"),
                        numbers=headline(everything, "mine_theirs"), checks=checks, sections=sections, run=run)


def behaviour_table(table: pd.DataFrame) -> Table:
    rows = table[table["metric"].isin(["legal_top1", "legal_mass"])]
    shown = pd.DataFrame({
        "model": ["this model" if pd.isna(c) else "randomly initialised" for c in rows["control"]],
        "measure": rows["metric"].map({"legal_top1": "most likely move is legal (strict rule)",
                                       "legal_mass": "probability on legal moves"}).to_list(),
        "value [95 % interval]": [interval(r) for r in rows.itertuples()],
        "positions": rows["n"].to_list(), "games": rows["n_groups"].to_list(),
    })
    return Table("Legal moves on held-out random games", shown, "Interval: percentile bootstrap over games.", rows)


def interval(row) -> str:
    return f"{row.value:.3f} [{row.ci_low:.3f}, {row.ci_high:.3f}]"


def behaviour_text(table: pd.DataFrame) -> str:
    row = table[(table["metric"] == "legal_top1") & table["control"].isna()].iloc[0]
    weak = " Below about 98 % no edit is to be expected to work." if row["value"] < 0.98 else ""
    return f"Top-1 legality is {interval(row)}: the model's most likely move against the strict rules.{weak}"


def label_table(table: pd.DataFrame, label: str) -> Table:
    rows = table[(table["label"] == label) & (table["split"] == "test") & (table["subset"] == "all")
                 & table["intervention"].isna()]
    name = rows["control"].fillna("").where(rows["control"].notna(), rows["probe"])
    name = name.where(rows["control"].isna() | rows["probe"].isna(), rows["probe"] + ", " + name)
    where = ["emb" if s == "resid_pre" else "" if pd.isna(layer) else str(layer)
             for s, layer in zip(rows["stream"], rows["layer"], strict=True)]
    shown = pd.DataFrame({"what": name.to_list(), "metric": rows["metric"].to_list(), "layer": where,
                          "cell": [interval(r) for r in rows.itertuples()]})
    order = sorted(set(where), key=lambda w: (w not in ("", "emb"), w != "", int(w) if w.isdigit() else 0))
    wide = shown.pivot_table(index=["what", "metric"], columns="layer", values="cell", aggfunc="first", sort=False)
    wide = wide[[w for w in order if w in wide]].rename(columns={"": "any layer"}).fillna("").reset_index()
    return Table(f"{label}, by layer", wide, "In brackets: 95 % interval, percentile bootstrap over games.", rows)


def method_text() -> str:
    return "Ways to write a disc: " + "; ".join(f"{m.name} {m.words}" for m in METHODS) + "."


def after_text(table: pd.DataFrame) -> str:
    return ("The game goes on for a few moves after the edit, greedily, without touching the model again. A move "
            "counts while all moves so far are legal from the edited board.")


def follow_table(table: pd.DataFrame) -> Table:
    rows = table[table["metric"].str.startswith("legal_follow_step")]
    names = {None: "edited", "null": "no edit", "random_direction": "random directions (mean, 5th-95th percentile)"}
    shown = pd.DataFrame({"edit": rows["intervention"].to_list(),
                          "arm": [names[None if pd.isna(c) else c] for c in rows["control"]],
                          "move": rows["metric"].str.removeprefix("legal_follow_step").to_list(),
                          "cell": [interval(r) for r in rows.itertuples()]})
    wide = shown.pivot_table(index=["edit", "arm"], columns="move", values="cell", aggfunc="first", sort=False)
    wide.columns = [f"after move {c}" for c in wide.columns]
    return Table("Share of cases still legal from the edited board", wide.reset_index(),
                 "In brackets: 95 % interval, percentile bootstrap over cases with one opening.", rows)


def edit_exhibits(model, prompts, weights, cases, scans, seed: int) -> tuple[list[Exhibit], list[Exhibit]]:
    """Boards before and after the chosen flip, and what the most likely move of those cases rests on."""
    flips = [scan for scan in scans if (scan["intervention"] == "flip").any()]
    doses = [best_dose(scan) for scan in flips]
    best = min(range(len(doses)), key=lambda i: doses[i].value)
    method, dose = METHODS[best], doses[best]
    first = np.flatnonzero((cases.cases["split"] == "report").to_numpy())[:SHOWN]
    few = replace(cases, cases=cases.cases.iloc[first].reset_index(drop=True),
                  right_before=cases.right_before[first], right_after=cases.right_after[first])
    sites = {s: w for s, w in weights.items() if s.stream == "resid_post"}
    targets = prompts.targets("mine_theirs")
    handles = Handles(few, sites, targets, seed)
    run = LastToken.of(model, few)
    source = handles.source(method)
    make = source.get("edit") or (lambda site, alpha: steer(source["directions"][site], alpha))
    edits = {site: make(site, dose.alpha) for site in dose.sites}
    where = Site("resid_post", dose.layer_end)
    w = weights[where]
    probe = LogisticProbe.from_weights(w["mine_theirs.coef"], w["mine_theirs.intercept"], (0, 1, 2))
    movers, boards, squares = othello.to_move(few), othello.board_codes(few), token_squares(othello.board_size(few))
    positions = []
    for board, right, arm in ((boards[0], few.right_before, {}), (boards[1], few.right_after, edits)):
        logits, acts = run.logits(arm, read=[where])
        p, reading = logits.float().softmax(-1).numpy(), probe.predict_proba(acts[where].numpy())
        for i, mover in enumerate(movers):
            order = list(COLOUR_OF[int(mover)])
            positions.append(_boards.Position(
                truth=_boards.as_colours(board[i], int(mover)), reading=reading[i][:, order],
                legal=on_board(right[i], squares, board.shape[1]), moves=on_board(p[i], squares, board.shape[1]),
                last=int(squares[run.tokens[i, run.lengths[i] - 1]])))
    n = len(first)
    pictures = [Exhibit(
        f"Case {i + 1}: {few.cases['target'].iloc[i]} changed",
        _boards.edit_picture(positions[i], positions[n + i], int(handles.square[i])),
        f"Left: the true board with its legal moves. Middle: what the probe at {where} reads. Right: the model's next "
        f"move. Below: the same after the edit ({method.name}, layers {dose.layer}-{dose.layer_end}, dose "
        f"{dose.alpha:g} {method.unit}). One of the first {n} cases of the half for reporting, not a chosen one.")
        for i in range(n)]

    move = run.logits().argmax(-1)
    length = dose.alpha if method.name == "encoding" else 1.0

    def flip(square: int):
        return {site: steer(tensor(occupied_flip(handles, site, boards[0], square)), length) for site in dose.sites}

    drop = saliency(run, move, flip, len(targets)).numpy()
    maps = [Exhibit(f"Latent saliency, case {i + 1}",
                    _boards.saliency_picture(drop[i], _boards.as_colours(boards[0][i], int(movers[i])),
                                             int(squares[move[i]])),
                    f"Each disc was flipped inside the model (encoding pattern x {length:g}, layers "
                    f"{dose.layer}-{dose.layer_end}); the number is what the probability of the most likely move lost.")
            for i in range(n)]
    return pictures, maps


def occupied_flip(handles: Handles, site: Site, board: np.ndarray, square: int) -> np.ndarray:
    """Encoding pattern that flips the disc on `square`, zero where the square is empty: (case, d_model)."""
    pattern = handles.weights[site]["mine_theirs.encoding"][square]
    code = board[:, square]
    return pattern[2 - code] - pattern[code]


def on_board(values: np.ndarray, squares: np.ndarray, n_squares: int) -> np.ndarray:
    """Values per token as values per square; 0 where no token plays."""
    board = np.zeros(n_squares, np.asarray(values).dtype)
    board[squares[1:]] = np.asarray(values)[1:]
    return board
