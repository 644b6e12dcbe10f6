"""The report of `worldprobe intervene`: for every label what reads it, what writing and erasing it does, at what price,
and whether the probes found what the model uses."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from interventions import verdict
from probing import Site

from ._cite import cited
from ._effect_maps import layer_dose_map, position_map
from ._effect_plots import at_price, common_price, dose_curves, erased_answers, erasure_by_layer, side_name
from ._effect_plots import pareto as pareto_plot
from ._intervene import PATCHING, Study
from ._intervene_arms import VERBS
from ._intervene_bench import N_RANDOM
from ._intervene_task import Claim, Single
from ._mediator_plot import readout_mediator_plot
from ._report import Exhibit, Section, Table, write_report
from ._rows import cell, metric_name, pick, site_name, with_interval
from ._sections import BAND, INTERVAL, _counts, _effect_table, probe_section
from ._verdicts import Verdict, best_probe, chosen_edit, effect_controls, enough, interventions_of, reads, used

CHANCE = ("majority", "majority_by_position", "shuffled_labels", "best_of_layers_null")  # of what the states hold
GROUPS = "groups of prompts"


def write_intervene_report(study: Study, price: float | int | None = None) -> Path:
    """Write `report.html` into the run folder and return its path. Edits are compared at `price`, in nats, or at
    `common_price`."""
    folder, config = study.folder, study.config
    everything = pd.concat([study.table, study.scans], ignore_index=True)
    known = {c.label: pick(everything, label=c.label) for c in study.claims}
    names = " and ".join(known)
    words = {c.label: verdicts_of(known[c.label], c.label) for c in study.claims}
    summary = [
        f"Can the states of the model {config['model']} be read for {names}, and do its answers follow what is read? "
        f"Directions were learned from {config['prompts']} prompts; edits of the last token were tried on one half of "
        f"{config['n_cases']} cases and are reported on the other, beside doing nothing and {N_RANDOM} random "
        "directions of the same length.",
        *(f"{label}: {in_words(each)}." for label, each in words.items()),
    ]
    sections = [label_section(study, c, known[c.label], price) for c in study.claims]
    sections += [s for s in [patching_section(study.table)] if s]
    about = folder.environment()
    run = {"command": shlex.join(about.pop("command")), "configuration": dict(config), **about,
           "citation": cited(study.table)}
    return write_report(folder.path / "report.html", title=f"What the model {config['model']} does with {names}",
                        summary=summary, verdicts=words, numbers=numbers(known), sections=sections, run=run)


def verdicts_of(table: pd.DataFrame, label: str) -> list[Verdict]:
    """Reads, is used, is enough."""
    return [reads(table, label, against=CHANCE), used(table), enough(table)]


def in_words(words: list[Verdict]) -> str:
    """`reads, but is not used and is not enough`."""
    said = [{"yes": v.word, "partly": v.word.replace("is ", "is partly "), "not tested": f"{v.word}: not tested",
             "no": v.word.replace("is ", "is not ").replace("reads", "does not read")}[v.state] for v in words]
    return f"{said[0]}{', but' if (words[0].state, words[1].state) == ('yes', 'no') else ','} {said[1]} and {said[2]}"


def numbers(known: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The numbers to read first: per label the best probe, and the edit and erasure that did most, with no edit."""
    found = []
    for label, table in known.items():
        best = best_probe(table, label)
        found.append(best.to_dict() | {"what": f"{label}: accuracy of the {best['probe']} probe, {site_name(best)}"})
        for necessity, words in ((False, "writing it"), (True, "erasing it")):
            edits = [chosen_edit(table, verb) for verb in _verbs(table, necessity)]
            if not edits:
                continue
            edit = max(edits, key=lambda e: e["value"] if necessity else -e["value"])
            found.append(edit.to_dict() | {"what": f"{label}: {_measure()} after {words} ({edit['intervention']} "
                                                   f"{edit['probe']}, {site_name(edit)}, dose {edit['alpha']:g})"})
            idle = pick(effect_controls(table, edit), control="clean" if necessity else "null").iloc[0]
            found.append(idle.to_dict() | {"what": f"{label}: {_measure()} without an edit, against the "
                                                   f"{'old' if necessity else 'new'} answers"})
    return pd.DataFrame(found)[["what", "value", "ci_low", "ci_high", "n", "n_groups"]]


