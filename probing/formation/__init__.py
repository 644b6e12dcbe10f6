"""How representations form over training, what they align with, and whether models share them.

    curve = Curve.of_groups("board", steps, hits, cells)       # (checkpoint, group) sums of a score
    transitions([curve, other])                                # steps of their transitions, with intervals
    coincidence(curve, other)                                  # the lag between them, in decades of training
    alignments(layer_moments(model, loss, batches))            # states, gradients and weights of every linear layer
    compare_layers(acts_of_one, acts_of_other)                 # the best pair of layers, beside that of permuted rows
"""

from ._alignment import alignment_gains, alignments, alpha, power_laws
from ._coincidence import coincidence, coincidences
from ._collapse import class_distance_variance, neural_collapse
from ._curve import Curve, log_steps
from ._dimension import gride, neighbour_distances, participation_ratio, two_nn, two_nn_by_scale
from ._layer_pairs import compare_layers
from ._linear_layers import LayerMoments, layer_moments
from ._neighbours import nearest
from ._similarity import cka, cknna, cycle_knn, debiased_cka, mutual_knn, prepare, procrustes, rsa, svcca
from ._transition import transition, transitions

__all__ = ["Curve", "LayerMoments", "alignment_gains", "alignments", "alpha", "cka", "cknna",
           "class_distance_variance", "coincidence", "coincidences", "compare_layers", "cycle_knn", "debiased_cka",
           "gride", "layer_moments", "log_steps", "mutual_knn", "nearest", "neighbour_distances", "neural_collapse",
           "participation_ratio", "power_laws", "prepare", "procrustes", "rsa", "svcca", "transition", "transitions",
           "two_nn", "two_nn_by_scale"]
