"""From activations to probes: sites, extraction, fitted probes with their controls, result rows.

    model = probing.load_model("othello")            # or a Hub id, a local directory, an old TransformerLens file
    acts = probing.extract(model, prompts)           # every layer, and the random-init control; resumes
    table = probing.sweep(acts, prompts)             # every probe with its controls
    probe = probing.best(table)                      # chosen on validation
"""

import importlib

_WHERE = {
    "Activations": "_activations", "LogisticProbe": "_logistic", "MLPProbe": "_mlp", "Site": "_sites",
    "Sweep": "_sweep", "best": "_sweep", "bootstrap_mean": "_statistics", "bootstrap_ratio": "_statistics",
    "check_fits": "_guards", "check_numerics": "_numerics", "class_means": "_encoding",
    "encoding_patterns": "_encoding", "extract": "_extract", "identify": "_identity", "load_model": "_models",
    "random_init": "_models", "read_results": "_result_files", "residual_sites": "_sites",
    "results_frame": "_results", "sweep": "_sweep", "validate": "_results", "write_results": "_result_files",
}  # loaded when first used: `import probing` and the command line's --help do not wait for torch

__all__ = list(_WHERE)


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
