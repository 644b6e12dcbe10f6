"""Board rows as records of Every Eval Ever (evalevalai.com), schema 0.3.0: a record per task and model.

A probe's score and an edit's effect are two results, each with its interval; shortcuts, controls, random bands, layers
and fingerprints go where the schema keeps what it has no field for, as text.
"""

import hashlib
import re
import time
import uuid
from collections.abc import Iterator, Mapping

import pandas as pd

from ._paper_rows import shown_model
from ._rows import metric_name

SCHEMA = "0.3.0"
_SPAN = {"accuracy": (0, 1), "f1": (0, 1), "auroc": (0, 1), "r2": ("-Infinity", 1), "spearman": (-1, 1)}
_METHOD = "percentile bootstrap over groups"


def records(rows: pd.DataFrame, metadata: Mapping, retrieved: float | None = None) -> dict[str, dict]:
    """Path -> record, in the folders that the data store has: data/TASK/DEVELOPER/MODEL/UUID.json.

    Args:
        retrieved: When the records were made, in seconds since 1970; by default now.
    """
    moment, found = str(int(time.time() if retrieved is None else retrieved)), {}
    for (task, model), of in rows.groupby(["task", "model"], sort=False):
        developer, name = model_id(model)
        results = [r for _, row in of.iterrows() for r in _results(row)]
        if not results:
            continue
        record = {
            "schema_version": SCHEMA, "evaluation_id": f"worldprobe-{task}/{developer}/{name}/{moment}",
            "retrieved_timestamp": moment,
            "source_metadata": {
                "source_name": "worldprobe", "source_type": "evaluation_run", "source_organization_name": "unknown",
                "evaluator_relationship": "other", "additional_details": _texts({"command": metadata.get("command")})},
            "eval_library": {"name": "worldprobe", "version": _version(metadata),
                             "additional_details": _texts(_mapping(metadata.get("versions")))},
            "model_info": {"name": shown_model(model), "id": f"{developer}/{name}", "additional_details": {
                "deployment_type": "self_deployed", "model_availability": "unknown",
                **_texts({"revision": _first(of["revision"]), "weights_digest": _first(of["model_hash"])})}},
            "evaluation_results": results,
        }
        file = uuid.UUID(bytes=hashlib.sha256(repr((record, task)).encode()).digest()[:16], version=4)
        found[f"eee/data/{_safe(str(task))}/{_safe(developer)}/{_safe(name)}/{file}.json"] = record
    return found


def model_id(model: str) -> tuple[str, str]:
    """(developer, name): those of a Hub id; reference models and directories have no developer."""
    developer, slash, name = shown_model(model).rpartition("/")
    return (developer, name) if slash and developer and name else ("unknown", name or model)


def _results(row: pd.Series) -> Iterator[dict]:
    what = ", ".join(str(row[c]) for c in ("label", "place", "probe") if pd.notna(row[c]))
    source = {"dataset_name": str(row["task"]), "source_type": "other",
              "additional_details": _texts({"data_hash": row["data_hash"]})}
    if pd.notna(row["score"]):
        low, high = _SPAN.get(row["metric"], ("-Infinity", "Infinity"))
        yield _result(f"{row['task']}: read {what}", source, row, "score", {
            "metric_id": row["metric"], "metric_name": metric_name(row["metric"]), "min_score": low, "max_score": high,
            "evaluation_description": "A probe of the hidden states, fitted on other groups; layer chosen on "
                                      "validation."},
            ("where", "shortcut", "shortcut_name", "control", "control_name", "selectivity", "reads", "n_groups"))
    if pd.notna(row["effect"]):
        yield _result(f"{row['task']}: write {what}", source, row, "effect", {
            "metric_id": "causal_effect", "metric_name": str(row["effect_metric"]), "min_score": "-Infinity",
            "max_score": "Infinity", "evaluation_description": "What the model's answers do when the hidden states are "
            "edited along the probe's direction: 0 nothing, 1 all that is to be had."},
            ("change", "edit", "edit_where", "at_dose", "dose_unit", "dose", "chosen", "n_edits", "band", "band_low",
             "band_high", "enough", "cost", "cost_on"))


def _result(name: str, source: dict, row: pd.Series, of: str, metric: dict, details: tuple[str, ...]) -> dict:
    count = row["n" if of == "score" else "effect_n"]
    uncertainty: dict = {"num_samples": int(count)} if pd.notna(count) else {}
    if pd.notna(row[f"{of}_low"]):
        uncertainty["confidence_interval"] = {"lower": float(row[f"{of}_low"]), "upper": float(row[f"{of}_high"]),
                                              "confidence_level": 0.95, "method": _METHOD}
    return {"evaluation_result_id": hashlib.sha256(name.encode()).hexdigest()[:16], "evaluation_name": name,
            "source_data": source,
            "metric_config": {**metric, "lower_is_better": False, "score_type": "continuous"},
            "score_details": {"score": float(row[of]), "details": _texts({c: row[c] for c in details}),
                              "uncertainty": uncertainty}}


def _texts(details: Mapping) -> dict[str, str]:
    """The schema wants text for whatever it has no field for."""
    return {str(k): " ".join(map(str, v)) if isinstance(v, list) else f"{v:.6g}" if isinstance(v, float) else str(v)
            for k, v in details.items() if isinstance(v, list) or pd.notna(v)}


def _mapping(value: object) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _version(metadata: Mapping) -> str:
    return str(_mapping(metadata.get("versions")).get("worldprobe", "unknown"))


def _first(values: pd.Series) -> str | None:
    known = values.dropna()
    return str(known.iloc[0]) if len(known) else None


def _safe(name: str) -> str:
    """A name as part of a path: no separators, no leading dot."""
    return re.sub(r"[^\w.+=-]", "_", name).lstrip(".")[:100] or "_"
