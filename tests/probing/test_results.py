import json
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest

from probing._result_files import SCHEMA_FILE, read_results, schema, write_results
from probing._results import COLUMNS, ResultsError, results_frame, validate

SCORE = {"task": "othello", "model": "othello", "label": "mine_theirs", "metric": "accuracy", "split": "test",
         "subset": "all", "value": 0.9, "ci_low": 0.85, "ci_high": 0.95, "n": 6400, "n_groups": 100, "seed": 0,
         "model_hash": "a1", "data_hash": "b2"}
SITE = {"stream": "resid_post", "layer": 3, "layer_end": 3}
PROBE = SCORE | SITE | {"probe": "logistic"}
EDIT = SCORE | SITE | {"probe": "encoding", "intervention": "flip", "alpha": 2.0, "unit": "natural",
                       "metric": "set_error", "split": "report"}
PROBE_ROWS = [PROBE, SCORE | {"control": "majority", "model": None, "model_hash": None},
              PROBE | {"control": "shuffled_labels"}, PROBE | {"control": "random_init"},
              SCORE | {"control": "shortcut:no_flip", "model": None, "model_hash": None},
              SCORE | {"probe": "logistic", "control": "input_only", "model": None, "model_hash": None}]
EDIT_ROWS = [EDIT, EDIT | {"control": "null"}, EDIT | {"control": "random_direction", "n": 20}]


def without(control):
    return [row for row in PROBE_ROWS + EDIT_ROWS if row.get("control") != control]


def test_rows_become_a_table_with_the_columns_in_order_and_typed():
    table = results_frame([{"task": "othello", "layer": 3, "value": 1, "n": np.int64(7)}, {"value": None}])
    assert list(table) == list(COLUMNS)
    assert {c: str(t) for c, t in table.dtypes.items()} == {c: dtype for c, (dtype, _) in COLUMNS.items()}
    assert table["layer"].tolist() == [3, pd.NA] and table["task"].isna().tolist() == [False, True]


def test_a_probe_and_an_edit_with_their_controls_are_valid():
    table = validate(results_frame(PROBE_ROWS + EDIT_ROWS))
    assert len(table) == 9
    pd.testing.assert_frame_equal(validate(table[::-1][list(COLUMNS)[::-1]]), validate(table[::-1]))


@pytest.mark.parametrize("control", ["majority", "shuffled_labels", "random_init", "input_only"])
def test_a_probe_without_a_control_is_refused(control):
    with pytest.raises(ResultsError, match=rf"1 of 8 rows: a probe without its control '{control}'.*row 0 \(.*layer=3"):
        validate(results_frame(without(control)))


def test_a_shortcut_that_the_table_has_must_stand_beside_every_score_of_its_label():
    validate(results_frame(without("shortcut:no_flip")))  # a label may have none
    rows = PROBE_ROWS + [row | {"subset": "occupied"} for row in without("shortcut:no_flip")[:5]]
    with pytest.raises(ResultsError, match="'shortcut:no_flip'.*row 6 .*subset=occupied"):
        validate(results_frame(rows))


def test_controls_of_one_probe_do_not_serve_another():
    with pytest.raises(ResultsError, match="'shuffled_labels'.*probe=mlp(.|\n)*'random_init'.*probe=mlp"):
        validate(results_frame([*PROBE_ROWS, PROBE | {"probe": "mlp"}]))


@pytest.mark.parametrize("control", ["null", "random_direction"])
def test_an_effect_without_its_null_or_its_band_is_refused(control):
    with pytest.raises(ResultsError, match=f"an effect without its '{control}'.*row 6 .*intervention=flip"):
        validate(results_frame(without(control)))


def test_a_null_may_hold_for_all_layers_but_a_band_only_for_its_own_edit():
    everywhere = {"stream": None, "layer": None, "layer_end": None, "probe": None, "alpha": None, "unit": None}
    null, band = EDIT_ROWS[1] | everywhere, EDIT_ROWS[2]
    validate(results_frame([EDIT, null, band]))
    for change in ({"layer_end": 4}, {"alpha": 3.0}, {"probe": "logistic"}, {"metric": "error_ratio"},
                   {"positions": "3"}):
        with pytest.raises(ResultsError, match="random_direction"):
            validate(results_frame([EDIT | change, null | {"metric": change.get("metric", "set_error")}, band]))


def test_a_band_needs_twenty_draws():
    with pytest.raises(ResultsError, match="fewer than 20 random draws"):
        validate(results_frame([*EDIT_ROWS[:2], EDIT_ROWS[2] | {"n": 5}]))


@pytest.mark.parametrize(("change", "message"), [
    ({"value": np.nan}, "not a finite number"),
    ({"value": np.inf, "ci_high": np.inf}, "not a finite number"),
    ({"n": None}, "n is missing"),
    ({"n": 0}, "n is missing or below 1"),
    ({"ci_low": None, "ci_high": None}, "the interval is missing"),
    ({"ci_low": None}, "one end of the interval is missing"),
    ({"ci_low": 0.91}, "does not contain the value"),
    ({"ci_high": np.inf}, "the interval is infinite"),
    ({"model_hash": None}, "model_hash is missing"),
    ({"data_hash": None}, "data_hash is missing"),
    ({"model": None}, "model is missing"),
    ({"subset": None}, "subset is missing"),
    ({"layer": None}, "stream, layer or layer_end is missing"),
    ({"alpha": 1.0}, "dose without its unit"),
    ({"probe": None}, "scored, but by what"),
    ({"p_value": 1.5, "p_adjusted": 1.0, "correction": "holm"}, "p_value is not between"),
    ({"p_value": 0.5}, "without its correction"),
    ({"label": None}, "label is missing"),
])
def test_a_row_that_lacks_something_is_refused_by_name(change, message):
    with pytest.raises(ResultsError, match=f"{message}.*row 0 "):
        validate(results_frame([PROBE | change, *PROBE_ROWS[1:]]))


