"""How to cite worldprobe, and the papers whose methods a run used."""

from pathlib import Path

import pandas as pd

from . import __version__

BIBTEX = f"""@software{{worldprobe,
  title = {{worldprobe: linear probing and causal intervention in transformers}},
  author = {{{{worldprobe contributors}}}},
  version = {{{__version__}}},
  year = {{2026}},
  license = {{MIT}},
}}"""
PAPERS = {  # what a table calls a task, a probe, a direction or an edit -> whose it is, as its docstring says
    "othello": "Li et al., arXiv:2210.13382; Nanda et al., arXiv:2309.00941",
    "maze": "Ivanitskiy et al., arXiv:2312.02566; Spies et al., arXiv:2412.11867",
    "space_time": "Gurnee & Tegmark, arXiv:2310.02207",
    "truthfulness": "Marks & Tegmark, arXiv:2310.06824; Ravfogel et al., arXiv:2510.15804",
    "decoy": "Geiger et al., arXiv:2112.00826",
    "mass_mean": "Marks & Tegmark, arXiv:2310.06824", "ccs": "Burns et al., arXiv:2212.03827",
    "lat": "Zou et al., arXiv:2310.01405", "mlp": "Li et al., arXiv:2210.13382",
    "cav": "Kim et al., arXiv:1711.11279", "das": "Geiger et al., arXiv:2303.02536",
    "leace": "Belrose et al., arXiv:2306.03819", "inlp": "Ravfogel et al., arXiv:2004.07667",
    "rlace": "Ravfogel et al., arXiv:2201.12091", "splince": "Holstege et al., arXiv:2506.10703",
    "gradient": "Li et al., arXiv:2210.13382", "iti": "Li et al., arXiv:2306.03341",
}


def citation(run: str | Path | None = None) -> str:
    """BibTeX of worldprobe and, of a run, a line for every paper whose task, probes and edits it used."""
    return BIBTEX if run is None else cited(_table(run))


def cited(table: pd.DataFrame) -> str:
    """The same for a results table."""
    return "\n".join([BIBTEX, "", *papers_of(table)])


def papers_of(table: pd.DataFrame) -> list[str]:
    """`NAME: AUTHORS, arXiv:NUMBER` for every name in the table that has a paper."""
    names = [str(name) for column in ("task", "probe", "intervention") for name in table[column].dropna().unique()]
    found = dict.fromkeys(key for name in names for key in PAPERS if _base(name) == key)
    return [f"{key}: {PAPERS[key]}" for key in found]


def _base(name: str) -> str:
    for end in (".", ",", "-", ":", "/"):  # mass_mean.write, das, rank 1, maze-3x3
        name = name.partition(end)[0]
    return name


def _table(run: str | Path) -> pd.DataFrame:
    from ._export import read_run

    return read_run(run)[0]
