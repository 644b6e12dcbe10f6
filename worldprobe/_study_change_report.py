"""The part of a study's report about one change: where and how the fact can be written, beside everything that tells
an effect from noise."""

from collections.abc import Iterator, Sequence

import pandas as pd

from tasks._study import Change

from ._report import Exhibit, Section, Table
from ._rows import cell, control_name, lower_is_better, pick, site_name, with_interval
from ._sections import BAND, INTERVAL
from ._study_change_plots import beyond, dose_panels, place_map, same_site, thirds
from ._verdicts import Verdict, enough, used

FLIPS = "flip_rate"
NAMES = {FLIPS: "answers that become the new one (share)", "mass_after": "probability of the new answers",
         "log_odds": "log-odds, new against old (nats)"}
CONTROLS = {"told": "the prompt tells of it", "full_patch": "whole activation patched",
            "random_direction": "random directions (5–95 %)"}
SHOWN = {"set_error": "error", FLIPS: "answers flipped", "log_odds": NAMES["log_odds"],
         "mass_after": NAMES["mass_after"]}


def judged_by(change: Change) -> str:
    """The metric that its edits are compared by: flips where the first choice tells."""
    return FLIPS if change.by in ("set_error", FLIPS) else change.by


def counted(table: pd.DataFrame, metric: str) -> pd.DataFrame:
    """The rows of the cases that are counted: of flips those that the unedited model solves, if there are some."""
    solved = metric == FLIPS and len(pick(table, subset="solved", metric=metric)) > 0
    return pick(table, subset="solved" if solved else "all")


def change_section(table: pd.DataFrame, scans: pd.DataFrame, change: Change) -> Section:
    """All about one change: a table of places, a map of layers and places, dose-response, all controls.

    Args:
        table: Result rows of the change (`label` is its name).
        scans: Rows that sites and doses were chosen from, of all changes.
    """
    table = table[table["metric"].notna() & table["intervention"].notna()]
    tried = pick(scans, label=change.name) if len(scans) else scans
    if table.empty or tried.empty:
        return Section(f"{change.name}: {change.words}", ["Nothing was written: the study has no cases of it."])
    metric = judged_by(change)
    rows, chosen = counted(table, metric), chosen_at(scans, change)
    n, of = _count(rows, metric), _count(pick(table, subset="all"), metric)
    kept = (f"Counted are the {n:,} of {of:,} cases in which the unedited answer is right."
            if (rows["subset"] == "solved").any() else
            f"In none of these {of:,} cases is the unedited answer right; all are counted." if metric == FLIPS else
            f"The first choice of the model does not tell, so all {of:,} cases are judged by the {NAMES[metric]}.")
    text = [f"{change.words.capitalize()}. Layers and doses were chosen on one half of {change.n:,} cases and are "
            f"reported on the other. {kept}", _finding(rows, chosen, metric)]
    return Section(f"{change.name}: {change.words}", text, list(_exhibits(rows, tried, chosen, change)),
                   [_places(rows, chosen, change),
                    *(_controls(table, place, c, change) for place, c in chosen.items())],
                   [part for part in [mediator_part(rows, table, change)] if part])


def change_verdicts(table: pd.DataFrame, scans: pd.DataFrame, change: Change) -> list[Verdict]:
    """Is used (a span of directions set to its mean), is enough (written), where writing did most on the cases set
    aside; those that were not tested are left out.

    Args:
        table, scans: As in `change_section`.
    """
    if not (found := chosen_at(scans, change)):
        return []
    place, tried = min(found, key=lambda p: found[p]["rank"]), pick(scans, label=change.name)
    rows = pick(table, label=change.name, positions=place)
    writes = pd.concat([pick(rows, intervention=list(tried["intervention"].dropna().unique())),
                        pick(tried, positions=place)], ignore_index=True)
    gone = pick(rows, intervention="ablate")
    gone = gone[~gone["probe"].str.startswith("das").fillna(False).astype(bool)]
    metric = "set_error" if judged_by(change) == FLIPS else change.by
    asked = (used(gone), enough(writes)) if metric == "set_error" else (enough(writes, metric),)
    return [verdict for verdict in asked if verdict.state != "not tested"]


def change_numbers(table: pd.DataFrame, scans: pd.DataFrame, change: Change) -> list[dict]:
    """The numbers to read first: the edit that did most on the cases set aside, random directions of equal norm, and
    where the prompt tells of the change."""
    if not (found := chosen_at(scans, change)):
        return []
    place = min(found, key=lambda p: found[p]["rank"])
    metric = judged_by(change)
    row, here = _own(counted(pick(table, label=change.name), metric), found[place], place, metric)
    lines = [row.to_dict() | {"what": f"{change.name}: {NAMES[metric]}, {row['intervention']} {row['probe']} at "
                                      f"{place}, {site_name(row)}, dose {row['alpha']:g}"}]
    for control, words in (("random_direction", "random directions of equal norm"), ("told", CONTROLS["told"])):
        rivals = pick(here, control=control)
        rivals = rivals[rivals["alpha"].isna() | (rivals["alpha"] == row["alpha"])]
        lines += [r | {"what": f"{change.name}: {words}"} for r in rivals.head(1).to_dict("records")]
    return lines