def test_all_broken_rules_are_told_at_once_and_long_lists_are_cut():
    rows = [PROBE | {"subset": f"pos={p}", "n": None} for p in range(10)]
    with pytest.raises(ResultsError, match=r"10 of 10 rows: n is missing[^\n]* \.\.\.\n10 of 10 rows: a probe without"):
        validate(results_frame(rows))


def test_the_same_key_twice_is_refused():
    with pytest.raises(ResultsError, match="2 of 7 rows: the same key twice.*row 0 .*row 6 "):
        validate(results_frame([*PROBE_ROWS, PROBE | {"value": 0.91}]))


def test_tables_of_another_shape_are_refused():
    table = results_frame(PROBE_ROWS)
    with pytest.raises(ResultsError, match=r"unknown columns \['learning_rate'\]"):
        results_frame([PROBE | {"learning_rate": 1}])
    with pytest.raises(ResultsError, match=r"columns \['n'\] are missing"):
        validate(table.drop(columns="n"))
    with pytest.raises(ResultsError, match="column 'layer' must be Int64"):
        results_frame([PROBE | {"layer": 3.5}])
    with pytest.raises(ResultsError, match="at least one row"):
        validate(table.iloc[:0])


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_results_come_back_as_they_were_written(tmp_path, suffix):
    table = validate(results_frame(PROBE_ROWS + EDIT_ROWS))
    table.loc[0, "value"] = 1 / 1.1  # a float that needs all its digits
    path = write_results(table, tmp_path / "results.parquet", {"config": {"seed": 0}})
    back, metadata = read_results(path.with_suffix(suffix))
    pd.testing.assert_frame_equal(back, table)
    assert metadata == {"config": {"seed": 0}}


def test_writing_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path):
    for name in ("a", "b"):
        write_results(results_frame(PROBE_ROWS), tmp_path / f"{name}.parquet")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.parquet", "b.json", "b.parquet"]
    for suffix in ("json", "parquet"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_an_invalid_table_is_not_written(tmp_path):
    with pytest.raises(ResultsError):
        write_results(results_frame([PROBE]), tmp_path / "results.parquet")
    assert not list(tmp_path.iterdir())


def test_damage_is_found_wherever_it_is(tmp_path):
    path = write_results(results_frame(PROBE_ROWS), tmp_path / "results.parquet", {"command": "worldprobe run othello"})
    table, metadata = read_results(path)
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ResultsError, match=r"results\.parquet"):
            read_results(path)
    for place in rng.integers(len(whole), size=40):  # a flip is refused, or sits where no content is
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.integers(8)]) + whole[place + 1 :])
        try:
            back, head = read_results(path)
        except ResultsError:
            continue
        pd.testing.assert_frame_equal(back, table)
        assert head == metadata


def test_an_edited_number_and_another_version_are_refused(tmp_path):
    path = write_results(results_frame(PROBE_ROWS), tmp_path / "results.parquet").with_suffix(".json")
    text = path.read_text()
    path.write_text(text.replace("0.9,", "0.95,"))
    with pytest.raises(ResultsError, match="damaged or was edited"):
        read_results(path)
    path.write_text(text.replace('"schema_version": 3', '"schema_version": 99'))
    with pytest.raises(ResultsError, match="schema version 99"):
        read_results(path)


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_a_table_of_version_1_is_still_read(suffix):
    """Written before there were p-values and the control on the input alone; it may lack both."""
    table, metadata = read_results(Path(__file__).with_name("old_results") / f"version_1{suffix}")
    assert len(table) == 8 and "input_only" not in set(table["control"]) and table["p_value"].isna().all()
    assert metadata == {"config": {"seed": 0}}


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_a_table_of_version_2_is_still_read(suffix):
    """Written before a row said where an edit acts and how large it is."""
    table, metadata = read_results(Path(__file__).with_name("old_results") / f"version_2{suffix}")
    assert len(table) == 9 and table[["positions", "applied_norm"]].isna().all(axis=None)
    assert table["p_adjusted"].tolist()[0] == 0.02 and metadata == {"config": {"seed": 0}}


def test_the_checked_in_schema_is_current_and_fits_what_is_written(tmp_path):
    assert json.loads(SCHEMA_FILE.read_text()) == schema(), (
        f"write it again: json.dump(probing._result_files.schema(), open('probing/{SCHEMA_FILE.name}', 'w'), indent=1)")
    jsonschema.Draft202012Validator.check_schema(schema())
    path = write_results(results_frame(PROBE_ROWS + EDIT_ROWS), tmp_path / "results.parquet")
    jsonschema.validate(json.loads(path.with_suffix(".json").read_text()), schema())
