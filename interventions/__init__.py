"""The causal effect of a direction: edits of activations, runs under edits, effects with their controls.

    effects = interventions.effect(model, prompts, probe.write)    # dose-response, random bands, controls, side effects
    table = interventions.activation_patching(model, pairs)        # where an answer is carried
    eraser = interventions.LEACE.fit(X, y)                         # no linear probe reads y from what it leaves

Importing this package loads neither torch nor transformer_lens.
"""

# ruff: noqa: F401  (__all__ is made of _NAMES)

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers, which do not see through __getattr__
    from ._alterrep import AlterRep
    from ._amnesic import amnesic
    from ._attribution import attribution_patching, confirm, rank_correlation
    from ._causal_tracing import causal_tracing
    from ._controls import components, random_in, random_like
    from ._das import DAS, das_effect, fit_das
    from ._doses import DOSES, Reference, dose_grid, unit_vectors
    from ._edits import Edit, compose, hook, move_to, patch_from, project_out, reflect, steer
    from ._effect import effect
    from ._erasers import Eraser
    from ._function_vectors import (
        function_vector,
        function_vector_effect,
        in_context,
        indirect_effects,
        mean_outputs,
        top_heads,
    )
    from ._inlp import INLP
    from ._interchange import InterchangePairs, interchange_pairs
    from ._iti import ITI, fit_iti, iti_effect
    from ._joint import Spot, joint_effect, joint_scan
    from ._knockout import clamp, donors, knock_out, percentiles, position_means
    from ._knockout_effect import knockout_effect
    from ._last_token import LastToken
    from ._leace import LEACE, OracleLEACE
    from ._mediator import readout_mediator
    from ._mediator_words import verdict
    from ._metrics import kl, log_odds, log_odds_ratio, logit_difference, probability_mass, set_error, top1_right
    from ._nonlinear_edits import GradientEdit, circular_edit, magnitude_edit
    from ._odds import control_mapping, odds_selectivity
    from ._orthogonalise import orthogonalise, orthogonalised, writes
    from ._patch_run import PatchRun, answer_difference
    from ._patching import activation_patching, block_sites, head_sites
    from ._path_patching import Receiver, path_patching
    from ._places import At
    from ._quadratic_leace import QuadraticLEACE
    from ._reliability import reliability, validators
    from ._rlace import RLACE
    from ._runs import applied_change
    from ._saliency import saliency
    from ._scrubbing import Scrubbing, scrub
    from ._sequences import Sequences
    from ._side_effects import side_effects
    from ._specificity import reread
    from ._splince import SPLINCE
    from ._steer_along import steer_along
    from ._summary import main_metric, summary
    from ._task_cases import prompt_cases
    from ._tcav import tcav
    from ._transplant import future_lens, transplant
    from ._windows import Dose, best_dose, position_map, window_map, windows

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
