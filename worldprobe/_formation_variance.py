"""Does a feature that a net uses explain its states? An easy and a hard one, learnt equally well and used equally.

16 random bits; a net 16-128-64-2 (ReLU, Adam at 1e-3, 2,000 batches of 128) says bit 0 and the parity of bits 1 to 3.
Measured at the layer of 64 on 4,000 fresh rows. Beside each share of variance stands what becomes of the answer when
the mean of the states no longer depends on the feature.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from probing.formation import variance_explained, without_feature

from ._formation_checks import another_seed, asked
from ._formation_nets import Stack, mlp
from ._ink import MUTED, SERIES, Plot, plot
from ._report import Exhibit, Section, Table

N_BITS, BATCH, STEPS, N_TEST = 16, 128, 2000, 4000
FEATURES = ("easy", "hard", "unused")
CARD = {"easy": (0.27, 0.29), "hard": (0.10, 0.12)}  # of two seeds


def measure(seeds: Sequence[int], steps: int = STEPS) -> pd.DataFrame:
    """One row per seed, step (0 and the last) and feature: value, chance, accuracy (of the output that asks for it),
    accuracy_without (its accuracy once the means no longer depend on the feature), others_without (of the other)."""
    nets = Stack([mlp((N_BITS, 128, 64, 2), nn.ReLU, seed) for seed in seeds])
    adam = torch.optim.Adam(nets.parameters(), 1e-3)  # entry by entry, so that nets do not meet in it
    generator = torch.Generator().manual_seed(min(seeds))
    fresh = _bits((len(seeds), N_TEST), generator)
    rows = _rows(nets, fresh, seeds, 0)
    for _ in range(steps):
        bits = _bits((len(seeds), BATCH), generator)
        loss = binary_cross_entropy_with_logits(nets(bits), _targets(bits), reduction="none").mean((1, 2)).sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return pd.DataFrame(rows + _rows(nets, fresh, seeds, steps))


def checks(table: pd.DataFrame) -> list[dict]:
    end, start = table[table["step"] > 0], table[table["step"] == 0]
    value = {f: end[end["feature"] == f]["value"].to_numpy() for f in FEATURES}
    accuracy = end[end["feature"] != "unused"]["accuracy"]
    found = [asked("both outputs right", 1.0, accuracy, "> 0.99 on every seed", (accuracy > 0.99).all())]
    for name, figures in CARD.items():
        found += [another_seed(f"variance explained, {name} feature, seed {i + 1} of the card", card, value[name])
                  for i, card in enumerate(figures)]
    ratio = value["easy"] / value["hard"]
    found.append(asked("variance explained, easy / hard", "2.4", ratio, "> 2 on every seed", (ratio > 2).all()))
    unused = start[start["feature"] == "unused"]["value"].to_numpy()
    found.append(another_seed("variance explained by an unused bit before training", 0.03, unused))
    found.append(asked("variance explained by an unused bit at the end", 0.001, value["unused"],
                       "<= 0.002, and below step 0, on every seed",
                       (value["unused"] <= 0.002).all() and (value["unused"] < unused).all()))
    total = end.groupby("seed")["value"].sum()
    found.append(asked("variance explained by independent features, sum", None, total, "<= 1", (total <= 1).all()))
    lost = {f: (end["accuracy"] - end["accuracy_without"])[end["feature"] == f] for f in ("easy", "hard")}
    found.append(asked("accuracy lost without the easy feature minus without the hard one", None,
                       lost["easy"].to_numpy() - lost["hard"].to_numpy(), "both lose > 0.3 on every seed",
                       all((drop > 0.3).all() for drop in lost.values())))
    return found


def section(table: pd.DataFrame) -> Section:
    end = table[table["step"] > 0]
    caption = ("Left: share of the variance of 64 units that a feature explains; light: before training. Right: share "
               "of answers lost once the mean of the states no longer depends on the feature. Bars: mean of the seeds; "
               "whiskers: least and most. The unused bit has no answer to lose; the loss shown is that of the other "
               "two.")
    shown = [{"feature": f, "explains": _span(rows["value"]), "by chance": f"{rows['chance'].iloc[0]:.4f}",
              "accuracy": _span(rows["accuracy"]), "without it": _span(rows["accuracy_without"]),
              "the other output without it": _span(rows["others_without"])}
             for f, rows in end.groupby("feature", sort=False)]
    return Section("Variance explained is not use", __doc__.partition("\n")[0], [
        Exhibit("What features explain and what they are used for", _plot(table), caption, table)],
        [Table("Features at the end of training", pd.DataFrame(shown), "Least to most of the seeds.")])


def _rows(nets: Stack, bits: torch.Tensor, seeds: Sequence[int], step: int) -> list[dict]:
    with torch.no_grad():
        states = nets.states(bits)
        H, right = states[-2], _targets(bits) > 0.5
        found = []
        for i, seed in enumerate(seeds):
            features = {"easy": right[i, :, 0], "hard": right[i, :, 1], "unused": bits[i, :, -1] > 0}
            named = {f: v.numpy() for f, v in features.items()}
            explained = variance_explained(H[i].numpy(), named, n_boot=50).set_index("feature")
            before = ((states[-1][i] > 0) == right[i]).double().mean(0)
            for j, (f, label) in enumerate(named.items()):
                cut = torch.from_numpy(without_feature(H[i].numpy(), label)).float()
                after = ((cut @ nets.W[-1][i] + nets.b[-1][i] > 0) == right[i]).double().mean(0)
                of_it = (float(before[j]), float(after[j]), float(after[1 - j])) if j < 2 else (
                    np.nan, np.nan, float(after.mean()))
                found.append(dict(seed=seed, step=step, feature=f, value=explained.loc[f, "value"],
                                  ci_low=explained.loc[f, "ci_low"], ci_high=explained.loc[f, "ci_high"],
                                  chance=explained.loc[f, "chance"], accuracy=of_it[0], accuracy_without=of_it[1],
                                  others_without=of_it[2]))
    return found


def _plot(table: pd.DataFrame) -> Plot:
    figure, (left, right) = plot(table, 2, (7.4, 3.2))
    end, start = table[table["step"] > 0], table[table["step"] == 0]
    lost = end.assign(lost=np.where(end["feature"] == "unused", 1 - end["others_without"],
                                    end["accuracy"] - end["accuracy_without"]))
    for i, f in enumerate(FEATURES):
        for rows, column, ax, x, colour in ((start, "value", left, i - 0.2, MUTED), (end, "value", left, i + 0.2,
                                            SERIES[i]), (lost, "lost", right, i, SERIES[i])):
            values = rows[rows["feature"] == f][column]
            ax.bar(x, values.mean(), 0.36 if ax is left else 0.6, color=colour, alpha=0.5 if colour == MUTED else 1)
            ax.vlines(x, values.min(), values.max(), color="#1f2430", lw=1.2)
    for ax, label in ((left, "share of variance explained"), (right, "answers lost without it (share)")):
        ax.set_xticks(range(len(FEATURES)), FEATURES)
        ax.set_ylabel(label)
    return figure


def _span(values: pd.Series) -> str:
    return "–" if values.isna().all() else f"{values.min():.3f} to {values.max():.3f}"


def _bits(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    """-1 and 1."""
    return torch.randint(0, 2, (*shape, N_BITS), generator=generator).float() * 2 - 1


def _targets(bits: torch.Tensor) -> torch.Tensor:
    """Bit 0, and the parity of bits 1 to 3, as 0 and 1."""
    return torch.stack([bits[..., 0], bits[..., 1:4].prod(-1)], -1).gt(0).float()
