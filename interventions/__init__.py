"""The causal effect of a direction: edits of activations, runs under edits, effects with their controls."""

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
from ._tcav import tcav
from ._transplant import future_lens, transplant
from ._windows import Dose, best_dose, position_map, window_map, windows

__all__ = [
    "AlterRep",
    "At",
    "DAS",
    "DOSES",
    "Dose",
    "Edit",
    "Eraser",
    "GradientEdit",
    "INLP",
    "ITI",
    "InterchangePairs",
    "LEACE",
    "LastToken",
    "OracleLEACE",
    "PatchRun",
    "QuadraticLEACE",
    "RLACE",
    "Receiver",
    "Reference",
    "SPLINCE",
    "Scrubbing",
    "Sequences",
    "Spot",
    "activation_patching",
    "amnesic",
    "answer_difference",
    "applied_change",
    "attribution_patching",
    "best_dose",
    "block_sites",
    "causal_tracing",
    "circular_edit",
    "clamp",
    "components",
    "compose",
    "confirm",
    "control_mapping",
    "das_effect",
    "donors",
    "dose_grid",
    "effect",
    "fit_das",
    "fit_iti",
    "function_vector",
    "function_vector_effect",
    "future_lens",
    "head_sites",
    "hook",
    "in_context",
    "indirect_effects",
    "interchange_pairs",
    "iti_effect",
    "joint_effect",
    "joint_scan",
    "kl",
    "knock_out",
    "knockout_effect",
    "log_odds",
    "log_odds_ratio",
    "logit_difference",
    "magnitude_edit",
    "mean_outputs",
    "move_to",
    "odds_selectivity",
    "orthogonalise",
    "orthogonalised",
    "patch_from",
    "path_patching",
    "percentiles",
    "position_map",
    "position_means",
    "probability_mass",
    "project_out",
    "random_in",
    "random_like",
    "rank_correlation",
    "readout_mediator",
    "reflect",
    "reliability",
    "reread",
    "saliency",
    "scrub",
    "set_error",
    "side_effects",
    "steer",
    "steer_along",
    "tcav",
    "top1_right",
    "top_heads",
    "transplant",
    "unit_vectors",
    "validators",
    "verdict",
    "window_map",
    "windows",
    "writes",
]
