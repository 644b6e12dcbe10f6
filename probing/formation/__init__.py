"""How representations form over training, and whether models share them.

    curve = Curve.of_groups("board", steps, hits, cells)       # (checkpoint, group) sums of a score
    transitions([curve, other])                                # steps of their transitions, with intervals
    coincidence(curve, other)                                  # the lag between them, in decades of training
    compare_layers(acts_of_one, acts_of_other)                 # the best pair of layers, beside that of permuted rows
"""

from ._coincidence import coincidence, coincidences
from ._curve import Curve, log_steps
from ._layer_pairs import compare_layers
from ._neighbours import nearest
from ._similarity import cka, cknna, cycle_knn, debiased_cka, mutual_knn, prepare, procrustes, rsa, svcca
from ._transition import transition, transitions

__all__ = ["Curve", "cka", "cknna", "coincidence", "coincidences", "compare_layers", "cycle_knn", "debiased_cka",
           "log_steps", "mutual_knn", "nearest", "prepare", "procrustes", "rsa", "svcca", "transition", "transitions"]
