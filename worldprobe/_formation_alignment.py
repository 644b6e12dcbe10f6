"""Do states, gradients and weights align in a small net that learns from a teacher?

Teacher 24-8-5 (tanh), labels by argmax, 2,000 rows; student 24-48-48-48-5 (tanh), stochastic gradient descent at 0.1 in
batches of 32, without weight decay and with six strengths of it, of which `_formation_decay` tells. Measured at the two
middle layers on 1,000 rows that were not trained on, beside the same with rotated eigenvectors.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from probing.formation import alignments, layer_moments, log_steps, power_laws

from ._formation_checks import another_seed, asked, known, together
from ._formation_nets import Stack, mlp
from ._ink import SERIES, Plot, name_lines, plot
from ._report import Exhibit, Section

MIDDLE = {"2": "second", "4": "third"}  # layers of nn.Sequential
STEPS = (0, 32, 64, 125, 250, 500, 1000, 2000, 4000, 8000, 12000)
DECAYS = (0.0, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2)
N_TRAIN, N_TEST, BATCH, RATE = 2000, 1000, 32, 0.1
CARD = {  # step, weight decay -> relation of a side -> second and third layer; one seed, on the rows of training
    (0, 5e-3): {"out-RGA": (0.11, 0.13), "out-RWA": (0.72, 0.61), "out-GWA": (0.16, 0.17), "in-RGA": (0.11, 0.11),
                "in-RWA": (0.40, 0.35), "in-GWA": (0.29, 0.31)},
    (2000, 5e-3): {"out-RGA": (0.93, 0.86), "out-RWA": (0.98, 0.92), "out-GWA": (0.95, 0.91), "in-RGA": (0.82, 0.92),
                   "in-RWA": (0.86, 0.94), "in-GWA": (0.97, 0.94)},
    (12000, 5e-3): {"out-RGA": (0.97, 0.93), "out-RWA": (0.99, 0.95), "out-GWA": (0.98, 0.94), "in-RGA": (0.65, 0.96),
                    "in-RWA": (0.71, 0.97), "in-GWA": (0.97, 0.95)},
    (12000, 0.0): {"out-RGA": (0.86, 0.72), "out-RWA": (0.95, 0.89), "out-GWA": (0.91, 0.83), "in-RGA": (0.58, 0.84),
                   "in-RWA": (0.64, 0.88), "in-GWA": (0.96, 0.94)},
}


def measure(seeds: Sequence[int], steps: Sequence[int] = STEPS, decays: Sequence[float] = DECAYS
            ) -> dict[str, pd.DataFrame]:
    """`alignments`: of every net, step, layer, relation and side, with the null, and the net's accuracy on fresh rows;
    `powers`: exponents at the end, with the trace of the matrix on rows of training, before they were normed."""
    data = [_data(seed) for seed in seeds]
    X, Y, fresh, fresh_Y = (torch.stack(each) for each in zip(*data, strict=True))
    about: list[dict] = [dict(seed=seed, decay=decay) for decay in decays for seed in seeds]
    nets = Stack([mlp((24, 48, 48, 48, 5), nn.Tanh, 1000 + a["seed"]) for a in about])
    decay, rate = torch.tensor([a["decay"] for a in about]), torch.full((len(about),), RATE)
    order = torch.Generator().manual_seed(min(seeds))
    rows: list[pd.DataFrame] = []
    powers: list[pd.DataFrame] = []
    for step in range(max(steps) + 1):
        if step in steps:
            for i, net in enumerate(nets.written()):
                seed = i % len(seeds)
                batch = fresh[seed], fresh_Y[seed]
                moments = layer_moments(net, _loss, [batch], list(MIDDLE))
                with torch.no_grad():
                    right = float((net(batch[0]).argmax(1) == batch[1]).float().mean())
                rows.append(alignments(moments, seed=seed).assign(step=step, accuracy=right, **about[i]))
                if step == max(steps):
                    raw = layer_moments(net, _loss, [(X[seed], Y[seed])], list(MIDDLE), normed=False)
                    found = power_laws(moments)
                    found["trace"] = [float(getattr(raw[r.layer], f"{r.matrix}_{r.side}").trace())
                                      for r in found.itertuples()]
                    powers.append(found.assign(step=step, **about[i]))
        if step == max(steps):
            break
        pick = torch.randint(N_TRAIN, (BATCH,), generator=order)  # the same for all nets
        x, y = (each[:, pick].repeat(len(decays), *(1,) * (each.ndim - 1)) for each in (X, Y))
        out = nets(x)
        nets.sgd(cross_entropy(out.flatten(0, 1), y.flatten(), reduction="none").view(y.shape).mean(1), rate, decay)
    return {"alignments": pd.concat(rows, ignore_index=True), "powers": pd.concat(powers, ignore_index=True)}


def identities(seeds: Sequence[int]) -> float:
    """Largest relative difference of H_out from W H_in W^T and of G_in from W^T G_out W, taken row by row."""
    worst = 0.0
    for seed in seeds:
        x, y, *_ = _data(seed)
        net = mlp((24, 48, 48, 48, 5), nn.Tanh, 1000 + seed)
        found = layer_moments(net, _loss, [(x, y)], ["4"], normed=False)["4"]
        states = net[:4](x)
        grads = torch.autograd.grad(_loss(net[4:], (states, y)).sum(), states)[0]
        for ours, rows in ((found.H_out, states @ net[4].weight.T), (found.G_in, grads)):
            direct = (rows.T @ rows / len(rows)).detach().double()
            worst = max(worst, float((ours - direct).norm() / direct.norm()))
    return worst


def checks(measured: dict[str, pd.DataFrame], exact: float) -> list[dict]:
    table = measured["alignments"].assign(name=lambda t: t["side"] + "-" + t["relation"])
    found = [known("H_out = W H_in W^T and G_in = W^T G_out W, largest relative difference", 0.0, exact, 1e-5)]
    measured_at = set(table["step"])
    for (step, decay), cells in CARD.items():
        if step not in measured_at:
            continue
        parts = []
        for name, pair in cells.items():
            for layer, card in zip(MIDDLE, pair, strict=True):
                rows = table[(table["step"] == step) & (table["decay"] == decay) & (table["layer"] == layer)
                             & (table["name"] == name)]
                parts.append(another_seed(f"{name}, {MIDDLE[layer]} layer", card, rows["value"]))
        found.append(together(f"six alignments at step {step:,}, weight decay {decay:g}: figures that agree", parts))
    return found + ([_gain(table)] if 2000 in measured_at else [])


def _gain(table: pd.DataFrame) -> dict:
    """Out-RGA: below 0.3 before training, above 0.7 and above its null after 2,000 steps with weight decay."""
    rows = table[(table["name"] == "out-RGA") & (table["decay"] == 5e-3)]
    start, later = (rows[rows["step"] == step] for step in (0, 2000))
    gain = later["value"].to_numpy() - start["value"].to_numpy()
    passed = (start["value"] < 0.3).all() and (later["value"] > 0.7).all() and (
        later["value"] > later["null_high"]).all()
    return asked("out-RGA gained by 2,000 steps with weight decay 5e-3, two layers on every seed", "0.82 / 0.73", gain,
                 "< 0.3 at step 0; > 0.7 and above the rotated null after", bool(passed))


def section(measured: dict[str, pd.DataFrame]) -> Section:
    table = measured["alignments"]
    caption = (f"Mean of two middle layers and {table['seed'].nunique()} seeds; whiskers: least and most of the seeds. "
               f"Solid: weight decay 5e-3, dashed: none. Grey: the same with rotated eigenvectors (mean). Step 0 "
               f"stands at the left. Out-RWA and in-GWA are high before training by algebra; only the rise counts. "
               f"Measured on {N_TEST:,} rows that were not trained on.")
    return Section("Do states, gradients and weights align?", __doc__.partition("\n")[0], [
        Exhibit("Six alignments over training", _plot(table), caption, table)])


def _plot(table: pd.DataFrame) -> Plot:
    figure, axes = plot(table, 2, (8.2, 3.7))
    for ax, side in zip(axes, ("out", "in"), strict=True):
        names = []
        for i, relation in enumerate(("RGA", "RWA", "GWA")):
            for decay, style in ((5e-3, "-"), (0.0, (0, (4, 2)))):
                rows = table[(table["side"] == side) & (table["relation"] == relation) & (table["decay"] == decay)]
                by_seed = rows.pivot_table(index="step", columns="seed", values="value")
                x = log_steps(by_seed.index.to_numpy())
                ax.plot(x, by_seed.mean(axis=1), ls=style, color=SERIES[i], lw=1.8, zorder=3)
                ax.vlines(x, by_seed.min(axis=1), by_seed.max(axis=1), color=SERIES[i], lw=1.2, alpha=0.7)
                if style == "-":
                    names.append((float(by_seed.mean(axis=1).iloc[-1]), f"{side}-{relation}", SERIES[i]))
        null = table[(table["side"] == side) & (table["decay"] == 5e-3)].groupby("step")["null"].mean()
        ax.plot(log_steps(null.index.to_numpy()), null, color="#5b6475", lw=1.2, ls=(0, (1, 1.5)))
        names.append((float(null.iloc[-1]), "rotated", "#5b6475"))
        shown = [0, *range(2, len(x), 3), len(x) - 1]
        ax.set_xticks(x[shown], [f"{by_seed.index[j]:,}" for j in shown])
        ax.set_xlabel("training step (log scale, step 0 at the left)")
        ax.set_ylabel(f"alignment, {side}put side")
        ax.set_ylim(-0.05, 1.05)
        name_lines(ax, names)
    return figure


def _data(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x, fresh = (torch.randn(n, 24, generator=generator) for n in (N_TRAIN, N_TEST))
    teacher = mlp((24, 8, 5), nn.Tanh, 2000 + seed)
    with torch.no_grad():
        return x, teacher(x).argmax(1), fresh, teacher(fresh).argmax(1)


def _loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return cross_entropy(model(batch[0]), batch[1], reduction="none")
