"""How representations form over training, what they align with, and whether models share them.

    curve = Curve.of_groups("board", steps, hits, cells)       # (checkpoint, group) sums of a score
    transitions([curve, other])                                # steps of their transitions, with intervals
    coincidence(curve, other)                                  # the lag between them, in decades of training
    record("forms", step, model, scores); recorded("forms")    # curves of your own training loop
    follow("forms", {0: "ckpt/0", 8: ("org/model", "step8")}, scores)   # or of checkpoints and Hub revisions
    alignments(layer_moments(model, loss, batches))            # states, gradients and weights of every linear layer
    compare_layers(acts_of_one, acts_of_other)                 # the best pair of layers, beside that of permuted rows
    stitch(acts_of_one, acts_of_other, labels, anchors, train)  # a probe of one model read from the other as it is
    fit_two_point(steps, recorded, dx2, dy2)                   # effective rates of a layer that learns two inputs
    traced(states, graph)                                      # do states lie as a graph of the prompt does?
    sparse_partners(A, B)                                      # the few units of B that say what one of A says
    variance_explained(acts, features)                         # which is not what the model uses
"""

from ._alignment import alignment_gains, alignments, alpha, power_laws
from ._coincidence import coincidence, coincidences, order
from ._collapse import class_distance_variance, neural_collapse
from ._curve import Curve, log_steps
from ._depth import concept_depth
from ._dimension import gride, neighbour_distances, participation_ratio, two_nn, two_nn_by_scale
from ._explained import variance_explained, without_feature
from ._layer_pairs import compare_layers
from ._linear_layers import LayerMoments, layer_moments
from ._neighbours import nearest
from ._record import follow, record, recorded
from ._regime import kernel_regime, regime, stable_rank
from ._relative import relative, stitch
from ._scores import alignment_score, probe_score
from ._similarity import cka, cknna, cycle_knn, debiased_cka, mutual_knn, prepare, procrustes, rsa, svcca
from ._sparse_partners import sparse_partners
from ._traced import dirichlet_energy, graph_modes, map_directions, traced
from ._transition import transition, transitions
from ._two_point import TwoPointFit, conserved, end_distance, fit_two_point, rich_limit, two_point, two_point_loss
from ._unit_clusters import unit_clusters
from ._units import match_units, unit_correlations
from ._universal import universal_neurons

__all__ = ["Curve", "LayerMoments", "TwoPointFit", "alignment_gains", "alignment_score", "alignments", "alpha", "cka",
           "cknna", "class_distance_variance", "coincidence", "coincidences", "compare_layers", "concept_depth",
           "conserved", "cycle_knn", "debiased_cka", "dirichlet_energy", "end_distance", "fit_two_point", "follow",
           "graph_modes", "gride", "kernel_regime", "layer_moments", "log_steps", "map_directions", "match_units",
           "mutual_knn", "nearest", "neighbour_distances", "neural_collapse", "order", "participation_ratio",
           "power_laws", "prepare", "probe_score", "procrustes", "record", "recorded", "regime", "relative",
           "rich_limit", "rsa", "sparse_partners", "stable_rank", "stitch", "svcca", "traced", "transition",
           "transitions", "two_nn", "two_nn_by_scale", "two_point", "two_point_loss", "unit_clusters",
           "unit_correlations", "universal_neurons", "variance_explained", "without_feature"]