def chosen_at(scans: pd.DataFrame, change: Change) -> dict[str, pd.Series]:
    """Place -> the edit that did most on the cases set aside."""
    tried = pick(scans, label=change.name) if len(scans) else scans
    places = dict.fromkeys(tried["positions"]) if len(tried) else ()
    return {place: best(pick(tried, positions=place), change.by) for place in places}


def mediator_part(rows: pd.DataFrame, table: pd.DataFrame, change: Change) -> Section | None:
    """The spans of the directions beside the learned subspace; None where none was learned.

    Args:
        rows: Of the cases that are counted; `table`: of all.
    """
    metric = judged_by(change)
    inside = pick(rows, intervention="interchange", metric=metric)
    if inside.empty:
        return None
    shown, angles = [], pick(table, intervention="compare", metric="principal_angle")
    names = [name for name in dict.fromkeys(inside["probe"]) if not name.endswith(", complement")]
    for name in names:
        angle, gone = pick(angles, probe=name), pick(table, intervention="ablate", probe=name, metric="set_error",
                                                     subset="all")
        shown.append({"subspace": name, "angle to the learned one": _one(pick(angle, control=None)),
                      "random subspaces (5–95 %)": _one(pick(angle, control="random_direction")),
                      "patched inside": _one(pick(inside, probe=name, control=None)),
                      "patched outside": _one(pick(inside, probe=f"{name}, complement", control=None)),
                      "set to its mean: error": _one(pick(gone, control=None)),
                      "equal norm, at random (5–95 %)": _one(pick(gone, control="random_direction"))})
    first = inside.iloc[0]
    about = (f"At {first['positions']}, {site_name(first)}: the subspace through which the activations of the prompt "
             "that tells of the change bring about its answers was learned (DAS), and is held against the span of what "
             "each kind of direction writes. Spans that carry the change flip answers when patched inside, and none "
             "when all but them is patched.")
    return Section("Do the probes write what the model uses", about, (), [Table(
        "Learned and written subspaces", pd.DataFrame(shown),
        "Angles in degrees, the mean over axes and tokens; in brackets the range over refits on 80 % of the cases. "
        f"Patched: {NAMES[metric]}, n = {_count(rows, metric):,}; in brackets: 95 % interval, percentile bootstrap "
        f"over {change.groups}.", pd.concat([angles, inside]))])


def best(scans: pd.DataFrame, by: str = "set_error") -> pd.Series:
    """The edit that did most on the cases set aside, as `by` counts it; of equals that of the highest log-odds of the
    new answers, then the smallest dose. Its `rank` is all three."""
    rows = scans[scans["control"].isna()]
    key = ["intervention", "probe", "unit", "stream", "layer", "alpha"]
    wide = rows.pivot(index=key, columns="metric", values="value").reset_index()
    odds = -wide["log_odds"] if "log_odds" in wide else 0.0  # there are none where no answer changes
    score = wide[by] if lower_is_better(by) else -wide[by]
    order = wide.assign(score=score, odds=odds, size=wide["alpha"].abs()).sort_values(["score", "odds", "size"])
    one = order.iloc[0].copy()
    one["rank"] = (one["score"], one["odds"], one["size"])
    return one


def _finding(rows: pd.DataFrame, chosen: dict[str, pd.Series], metric: str) -> str:
    """Where writing works, in a sentence."""
    said = []
    for place, c in chosen.items():
        own, here = _own(rows, c, place, metric)
        told, idle = pick(here, control="told"), pick(here, control="null")
        least = f", {told['value'].iloc[0]:.2f} where the prompt tells of it" if len(told) else ""
        works = beyond(own, here)
        verdict = "flips" if works else "does not flip more than random directions do:"
        moved = "raises" if works else "does not move more than random directions do"
        what = (f"{verdict} {own['value']:.2f} of the answers" if metric == FLIPS else
                f"{moved} the {NAMES[metric]}{' from' if works else ':'} {_value(idle)} to {own['value']:.2f}")
        said.append(f"at {place} it {what} ({c['intervention']} {c['probe']}, {site_name(own)}){least}")
    return "Written " + "; ".join(said) + "."


def _value(rows: pd.DataFrame) -> str:
    return f"{rows['value'].iloc[0]:.2f}" if len(rows) else "nothing"


def _own(rows: pd.DataFrame, c: pd.Series, place: str, metric: str) -> tuple[pd.Series, pd.DataFrame]:
    """(the row of an edit, all rows of its site and way)."""
    here = same_site(pick(rows, positions=place, intervention=c["intervention"], probe=c["probe"], metric=metric), c)
    return pick(here, control=None, alpha=c["alpha"]).iloc[0], here