def label_section(study: Study, claim: Claim, table: pd.DataFrame, price: float | int | None = None) -> Section:
    """All about one label."""
    label, writes, erases = claim.label, _verbs(table, False), _verbs(table, True)
    text = [f"{len(claim.cases)} cases ({claim.cases.kind}), edited at the last token."]
    if claim.borrowed:
        text.append(f"No answer depends on {label}. So that an effect could be seen, its edits are held against the "
                    f"answers that would be right if {label} decided them as {claim.borrowed} does.")
    parts = [probe_section(table, label, heading="What can be read", groups=GROUPS)]
    if writes:
        parts += [Section("Writing it", _words(writes), list(_writing(table, writes)),
                          [_effect_table(table, writes, "set_error", GROUPS)]), price_section(table, price)]
    if erases:
        parts.append(Section("Taking it away", _words(erases), list(_erasing(table)),
                             [_effect_table(table, erases, "set_error", GROUPS)]))
    one = study.singles[label]
    if one is None:
        n = claim.cases.cases["target"].nunique()
        text.append(f"A learned subspace is about one target; the cases change {n}, none of them often enough to learn "
                    "one from.")
    else:
        rows = pick(study.table, label=one.label)
        if len(answers := pick(rows, intervention="erase", metric="accuracy")):
            parts.append(answers_section(answers, rows, one))
        parts.append(mediator_section(pick(rows, intervention=["compare", "read", "ablate", "interchange"]), one,
                                      study.sites[label]))
    return Section(f"{label}: {in_words(verdicts_of(table, label))}", text, subsections=parts,
                   about=f"change:{label}")


def _writing(table: pd.DataFrame, verbs: list[str]) -> Iterator[Exhibit]:
    interval = INTERVAL.format(where="Whiskers", groups=GROUPS)
    for verb in verbs:
        rows = pick(table, intervention=verb, metric="set_error", control=None, subset="all")
        yield Exhibit(f"{verb}: layer and dose", layer_dose_map(table, verb),
                      f"{metric_name('set_error').capitalize()} on the cases set aside for choosing, a panel per "
                      f"direction; framed: its best layer and dose. {_counts(pick(rows, split='choose'), GROUPS)} The "
                      f"intervals are in the data: 95 %, percentile bootstrap over {GROUPS}.")
        if rows[rows["split"] == "report"]["alpha"].nunique() > 1:
            yield Exhibit(f"{verb}: dose and response", dose_curves(table, verb),
                          "Cases kept for reporting, each direction at the layers chosen for it. Above: what it does; "
                          "below: what it costs, the divergence of the next token from the unedited model on these "
                          "prompts (solid) and, at the last token but one, on others (dashed). Left of zero the same "
                          "change is subtracted. Ringed: the chosen edit. "
                          f"{_counts(pick(rows, split='report'), GROUPS)} {interval} {BAND.format(n=N_RANDOM)}")


def price_section(table: pd.DataFrame, asked: float | int | None = None) -> Section:
    """Every way to write at the same side effect."""
    price = common_price(table) if asked is None else float(asked)
    said = "the largest price of the median edit" if asked is None else "as asked for"
    best = at_price(table, price)
    rows = pick(table, metric="set_error", control=None, split="report")
    exhibit = Exhibit(
        "Effect against side effect", pareto_plot(table, price),
        f"Side effect: the {side_name(table)}, where the edit was made at their last token but one. "
        f"Left: every edit and direction, dose by dose, from no edit on; grey dots: random directions of the same "
        f"lengths; dotted: no edit. At the same price lower is better. Dashed: {price:.3g} nats, {said}. "
        "Right: each where it first reaches that price, between two doses on the line between them "
        "(or where it costs most, if that is less); grey bars: random directions of that dose. "
        f"{_counts(rows, GROUPS)} {INTERVAL.format(where='Whiskers', groups=GROUPS)} "
        f"{BAND.format(n=N_RANDOM).replace('band', 'bars')}")
    shown = pd.DataFrame({
        "edit": best["intervention"], "direction": best["probe"], "where": [site_name(r) for _, r in best.iterrows()],
        "dose": best["alpha"], side_name(table): best["side"], "error": [cell(r) for _, r in best.iterrows()],
        "random directions (5–95 %)": [with_interval(r.band, r.band_low, r.band_high) for r in best.itertuples()]})
    first = best.iloc[0]
    beyond = "" if first["ci_high"] < first["band_low"] else ", which is not clearly more than random directions do"
    text = f"{first['intervention']} along {first['probe']} does most: error {cell(first)}{beyond}."
    return Section("At equal side effect", text, [exhibit], [
        Table(f"Edits at a side effect of {price:.3g} nats", shown, "Between two doses, on the straight line between "
              f"them; best first. In brackets: 95 % interval, percentile bootstrap over {GROUPS}.", best)])


