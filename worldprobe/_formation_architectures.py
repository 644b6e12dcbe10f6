"""Do two inputs come apart in the same way whatever the network? The two-point theory at every layer of seven networks.

Networks of 20 hidden layers, weights by Xavier with gain g, biases 0, learn two points as in
`worldprobe._formation_two_point`. Two effective rates are fitted to what was recorded at a layer: there is no number in
the theory for the activation, the width or the depth.

Source: van Rossem & Saxe, arXiv:2402.09142; in their code the middle of 20 layers of 500 leaky ReLUs fits, the first
layers do not.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ._formation_checks import asked
from ._formation_nets import Stack
from ._formation_two_point import fitted, recorded, xavier
from ._ink import MARKERS, SERIES, Plot, name_lines, plot
from ._report import Exhibit, Section, Table

DEPTH = 20
LAYERS = (1, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20)
MOST_STEPS = 8000
MIDDLE, FITS = range(8, 13), 0.1
CARD = (22.1, 0.094, 1.6)  # error at layers 1, 12 and 20 of their notebook, in a unit it does not say


@dataclass(frozen=True)
class Architecture:
    """`rate` of gradient descent; `skip`: every hidden layer but the first adds to what it read."""

    name: str
    activation: type[nn.Module]
    gain: float = 1.0
    rate: float = 0.01
    width: int = 100
    skip: bool = False


ARCHITECTURES = (
    Architecture("leaky ReLU, 500 wide", nn.LeakyReLU, width=500),
    Architecture("leaky ReLU", nn.LeakyReLU),
    Architecture("ReLU", nn.ReLU),
    Architecture("ELU", nn.ELU, rate=0.001),
    Architecture("tanh", nn.Tanh, rate=0.001),
    Architecture("linear", nn.Identity, rate=0.001),
    Architecture("residual", nn.LeakyReLU, gain=0.3, rate=0.002, skip=True),
)


class Residual(Stack):
    """Every hidden layer but the first adds to what it read."""

    def states(self, x: Float[Tensor, "net row d_in"]) -> list[Float[Tensor, "net row _"]]:
        found: list[Tensor] = []
        for i, (W, b) in enumerate(zip(self.W, self.b, strict=True)):
            z = torch.baddbmm(b, x, W)
            if i + 1 < len(self.W):
                z = self.activation(z)
            x = x + z if 0 < i < len(self.W) - 1 else z
            found.append(x)
        return found


def measure(seeds: Sequence[int], architectures: Sequence[Architecture] = ARCHITECTURES,
            layers: Sequence[int] = LAYERS, most_steps: int = MOST_STEPS) -> pd.DataFrame:
    """One row per architecture, seed and layer: fitted rates, their errors, h at the start and at the end. Missing
    where a layer's states of the two inputs are too close for the theory to be followed."""
    parts = []
    for each in architectures:
        widths = (1, *[each.width] * DEPTH, 1)
        kind = Residual if each.skip else Stack
        nets = kind([xavier(widths, each.activation, each.gain, seed) for seed in seeds])
        table = recorded(nets, [each.rate] * len(seeds), [dict(seed=seed) for seed in seeds], most_steps, every=2)
        for (seed, layer), rows in table.groupby(["seed", "layer"], sort=False):
            if layer in layers:
                parts.append(dict(architecture=each.name, seed=seed, layer=layer))
                with suppress(ValueError):
                    parts[-1] |= fitted(rows)
    return pd.DataFrame(parts)


def checks(table: pd.DataFrame) -> list[dict]:
    """Does the theory fit the middle of every network, and not the first layers of a deep one?"""
    found = []
    for name, rows in table.groupby("architecture", sort=False):
        middle = rows[rows["layer"].isin(MIDDLE)].groupby("seed")["error"].min()
        found.append(asked(f"{name}: error of the theory at the best of layers {MIDDLE.start} to {MIDDLE.stop - 1} "
                           "(share of variance)", None, middle, f"< {FITS} on every seed", (middle < FITS).all()))
    if (wide := ARCHITECTURES[0].name) in set(table["architecture"]):
        rows = table[table["architecture"] == wide].pivot(index="seed", columns="layer", values="error")
        best = rows[[layer for layer in rows if layer in MIDDLE]].min(axis=1)
        for layer, card in zip((1, DEPTH), (CARD[0], CARD[2]), strict=True):
            ratio = rows[layer] / best
            found.append(asked(f"{wide}: error at layer {layer} over that in the middle", f"{card / CARD[1]:.0f}",
                               ratio, "> 1 on every seed", (ratio > 1).all()))
    return found


def section(table: pd.DataFrame) -> Section:
    shown = table.pivot_table(index="architecture", columns="layer", values="error", sort=False).round(3)
    caption = (f"Mean squared error of the fitted theory as a share of the variance of each curve, mean of h, y and w; "
               f"{DEPTH} hidden layers, mean of {table['seed'].nunique()} networks each, thin lines: least and most. "
               "Two numbers are fitted at every layer; the theory knows of no activation, width or depth. Where early "
               "layers hardly move, and what they pass on moves as later layers let it, two numbers do not do.")
    return Section("One theory for many networks", __doc__.partition("\n\n")[0].replace("\n", " "), [
        Exhibit("Error of the theory by layer", _plot(table), caption, table)], [
        Table("Error by layer", shown.reset_index(), "Mean of the seeds.", table)])


def _plot(table: pd.DataFrame) -> Plot:
    figure, (ax,) = plot(table, 1, (7.2, 3.9))
    names = []
    for i, (name, rows) in enumerate(table.groupby("architecture", sort=False)):
        colour, of = (*SERIES, "#1f2430")[i % 7], rows.groupby("layer")["error"].agg(["min", "mean", "max"])
        ax.vlines(of.index, of["min"], of["max"], color=colour, lw=0.9, alpha=0.6)
        ax.plot(of.index, of["mean"], f"-{MARKERS[i % len(MARKERS)]}", color=colour, lw=1.4, ms=4, mew=0)
        names.append((float(of["mean"].iloc[-1]), str(name), colour))
    ax.set(yscale="log", xlabel="hidden layer", ylabel="error of the theory")
    ax.set_xticks(sorted(table["layer"].unique()))
    low, high = np.log10(ax.get_ylim())
    where = ax.get_ylim()
    name_lines(ax, [(where[0] + (np.log10(y) - low) / (high - low) * (where[1] - where[0]), name, colour)
                    for y, name, colour in names])
    return figure
