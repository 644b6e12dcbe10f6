"""The product around tasks, probing and interventions: command line, runs, report, pictures.

    worldprobe.plot(sweep)                                       # what was measured, as a figure
    worldprobe.report(sweep, effects, out="report.html")         # and as a page with verdicts
    worldprobe.accuracy_by_layer(sweep.rows, "mine_theirs")      # other figures of a results table
    worldprobe.dose_response(effects, "flip")
    worldprobe.write_report("report.html", title=..., sections=[...])
"""

import importlib

__version__ = "0.1.0"

_WHERE = {
    "Exhibit": "_report", "Position": "_boards", "Section": "_report", "Table": "_report",
    "absolute_vs_relative": "_plots", "accuracy_by_layer": "_plots", "accuracy_by_position": "_plots",
    "accuracy_by_square": "_boards", "dose_curves": "_effect_plots", "dose_response": "_plots",
    "edit_picture": "_boards", "erased_answers": "_effect_plots", "erasure_by_layer": "_effect_plots",
    "layer_dose_map": "_effect_maps", "pareto": "_effect_plots", "plot": "_show", "position_map": "_effect_maps",
    "position_picture": "_boards", "readout_mediator_plot": "_mediator_plot", "report": "_show",
    "saliency_picture": "_boards", "specificity_by_layer": "_plots", "verdicts": "_verdicts",
    "window_heatmap": "_plots", "write_report": "_report",
}  # loaded when first used: the command line's --help waits for none of them

__all__ = [*_WHERE, "__version__"]


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
