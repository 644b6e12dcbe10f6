"""Othello board by board: the test positions that the linear probe reads best and worst, and the scores of all."""

from math import isqrt

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from numpy import ndarray

from probing import LogisticProbe, Site, extract, residual_sites
from tasks import othello
from tasks.othello._engine import BLACK, WHITE, unpack
from tasks.othello._tokens import token_squares

from . import _boards
from ._othello import Study
from ._othello_edits import COLOUR_OF
from ._report import Exhibit, Section, Table
from ._rows import number, pick
from ._samples import Sample, sample
from ._study_items import ends, prompt_text
from ._verdicts import best_probe

LABEL, PROBE, SHARE = "mine_theirs", "logistic", "share of squares read rightly"


def read_boards(study: Study) -> tuple[pd.Series, dict[str, ndarray]]:
    """(the row of the linear probe at its layer, a stage of the run): `rows`, the test examples; `share` of their
    squares that are read rightly; `sure`, the mean probability of what is there; of the best and the worst positions
    `chosen` (places among `rows`), `best` (how many of them), `reading` (position, square, class), `moves` (position,
    token)."""
    best = best_probe(pick(study.table, label=LABEL, probe=PROBE), LABEL, "accuracy")
    site = Site(best["stream"], int(best["layer"]))

    def read() -> dict[str, ndarray]:
        prompts, w = study.prompts, study.weights[site]
        acts = extract(study.model, prompts, residual_sites(study.model.cfg.n_layers), random_init=study.config["seed"])
        probe = LogisticProbe.from_weights(w[f"{LABEL}.coef"], w[f"{LABEL}.intercept"], (0, 1, 2))
        rows = np.flatnonzero(prompts.rows("test"))
        truth = prompts.labels(LABEL)[rows].astype(np.int64)
        p = probe.predict_proba(np.asarray(acts[site])[rows])
        sure = np.take_along_axis(p, truth[..., None], -1)[..., 0].mean(1)
        high, low = ends(sure, prompts.examples["group"].to_numpy()[rows])
        chosen = np.concatenate([high, low])
        return {"rows": rows, "share": (p.argmax(-1) == truth).mean(1), "sure": sure, "chosen": chosen,
                "best": np.array([len(high)]), "reading": p[chosen], "moves": _moves(study, rows[chosen])}

    return best, study.folder.stage("boards-read", read)


def boards_section(study: Study, best: pd.Series, found: dict[str, ndarray]) -> Section:
    """The three best and three worst test positions with what is there, what is read and what the model would play.

    Args:
        best, found: Of `read_boards`.
    """
    prompts, rows = study.prompts, found["rows"]
    n_best, where = int(found["best"][0]), f"{PROBE} probe, {Site(best['stream'], int(best['layer']))}"
    names = [f"best {i + 1}" if i < n_best else f"worst {i + 1 - n_best}" for i in range(len(found["chosen"]))]
    examples = prompts.examples.iloc[rows].reset_index(drop=True)
    every = examples[["prompt", "pos", "ply", "group"]].assign(**{
        SHARE: found["share"], "probability of the truth": found["sure"],
        "text": [prompt_text(prompts, row, every=True) for row in rows.tolist()]})
    every = pd.concat([every, examples[[c for c in examples if c.startswith(f"{LABEL}/")]]], axis=1)
    drawn = [(f"{name}: game {every['prompt'][k]} after {every['ply'][k]} moves",
              position(study, int(rows[k]), found["reading"][i], found["moves"][i]))
             for i, (name, k) in enumerate(zip(names, found["chosen"].tolist(), strict=True))]
    size = isqrt(len(drawn[0][1].truth))
    shown = pd.DataFrame([{
        "position": name, "after": f"{every['ply'][k]} moves", SHARE: number(float(found["share"][k])),
        "read wrongly": ", ".join(othello.square_name(int(s), size) for s in np.flatnonzero(
            drawn[i][1].reading.argmax(1) != drawn[i][1].truth)) or "none",
        "moves": prompt_text(prompts, int(rows[k]))}
        for i, (name, k) in enumerate(zip(names, found["chosen"].tolist(), strict=True))])
    about = (f"{where}. Of {len(rows):,} test positions those in which the mean probability of what is there is "
             "highest and lowest, one of each opening.")
    return Section("Board by board", about, [Exhibit(
        "Best and worst boards", _boards.positions_picture(drawn), "Left: the true board with its legal moves. Middle: "
        "what the probe reads, wrong squares ringed. Right: the model's next move.", every.iloc[found["chosen"]])],
        [Table("Best and worst positions", shown, "The last move is in brackets; the data has all test positions.",
               every.sort_values("probability of the truth", kind="stable"), prose=("read wrongly", "moves"))])


def board_samples(study: Study, best: pd.Series, found: dict[str, ndarray]) -> list[Sample]:
    """Scores of single positions behind the linear probe's accuracy, see `_samples`."""
    return list(sample(best, study.prompts.examples["group"].to_numpy()[found["rows"]], found["share"]))


def position(study: Study, row: int, reading: Float[ndarray, "square 3"], moves: Float[ndarray, " d_vocab"]
             ) -> _boards.Position:
    """One example, in the colours of its discs."""
    prompts = study.prompts
    code, colour = prompts.labels(LABEL)[row].astype(np.int64), prompts.labels("black_white")[row].astype(np.int64)
    held = code != 1
    mover = BLACK if (code[held] == colour[held]).all() else WHITE
    size = isqrt(len(code))
    squares = token_squares(size)
    played = np.zeros(len(code))
    played[squares[1:]] = moves[1:]
    bits = np.uint64(1) << np.arange(len(code), dtype=np.uint64)
    mine, theirs = (np.array([np.bitwise_or.reduce(bits[code == c], initial=np.uint64(0))]) for c in (2, 0))
    example = prompts.examples.iloc[row]
    return _boards.Position(
        truth=_boards.as_colours(code, mover), reading=reading[:, list(COLOUR_OF[mover])],
        legal=unpack(othello.legal_moves(mine, theirs, size), size)[0], moves=played,
        last=int(squares[int(prompts.tokens[int(example["prompt"]), int(example["pos"])])]))


@torch.inference_mode()
def _moves(study: Study, rows: Int[ndarray, " row"]) -> Float[ndarray, "row d_vocab"]:
    """Probabilities of the model's next move."""
    examples = study.prompts.examples.iloc[rows]
    tokens = study.prompts.tokens[torch.as_tensor(examples["prompt"].to_numpy(copy=True))]
    logits = study.model(tokens.to(study.model.cfg.device))
    at = torch.as_tensor(examples["pos"].to_numpy(copy=True)).to(logits.device)
    return logits[torch.arange(len(at)), at].float().softmax(-1).cpu().numpy()
