"""How far apart does a net put two inputs, and do three numbers say how it gets there? Small and large initial weights.

Leaky-ReLU net 1-100-100-100-100-1, weights by Xavier with gain g, biases 0, trained on two points (squared distances
dx2 = 1 and dy2 = 1/2) by full-batch gradient descent until the loss is below 1e-7. The theory's two effective rates are
fitted to what was recorded at a layer.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import nn

from probing.formation import end_distance, fit_two_point, rich_limit, two_point

from ._formation_checks import another_seed, asked, known, together
from ._formation_nets import Stack, mlp
from ._ink import MARKERS, MUTED, SERIES, Plot, name_lines, plot
from ._report import Exhibit, Section, Table

RATES = {0.8: 0.02, 1.0: 0.01, 1.4: 0.01 / 1.4**6, 2.0: 0.01 / 2.0**6}  # gain -> learning rate
WIDTHS = (1, 100, 100, 100, 100, 1)
DX2, DY2, LAYER, SMALL = 1.0, 0.5, 3, 1e-7
N_RECORDS = 120  # per fit
CARD = {0.8: ((0.07, 0.09), (0.45, 0.63)), 1.0: ((0.27, 0.35), (0.57, 0.76)), 1.4: ((2.1, 2.6), (2.0, 2.4)),
        2.0: ((17.0, 22.0), (15.0, 21.0))}  # h at step 0 and at the end, least and most of three seeds
ENDS = [(0.01, 0.005, 2.0, 0.394198), (1.0, 0.1, 1.0, 1.288153), (0.3, 0.05, 2.0, 0.619935),
        (10.0, 0.1, 1.0, 10.039802)]  # h, y, k = eta_y / (eta_h dx2), and the card's h at the end; dy2 = 1/2


def measure(seeds: Sequence[int], most_steps: int = 20000, every: int = 5) -> dict[str, pd.DataFrame]:
    """`records`: step, loss and (h, y, w) of every net and layer; `fits`: one row per net and fitted layer."""
    about: list[dict] = [dict(gain=gain, seed=seed) for gain in RATES for seed in seeds]
    nets = Stack([xavier(WIDTHS, nn.LeakyReLU, a["gain"], a["seed"]) for a in about])
    table = recorded(nets, [RATES[a["gain"]] for a in about], about, most_steps, every)
    return {"records": table, "fits": pd.DataFrame([
        dict(gain=gain, seed=seed, layer=layer) | fitted(rows) for (gain, seed, layer), rows
        in table.groupby(["gain", "seed", "layer"], sort=False)
        if layer == LAYER or (gain, seed) == (min(RATES), min(seeds))])}


def recorded(nets: Stack, rates: Sequence[float], about: list[dict], most_steps: int, every: int) -> pd.DataFrame:
    """step, loss and (h, y, w) of every net and layer, up to where its loss is small; `about` has the columns that tell
    nets apart."""
    rate = torch.tensor(rates)
    x = torch.tensor([[0.0], [DX2**0.5]]).expand(len(about), -1, -1)
    y = torch.tensor([[0.0], [DY2**0.5]]).expand(len(about), -1, -1)
    kept = []
    for step in range(most_steps + 1):
        states = nets.states(x)
        loss = 0.5 * ((states[-1] - y) ** 2).sum(2).mean(1)
        if step % every == 0:
            kept.append(_record(step, loss, states))
            if float(loss.detach().max()) < SMALL:
                break
        nets.sgd(loss, rate)
    return _table(kept, about)


def checks(measured: dict[str, pd.DataFrame]) -> list[dict]:
    fits = measured["fits"]
    layer = fits[fits["layer"] == LAYER]
    found = [together("h at the end, closed form", [
        known(f"from h = {h:g}, y = {y:g}, k = {k:g}", card, end_distance(h, y, DX2, DY2, 1.0, k * DX2), 1e-6)
        for h, y, k, card in ENDS])]
    times = np.linspace(0, 400, 200)
    state = two_point(times, (0.01, 0.005, -0.01), DX2, DY2, 0.5, 1.0)
    found.append(known("closed form minus the equations, followed to the end", 0.0,
                       float(state[-1, 0]) - end_distance(0.01, 0.005, DX2, DY2, 0.5, 1.0), 1e-6))
    for gain, spans in CARD.items():
        rows = layer[layer["gain"] == gain]
        found.append(together(f"h at layer {LAYER}, gain {gain:g}", [
            another_seed(f"at {when}: {name} of the card's three seeds", value, rows[column])
            for when, column, span in zip(("step 0", "the end"), ("h_start", "h_end"), spans, strict=True)
            for name, value in zip(("least", "most"), span, strict=True)]))
    moved = {gain: rows["h_end"] / rows["h_start"] for gain, rows in layer.groupby("gain")}
    found.append(asked("rich: h grows from gain 0.8 by", "6-8", moved[0.8], "> 3 on every seed",
                       (moved[0.8] > 3).all()))
    found.append(asked("lazy: h changes from gain 2 by", "1", moved[2.0], "0.7 to 1.4 on every seed",
                       moved[2.0].between(0.7, 1.4).all()))
    errors = layer[layer["gain"] == 0.8]["error"]
    found.append(asked(f"error of the fitted theory at layer {LAYER}, gain 0.8 (share of variance)", None, errors,
                       "< 0.1 on every seed", (errors < 0.1).all()))
    return found


def section(measured: dict[str, pd.DataFrame]) -> Section:
    records, fits = measured["records"], measured["fits"]
    layer = fits[fits["layer"] == LAYER]
    caption = (f"Left: squared distance of the hidden states of the two inputs at layer {LAYER}, before and after "
               "training, one mark per net; diagonal: nothing moved; line: the plateau that the fitted rates of the "
               "smallest weights predict. Right: one net with small weights (marks) and the fitted theory (lines).")
    lines = [{"gain": gain, "h at step 0": _span(rows["h_start"]), "h at the end": _span(rows["h_end"]),
              "h at the end, theory": _span(rows["h_theory"]), "error of the fit": _span(rows["error"]),
              "eta_y / eta_h": _span(rows["eta_y"] / rows["eta_h"])} for gain, rows in layer.groupby("gain")]
    depth = fits[(fits["gain"] == min(RATES)) & (fits["seed"] == fits["seed"].min())]
    depth = depth[["layer", "error", "error_h", "error_y", "error_w"]].round(4)
    return Section("How two inputs come apart", __doc__.partition("\n")[0], [
        Exhibit("End distance and initial distance", _plot(records, fits), caption, fits)], [
        Table(f"Distance at layer {LAYER} by gain", pd.DataFrame(lines), "Least to most of the seeds."),
        Table("Error of the fit by layer, gain 0.8", depth,
              "First seed. Mean squared error as a share of the variance of each curve, and of their mean.", fits)])


def xavier(widths: Sequence[int], activation: type[nn.Module], gain: float, seed: int) -> nn.Sequential:
    net = mlp(widths, activation, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for m in net:
            if isinstance(m, nn.Linear):
                nn.init.xavier_normal_(m.weight, gain)
                nn.init.zeros_(m.bias)
    return net


def _record(step: int, loss: torch.Tensor, states: Sequence[torch.Tensor]) -> np.ndarray:
    """(net, layer, 5): step, loss, h, y, w."""
    with torch.no_grad():
        apart = [s[:, 1] - s[:, 0] for s in states]
        y = (apart[-1] ** 2).sum(1)
        w = y - DY2**0.5 * apart[-1][:, 0]
        h = torch.stack([(a**2).sum(1) for a in apart[:-1]], 1)
        same = (torch.full_like(h, float(step)), loss[:, None].expand_as(h), h, y[:, None].expand_as(h),
                w[:, None].expand_as(h))
        return torch.stack(same, 2).double().numpy()


def _table(kept: list[np.ndarray], about: list[dict]) -> pd.DataFrame:
    """Rows up to where the loss of a net is small."""
    all_ = np.stack(kept)
    parts = []
    for i, a in enumerate(about):
        small = all_[:, i, 0, 1] < SMALL
        end = int(small.argmax()) + 1 if small.any() else len(all_)
        chosen = np.unique(np.linspace(0, end - 1, min(end, 4 * N_RECORDS)).round().astype(int))
        for layer in range(all_.shape[2]):
            parts.append(pd.DataFrame(all_[chosen, i, layer], columns=["step", "loss", "h", "y", "w"]).assign(
                layer=layer + 1, **a))
    return pd.concat(parts, ignore_index=True)


def fitted(rows: pd.DataFrame) -> dict:
    """Of the records of one net and layer: the fitted rates, their errors, and h as it was and as theory ends it."""
    some = rows.iloc[np.unique(np.linspace(0, len(rows) - 1, N_RECORDS).round().astype(int))]
    found = fit_two_point(some["step"].to_numpy(), some[["h", "y", "w"]].to_numpy(), DX2, DY2)
    first, last = rows.iloc[0], rows.iloc[-1]
    return dict(h_start=first["h"], h_end=last["h"], loss=last["loss"], steps=last["step"],
                h_theory=end_distance(first["h"], first["y"], DX2, DY2, found.eta_h, found.eta_y),
                error=found.error, **found._asdict())


def _plot(records: pd.DataFrame, fits: pd.DataFrame) -> Plot:
    layer = fits[fits["layer"] == LAYER]
    figure, (left, right) = plot(fits, 2, (8.2, 3.7))
    ends = np.array([layer[["h_start", "h_end"]].to_numpy().min() / 1.5, layer["h_start"].max() * 1.5])
    left.plot(ends, ends, color=MUTED, lw=1.1, ls=(0, (4, 2)))
    rich = layer[layer["gain"] == layer["gain"].min()]
    limits = [rich_limit(DX2, DY2, r["eta_h"], r["eta_y"]) for _, r in rich.iterrows()]
    left.axhline(float(np.mean(limits)), color=MUTED, lw=1.1)
    for i, (gain, rows) in enumerate(layer.groupby("gain")):
        left.plot(rows["h_start"], rows["h_end"], MARKERS[i], color=SERIES[i], ms=6, label=f"gain {gain:g}", mew=0)
    left.set(xscale="log", yscale="log", xlabel="distance before training (squared)",
             ylabel="distance after training (squared)")
    left.legend(frameon=False, fontsize=8.5)
    one = rich.iloc[0]
    rows = records[(records["gain"] == one["gain"]) & (records["seed"] == one["seed"]) & (records["layer"] == LAYER)]
    theory = two_point(rows["step"].to_numpy(), tuple(rows[["h", "y", "w"]].iloc[0]), DX2, DY2, one["eta_h"],
                       one["eta_y"])
    few = slice(None, None, max(1, len(rows) // 30))
    for i, name in enumerate("hyw"):
        right.plot(rows["step"], theory[:, i], color=SERIES[i], lw=1.6)
        right.plot(rows["step"][few], rows[name][few], MARKERS[i], color=SERIES[i], ms=4, mew=0)
    right.set(xlabel="training step", ylabel="squared distance")
    name_lines(right, [(float(theory[-1, i]), name, SERIES[i]) for i, name in enumerate("hyw")])
    return figure


def _span(values: pd.Series) -> str:
    return f"{values.min():.3g} to {values.max():.3g}"
