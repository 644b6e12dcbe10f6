"""`worldprobe reproduce formation`: the smallest experiment of every result on how representations form.

Each is run on every seed, is a stage of the run folder, and is held against figures measured elsewhere, see
`worldprobe._formation_checks`. What is asked of a model of yours: `worldprobe formation MODEL`.
"""

import functools
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from tasks._files import write_whole

from . import _formation_alignment as alignment
from . import _formation_architectures as architectures
from . import _formation_decay as decay
from . import _formation_known as known
from . import _formation_two_point as two_point
from . import _formation_variance as variance
from ._report import write_report
from ._run import Run, open_run

SEEDS = 3
QUICK_STEPS = (0, 32, 125, 500, 2000)  # of the alignment experiment; what was measured later is left out


def reproduce(out: str | Path, *, seed: int = 0, quick: bool = False, log: Callable[[str], None] = print) -> Path:
    """Runs all experiments on three seeds, writes `checks.json` and `report.html`, returns the path of the former.

    Args:
        seed: The first of them.
        quick: The alignment experiment stops after 2,000 of its 12,000 steps, and no network is 500 wide.
    """
    seeds = range(SEEDS * seed, SEEDS * seed + SEEDS)
    folder = open_run(out, {"experiments": "formation", "seed": seed, "quick": quick}, log=log)
    steps = QUICK_STEPS if quick else alignment.STEPS
    numbers = folder.stage("known", lambda: known.measure(seeds))
    shares = folder.stage("variance", lambda: variance.measure(seeds))
    pair = _tables(folder, "two-point", ("records", "fits"), lambda: two_point.measure(seeds))
    kinds = folder.stage("architectures", lambda: architectures.measure(seeds, _kinds(quick)))
    aligned = _tables(folder, "alignment", ("alignments", "powers"), lambda: alignment.measure(seeds, steps))
    found = [*known.checks(numbers), *variance.checks(shares), *two_point.checks(pair),
             *architectures.checks(kinds), *alignment.checks(aligned, alignment.identities(seeds)),
             *decay.checks(aligned)]
    checks = [{"id": i, **check} for i, check in enumerate(found, 1)]
    path = folder.path / "checks.json"
    write_whole(path, (json.dumps(checks, indent=1) + "\n").encode())
    about = folder.environment()
    write_report(
        folder.path / "report.html", title="How representations form: the smallest experiments",
        summary=[f"Every experiment on {SEEDS} seeds; a figure measured elsewhere agrees where one more seed of ours "
                 "could give it. Step 0 and a null stand beside every number that is not 0 without training."],
        checks=checks, sections=[alignment.section(aligned), decay.section(aligned), two_point.section(pair),
                                 architectures.section(kinds), variance.section(shares), known.section(numbers)],
        run={"command": shlex.join(about.pop("command")), "configuration": dict(folder.config), **about})
    return path


def _kinds(quick: bool) -> tuple[architectures.Architecture, ...]:
    """The network of the paper is the widest, and takes half of the time."""
    return architectures.ARCHITECTURES[1:] if quick else architectures.ARCHITECTURES


def _tables(folder: Run, name: str, keys: Sequence[str], make: Callable[[], Mapping[str, pd.DataFrame]]
            ) -> dict[str, pd.DataFrame]:
    """The tables of an experiment that is run at most once, a stage each."""
    made = functools.cache(make)
    return {key: folder.stage(f"{name}-{key}", functools.partial(lambda k: made()[k], key)) for key in keys}


def plan(*, seed: int = 0, quick: bool = False) -> str:
    """What `reproduce` would do."""
    steps = max(QUICK_STEPS if quick else alignment.STEPS)
    nets = SEEDS * len(alignment.DECAYS)
    return "\n".join([f"seeds {SEEDS * seed} to {SEEDS * seed + SEEDS - 1}",
                      f"alignment: {nets} nets, {steps:,} steps side by side",
                      f"two points: {SEEDS * len(two_point.RATES)} nets until they are learnt, and their fits",
                      f"architectures: {SEEDS * len(_kinds(quick))} nets of {architectures.DEPTH} layers, their fits",
                      f"variance and use: {SEEDS} nets, {variance.STEPS:,} steps",
                      "known numbers: similarity of independent rows, dimension of cubes",
                      "memory: about 1 GB", f"time: roughly {3 if quick else 8} minutes on one core"])
