"""From activations to probes: sites, extraction, fitted probes with their controls, result rows.

    model = probing.load_model("othello")            # or a Hub id, a local directory, an old TransformerLens file
    acts = probing.extract(model, prompts)           # every layer, and the random-init control; resumes
    table = probing.sweep(acts, prompts)             # every probe with its controls
    probe = probing.best(table)                      # chosen on validation
"""

# ruff: noqa: F401  (__all__ is made of _NAMES)

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # for editors and type checkers, which do not see through __getattr__
    from ._activations import Activations
    from ._attention import AttentionProbe, pool
    from ._calibration import calibration, expected_calibration_error, fit_platt, fit_temperature
    from ._categorical import (
        category_hierarchy,
        category_separation,
        category_simplex,
        category_vector,
        category_vectors,
    )
    from ._causal_inner_product import (
        CausalInnerProduct,
        causal_inner_product,
        concept_cosines,
        concept_direction,
        project_pairs,
        unembedding,
    )
    from ._cav import CAVProbe, coherence
    from ._ccs import CCSProbe, ccs_loss
    from ._circular import CircularProbe, circular_controls, circular_error, on_circle
    from ._compare import compare_subspaces, random_angles, row_space
    from ._components import principal_components, whitener
    from ._control_tasks import control_ceiling, control_labels, selectivity
    from ._design import Design
    from ._encoding import EncodingProbe, class_means, encoding_patterns
    from ._extract import extract
    from ._guards import check_fits
    from ._identity import identify
    from ._input_only import input_features, input_types
    from ._intrinsic import GaussianProbe
    from ._irreducibility import mixture_index, separability_index
    from ._lat import LATProbe
    from ._latent_intrinsic import LatentIntrinsicProbe
    from ._lda import LDAProbe
    from ._learning_curve import learning_curve
    from ._logistic import LogisticProbe, fit_logistic
    from ._low_rank import LowRankProbe, rank_for
    from ._mass_mean import MassMeanProbe
    from ._mdl import online_code, online_code_lengths
    from ._mlp import MLPProbe
    from ._mlp_regressor import MLPRegressorProbe
    from ._models import load_model, random_init
    from ._moments import Moments
    from ._numerics import check_numerics
    from ._onion import OnionProbe
    from ._rankings import rank_neurons
    from ._reading import read_batches
    from ._result_files import read_results, write_results
    from ._results import results_frame, validate
    from ._ridge import RidgeProbe
    from ._scatter import Scatter
    from ._significance import benjamini_hochberg, holm, paired_difference, permutation_p
    from ._sites import Site, residual_sites
    from ._sparse import KSparseProbe, monosemantic, sparse_sweep
    from ._statistics import bootstrap_mean, bootstrap_ratio
    from ._store_files import StoreError
    from ._stream import StreamedMoments, stream
    from ._structural import StructuralProbe, node_pairs
    from ._subspaces import Subspace
    from ._summary import summary
    from ._sweep import Sweep, best, correct_p_values, sweep
    from ._ttpd import TTPDProbe
    from ._v_information import pointwise_v_information, v_information

_NAMES = {  # module -> what it offers; loaded when first used: `import probing` and --help do not wait for torch
    "_activations": "Activations",
    "_attention": "AttentionProbe pool",
    "_calibration": "calibration expected_calibration_error fit_platt fit_temperature",
    "_categorical": "category_hierarchy category_separation category_simplex category_vector category_vectors",
    "_causal_inner_product": "CausalInnerProduct causal_inner_product concept_cosines concept_direction project_pairs "
                             "unembedding",
    "_cav": "CAVProbe coherence",
    "_ccs": "CCSProbe ccs_loss",
    "_circular": "CircularProbe circular_controls circular_error on_circle",
    "_compare": "compare_subspaces random_angles row_space",
    "_components": "principal_components whitener",
    "_control_tasks": "control_ceiling control_labels selectivity",
    "_design": "Design",
    "_encoding": "EncodingProbe class_means encoding_patterns",
    "_extract": "extract",
    "_guards": "check_fits",
    "_identity": "identify",
    "_input_only": "input_features input_types",
    "_intrinsic": "GaussianProbe",
    "_irreducibility": "mixture_index separability_index",
    "_lat": "LATProbe",
    "_latent_intrinsic": "LatentIntrinsicProbe",
    "_lda": "LDAProbe",
    "_learning_curve": "learning_curve",
    "_logistic": "LogisticProbe fit_logistic",
    "_low_rank": "LowRankProbe rank_for",
    "_mass_mean": "MassMeanProbe",
    "_mdl": "online_code online_code_lengths",
    "_mlp": "MLPProbe",
    "_mlp_regressor": "MLPRegressorProbe",
    "_models": "load_model random_init",
    "_moments": "Moments",
    "_numerics": "check_numerics",
    "_onion": "OnionProbe",
    "_rankings": "rank_neurons",
    "_reading": "read_batches",
    "_result_files": "read_results write_results",
    "_results": "results_frame validate",
    "_ridge": "RidgeProbe",
    "_scatter": "Scatter",
    "_significance": "benjamini_hochberg holm paired_difference permutation_p",
    "_sites": "Site residual_sites",
    "_sparse": "KSparseProbe monosemantic sparse_sweep",
    "_statistics": "bootstrap_mean bootstrap_ratio",
    "_store_files": "StoreError",
    "_stream": "StreamedMoments stream",
    "_structural": "StructuralProbe node_pairs",
    "_subspaces": "Subspace",
    "_summary": "summary",
    "_sweep": "Sweep best correct_p_values sweep",
    "_ttpd": "TTPDProbe",
    "_v_information": "pointwise_v_information v_information",
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