def _erasing(table: pd.DataFrame) -> Iterator[Exhibit]:
    interval = INTERVAL.format(where="Whiskers", groups=GROUPS)
    rows = pick(table, intervention=_verbs(table, True), metric="set_error", control=None, split="report")
    yield Exhibit("Erased layer by layer", erasure_by_layer(table),
                  "Error against the answers that were right before, after the label was erased from one layer. "
                  f"Dashed: no edit. {_counts(rows, GROUPS)} {interval} Grey: 5th to 95th percentile of {N_RANDOM} "
                  "random directions that push as far as the erasure (wide), and of random subspaces of its rank that "
                  "were erased instead (narrow).")


def answers_section(answers: pd.DataFrame, rows: pd.DataFrame, one: Single) -> Section:
    """What the model still answers when one target is erased."""
    where = site_name(answers.iloc[0])
    exhibit = Exhibit("What is still answered", erased_answers(rows),
                      f"LEACE at {where}: the share of answers that are still right, and the same after other "
                      f"erasures. {_counts(answers, GROUPS)} {INTERVAL.format(where='Whiskers', groups=GROUPS)} Grey "
                      f"bars: 5th to 95th percentile of {N_RANDOM} draws.")
    return Section("What is still answered without it", about(one), [exhibit])


def about(one: Single) -> str:
    """Which cases a question about one subspace was asked of."""
    if "/" not in one.label:
        return f"All {len(one.cases)} cases."
    why = "named with --target" if one.asked else "of all targets the one with the most"
    return f"This is about the target {one.target} alone: {len(one.cases)} cases ({one.cases.kind}), {why}."


def mediator_section(rows: pd.DataFrame, one: Single, site: Site) -> Section:
    """Do the probes read what the model uses?"""
    n = pick(rows, intervention="interchange", control=None, split="report", subset="all")
    exhibit = Exhibit(
        "Readout and mediator", readout_mediator_plot(rows),
        f"The last token at {site}. Each row is a direction: that of a probe, or the one learned by letting the model "
        f"answer as if the label came from another prompt (DAS). {_counts(n, GROUPS)} Whiskers: 95 % interval, "
        f"percentile bootstrap over {GROUPS} (of angles: range over refits). Grey bars: 5th to 95th percentile of "
        "random directions (wide) and of random subspaces of equal rank (narrow). Dashed: no edit, the majority, or "
        "a right angle.")
    head, *lines = verdict(rows).splitlines()
    return Section("Does the probe read what the model uses",
                   [about(one), head, *(line.removeprefix("- ") for line in lines)], [exhibit])


def patching_section(table: pd.DataFrame) -> Section | None:
    """Where in the prompt, and in which layer, the difference is carried."""
    rows = pick(table, intervention=list(PATCHING), metric="nie", control=None)
    if rows.empty:
        return None
    what = {"denoise": "the clean state patched into the corrupted run: is it enough to bring the clean answer back",
            "noise": "the corrupted state patched into the clean run: is the clean one needed"}
    exhibits = [Exhibit(
        f"{verb}: layers and positions", position_map(table, verb),
        f"{words.capitalize()}? 1 closes the whole gap between the two runs, 0 does nothing. Positions count from the "
        f"last token, -1. Hatched: not significant (p ≥ 0.05, Benjamini-Hochberg over all cells). "
        f"{_counts(pick(rows, intervention=verb), GROUPS)} The intervals are in the data: 95 %, percentile bootstrap "
        f"over {GROUPS}.") for verb, words in what.items() if len(pick(rows, intervention=verb))]
    return Section("Where in the prompt it is carried",
                   f"Whole activations were patched between prompts that differ in {rows['label'].iloc[0]}, one layer "
                   "and one position at a time.", exhibits)


def _verbs(table: pd.DataFrame, necessity: bool) -> list[str]:
    return [v for v in interventions_of(table, necessity)
            if len(pick(table, intervention=v, metric="set_error", control=None, split="report", subset="all"))]


def _words(verbs: list[str]) -> str:
    return "; ".join(f"{verb} {VERBS[verb].words}" for verb in verbs) + "."


def _measure() -> str:
    return metric_name("set_error").partition(" (")[0]
