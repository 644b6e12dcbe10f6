"""The causal effect of a direction: edits of activations, runs under edits, effects with their controls.

    effects = interventions.effect(model, prompts, probe.write)    # dose-response, random bands, controls, side effects
    table = interventions.activation_patching(model, pairs)        # where an answer is carried
    eraser = interventions.LEACE.fit(X, y)                         # no linear probe reads y from what it leaves

Importing this package loads neither torch nor transformer_lens.
"""

import importlib

_NAMES = {  # module -> what it offers; loaded when first used: `import interventions` and --help do not wait for torch
    "_alterrep": "AlterRep",
    "_amnesic": "amnesic",
    "_attribution": "attribution_patching confirm rank_correlation",
    "_causal_tracing": "causal_tracing",
    "_controls": "components random_in random_like",
    "_das": "DAS das_effect fit_das",
    "_doses": "DOSES Reference dose_grid unit_vectors",
    "_edits": "Edit compose hook move_to patch_from project_out reflect steer",
    "_effect": "effect",
    "_erasers": "Eraser",
    "_function_vectors": "function_vector function_vector_effect in_context indirect_effects mean_outputs top_heads",
    "_inlp": "INLP",
    "_interchange": "InterchangePairs interchange_pairs",
    "_iti": "ITI fit_iti iti_effect",
    "_joint": "Spot joint_effect joint_scan",
    "_knockout": "clamp donors knock_out percentiles position_means",
    "_knockout_effect": "knockout_effect",
    "_last_token": "LastToken",
    "_leace": "LEACE OracleLEACE",
    "_mediator": "readout_mediator",
    "_mediator_words": "verdict",
    "_metrics": "kl log_odds log_odds_ratio logit_difference probability_mass set_error top1_right",
    "_nonlinear_edits": "GradientEdit circular_edit magnitude_edit",
    "_odds": "control_mapping odds_selectivity",
    "_orthogonalise": "orthogonalise orthogonalised writes",
    "_patch_run": "PatchRun answer_difference",
    "_patching": "activation_patching block_sites head_sites",
    "_path_patching": "Receiver path_patching",
    "_places": "At",
    "_quadratic_leace": "QuadraticLEACE",
    "_reliability": "reliability validators",
    "_rlace": "RLACE",
    "_runs": "applied_change",
    "_saliency": "saliency",
    "_scrubbing": "Scrubbing scrub",
    "_sequences": "Sequences",
    "_side_effects": "side_effects",
    "_specificity": "reread",
    "_splince": "SPLINCE",
    "_steer_along": "steer_along",
    "_summary": "main_metric summary",
    "_task_cases": "prompt_cases",
    "_tcav": "tcav",
    "_transplant": "future_lens transplant",
    "_windows": "Dose best_dose position_map window_map windows",
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
