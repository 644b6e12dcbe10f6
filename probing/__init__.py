"""From activations to probes: sites, extraction, fitted probes with their controls, result rows.

    model = probing.load_model("othello")            # or a Hub id, a local directory, an old TransformerLens file
    acts = probing.extract(model, prompts)           # every layer, and the random-init control; resumes
    table = probing.sweep(acts, prompts)             # every probe with its controls
    probe = probing.best(table)                      # chosen on validation
"""

import importlib

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