def _exhibits(rows: pd.DataFrame, tried: pd.DataFrame, chosen: dict[str, pd.Series], change: Change
              ) -> Iterator[Exhibit]:
    groups, metric = change.groups, judged_by(change)
    whiskers = INTERVAL.format(where="Whiskers", groups=groups)
    n = f"n = {_count(rows, metric):,} cases in {_count(rows, metric, 'n_groups'):,} {groups}."
    yield Exhibit(
        "Layers and places", place_map(rows, chosen, metric, NAMES[metric].replace(" (", "\n(")),
        f"{NAMES[metric].capitalize()}. Left: written along the direction that did best at each place on "
        "the cases set aside, at each layer with the dose that did best there. Right: the whole activation of the "
        "prompt that tells of the change. Hatched: the interval reaches into the band of random directions. "
        f"{n} The intervals are in the data: 95 %, percentile bootstrap over {groups}.")
    for verb in dict.fromkeys(tried["intervention"].dropna()):
        of_verb = pick(tried, intervention=verb)
        ways = of_verb[of_verb["control"].isna()][["positions", "probe"]].drop_duplicates()
        mine = {(p, d): best(pick(of_verb, positions=p, probe=d), change.by) for p, d in ways.itertuples(index=False)}
        for few in thirds(list(dict.fromkeys(p for p, _ in mine))):
            shown = {key: c for key, c in mine.items() if key[0] in few}
            yield Exhibit(
                f"{verb}: dose and response" + ("" if few[0] == next(iter(mine))[0] else f", {few[0]}"),
                dose_panels(rows, shown, verb, metric, NAMES[metric]),
                "A panel per place, every direction at the layer and dose chosen for it, the best one at every dose. "
                "Dashed: the prompt tells of the change; dotted: the whole activation patched. "
                f"{n} {whiskers} {BAND.format(n=_draws(rows, metric))}")


def _places(rows: pd.DataFrame, chosen: dict[str, pd.Series], change: Change) -> Table:
    """One line per place: the best way to write there, its band, the patch and the ceiling."""
    shown, data, metric = [], [], judged_by(change)
    for place, c in chosen.items():
        own, here = _own(rows, c, place, metric)
        line = {"place": place, "edit": c["intervention"], "direction": c["probe"], "where": site_name(own),
                "dose": c["alpha"], SHOWN[metric]: cell(own)}
        for control in ("random_direction", "full_patch", "told"):
            found = pick(here, control=control)
            found = found[found["alpha"].isna() | (found["alpha"] == c["alpha"])]
            if len(found):
                line[CONTROLS[control]] = cell(found.iloc[0])
        share, _ = _maybe(rows, c, place, f"{metric}_recovery")
        line |= {} if share is None else {"share of the ceiling": cell(share)}
        odds, _ = _maybe(rows, c, place, "log_odds_recovery") if metric != "log_odds" else (None, here)
        line |= {} if odds is None else {"of its log-odds": cell(odds)}
        shown.append(line)
        data.append(here)
    return Table("Places", pd.DataFrame(shown),
                 f"{NAMES[metric].capitalize()}, in {_count(rows, metric):,} cases. In brackets: 95 % interval, "
                 f"percentile bootstrap over {change.groups}; of random directions the 5th to 95th percentile of "
                 f"{_draws(rows, metric)} draws. The patch is at the same layer and tokens.", pd.concat(data))


def _controls(table: pd.DataFrame, place: str, c: pd.Series, change: Change) -> Table:
    """The chosen edit of a place beside all its controls, in every metric."""
    rows = same_site(pick(table, positions=place, intervention=c["intervention"], probe=c["probe"],
                          metric=list(SHOWN)), c)
    rows = rows[rows["alpha"].isna() | (rows["alpha"] == c["alpha"])]
    metric = judged_by(change)
    rows = counted(rows, metric)
    arms = list(dict.fromkeys(rows["control"].fillna("")))
    shown = []
    for arm in sorted(arms, key=lambda a: a != ""):
        here = pick(rows, control=arm or None)
        cells = {name: _one(pick(here, metric=metric)) for metric, name in SHOWN.items()}
        name = CONTROLS.get(arm, control_name(arm)) if arm else f"{c['intervention']} {c['probe']}"
        shown.append({"arm": name, **cells})
    return Table(f"Controls at {place}", pd.DataFrame(shown),
                 f"{c['intervention']} along {c['probe']} at {site_name(rows.iloc[0])}, dose {c['alpha']:g}, "
                 f"{_count(rows, metric):,} cases. In brackets: 95 % interval, percentile bootstrap over "
                 f"{change.groups}; of random directions the 5th to 95th percentile of the draws.", rows)


def _maybe(rows: pd.DataFrame, c: pd.Series, place: str, metric: str) -> tuple[pd.Series | None, pd.DataFrame]:
    here = pick(rows, positions=place, metric=metric)
    return _own(rows, c, place, metric) if len(here) else (None, here)


def _one(rows: pd.DataFrame) -> str:
    if rows.empty:
        return "–"
    row = rows.iloc[0]
    return cell(row) if pd.notna(row["ci_low"]) else with_interval(row["value"], row["value"], row["value"])


def _count(rows: pd.DataFrame, metric: str, column: str = "n") -> int:
    values: Sequence = pick(rows, metric=metric, control="null")[column].dropna()
    return int(max(values, default=0))


def _draws(rows: pd.DataFrame, metric: str) -> int:
    return int(pick(rows, control="random_direction", metric=metric)["n"].max())
