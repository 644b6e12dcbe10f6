"""The causal effect of a direction: edits of activations, runs under edits, effects with their controls."""

from ._edits import Edit, compose, hook, move_to, patch_from, project_out, reflect, steer
from ._last_token import LastToken
from ._metrics import kl, logit_difference, probability_mass, set_error, top1_right

__all__ = [
    "Edit",
    "LastToken",
    "compose",
    "hook",
    "kl",
    "logit_difference",
    "move_to",
    "patch_from",
    "probability_mass",
    "project_out",
    "reflect",
    "set_error",
    "steer",
    "top1_right",
]
