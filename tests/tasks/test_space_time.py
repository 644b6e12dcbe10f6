"""Names with coordinates and dates, the token in which a name ends, and how far a prediction is off."""

import os

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.metrics.pairwise import haversine_distances
from tiny_tokenizers import FAMILIES, WithoutOffsets, tiny

from tasks import space_time
from tasks._data import fetch
from tasks.space_time import great_circle_km, hold_out, proximity_error, years_apart

REAL = pytest.mark.skipif("WORLDPROBE_DATA" not in os.environ, reason="needs the published files in WORLDPROBE_DATA")
PARIS, LONDON, SYDNEY = np.array([2.3522, 48.8566]), np.array([-0.1276, 51.5072]), np.array([151.2093, -33.8688])


@pytest.fixture
def places(tmp_path):
    """80 towns in 8 countries."""
    i = np.arange(80)
    return _csv(tmp_path / "towns.csv", name=[f"Sao Łódź {k}" for k in i], country=[f"Land{k % 8}" for k in i],
                longitude=i * 4.5 - 180, latitude=i % 8 * 10 - 40.5)


def _csv(file, **columns):
    pd.DataFrame(columns).to_csv(file, index=False)
    return file


def test_great_circles_agree_with_known_distances_and_with_scikit_learn():
    assert great_circle_km(PARIS, LONDON) == pytest.approx(343.6, abs=1)
    assert great_circle_km(PARIS, SYDNEY) == pytest.approx(16_960, abs=10)
    assert great_circle_km(np.array([0.0, 0]), np.array([180.0, 0])) == pytest.approx(np.pi * 6371.0088)
    assert great_circle_km(np.array([179.5, 60]), np.array([-179.5, 60])) == pytest.approx(55.6, abs=0.1)
    points = np.random.default_rng(0).uniform([-180, -90], [180, 90], (50, 2))
    want = haversine_distances(np.radians(points[:, ::-1])) * 6371.0088  # theirs is (latitude, longitude)
    np.testing.assert_allclose(great_circle_km(points[:, None], points[None]), want, atol=1e-6)


def test_swapping_longitude_and_latitude_is_another_distance():
    east = great_circle_km(np.array([0.0, 60]), np.array([10.0, 60]))
    assert east == pytest.approx(555, abs=2)
    assert great_circle_km(np.array([60.0, 0]), np.array([60.0, 10])) == pytest.approx(1112, abs=1)


def test_the_proximity_error_is_0_for_the_truth_and_half_for_any_order_of_it():
    true = np.random.default_rng(0).uniform([-180, -60], [180, 60], (600, 2))
    assert (proximity_error(true, true, great_circle_km) == 0).all()
    shuffled = np.random.default_rng(1).permutation(true)
    assert proximity_error(true, shuffled, great_circle_km).mean() == pytest.approx(0.5, abs=0.03)
    one_guess = proximity_error(true, np.zeros_like(true), great_circle_km)
    np.testing.assert_allclose(one_guess, 0.5, atol=0.01)
    years, guess = np.random.default_rng(2).normal(size=(2, 40, 1))
    off = np.abs(years - guess.T)  # (true, predicted)
    want = [(rankdata(row, "min")[i] - 1) / 40 for i, row in enumerate(off)]
    np.testing.assert_allclose(proximity_error(years, guess, years_apart), want)
    assert (proximity_error(years[:5], guess[:5], years_apart, among=guess) == want[:5]).all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prompt", ["empty", "empty_all_caps", "The town of {} is in Russia."])
def test_examples_are_probed_at_the_last_token_of_the_name(places, family, prompt):
    tokenizer = tiny(family)
    prompts = space_time.load(places, tokenizer, prompt=prompt, block="country")
    assert prompts.task == "space_time-towns" and len(prompts) == 80
    tail = prompt.partition("{}")[2]
    closing = 1 if family in ("wordpiece", "byt5") else 0  # [SEP], </s>
    if not tail:
        assert (prompts.examples["pos"] == prompts.lengths.numpy() - 1 - closing).all()
    for ids, pos, name in zip(prompts.tokens, prompts.examples["pos:entity"], prompts.examples["entity"], strict=True):
        token = tokenizer.decode([int(ids[pos])]).strip(" #▁")
        assert token in ("[UNK]", "<unk>") or token.startswith("<0x3") or name.endswith(token.lower()) and token


def test_labels_are_numbers_in_their_order_and_the_shortcut_is_the_mean_of_the_country(places):
    prompts = space_time.load(places, tiny("byte-level"), block="country")
    assert prompts.targets("place") == ["longitude", "latitude"] and not prompts.classes
    table = pd.read_csv(places)
    assert np.array_equal(prompts.labels("place"), table[["longitude", "latitude"]])
    assert prompts.shortcuts == {"place": ("block_mean",)}
    train = prompts.rows("train")
    for land in ("Land0", "Land5"):
        here = (prompts.examples["block"] == land).to_numpy()
        assert np.allclose(prompts.labels("block_mean")[here], prompts.labels("place")[here & train].mean(0))


def test_a_country_that_is_held_out_is_tested_and_never_trained_on(places):
    prompts = space_time.load(places, tiny("byte-level"), block="country")
    out = hold_out(prompts, "Land3")
    assert (out.examples["split"] == "test").sum() == 10 and (out.examples["block"][out.rows("test")] == "Land3").all()
    assert len(out) == 10 + ((prompts.examples["block"] != "Land3") & ~prompts.rows("test")).sum()
    far = out.labels("block_mean")[out.rows("test")]
    assert np.allclose(far, out.labels("place")[out.rows("train")].mean(0))
    with pytest.raises(ValueError, match="'Land9' is none of the 80 examples' block; the largest are .*'Land"):
        hold_out(prompts, "Land9")
    whole = space_time.load(places, tiny("byte-level"), block="country", split="block").examples
    assert (whole.groupby("block")["split"].nunique() == 1).all() and (whole["group"] == whole["block"]).all()


def test_random_tokens_stand_between_the_beginning_and_the_name(places):
    plain, noisy = (space_time.load(places, tiny("byte-level"), prompt=p) for p in ("empty", "random"))
    assert (noisy.examples["pos"] == plain.examples["pos"] + 10).all()
    assert (noisy.tokens[:, 1:11] >= 100).all() and noisy.tokens[0, 1:11].tolist() != noisy.tokens[1, 1:11].tolist()
    assert noisy.tokens[:, 11:].equal(plain.tokens[:, 1:]) and (noisy.tokens[:, 0] == plain.tokens[:, 0]).all()
    with pytest.raises(ValueError, match="`random` draws tokens from id 100, the tokenizer has 6.; use another prompt"):
        space_time.load(places, tiny("word-level"), prompt="random")


def test_the_cities_that_ship_are_where_they_are():
    cities = space_time.load("cities", tiny("byte-level"), prompt="coords")
    assert len(cities) == 243 == cities.examples["entity"].nunique() and cities.examples["block"].nunique() == 6
    at = dict(zip(cities.examples["entity"], cities.labels("place"), strict=True))
    for name, where in (("Paris", PARIS), ("London", LONDON), ("Sydney", SYDNEY)):
        assert great_circle_km(at[name], where) < 25
    assert cities.examples.set_index("entity")["block"][["Quito", "Apia", "Malé"]].tolist() == [
        "South America", "Oceania", "Asia"]


def test_dates_and_years_are_years(tmp_path):
    dates = ["1970-01-01", "1969-01-01", "2000-07-02"] * 4
    file = _csv(tmp_path / "works.csv", name=[f"Help {i}" for i in range(12)], date=dates, year=range(-5, 7))
    years = space_time.load(file, tiny("byte-level"), targets=["date"]).labels("time")[:3, 0]
    assert years.tolist() == pytest.approx([1970, 1970 - 365 / 365.25, 1970 + 11140 / 365.25])
    assert space_time.load(file, tiny("byte-level"), targets=["year"]).labels("time")[:, 0].tolist() == [*range(-5, 7)]


def test_published_test_rows_are_kept_and_training_rows_that_leak_into_them_are_dropped(tmp_path):
    file = _csv(tmp_path / "art.csv", title=[f"It {i}" for i in range(60)], creator=["Stephen King", "The Beatles"] * 5
                + [f"Creator{i}" for i in range(50)], release_date=[f"198{i % 10}-01-01" for i in range(60)],
                decade=[1980] * 60, entity_type=["book"] * 60, is_test=[True] + [False] * 49 + [True] * 10)
    prompts = space_time.load("art", tiny("byte-level"), file=file, prompt="release")
    assert (prompts.examples["split"] == "test").sum() == 11 and len(prompts) == 56
    assert prompts.examples["entity"][:2].tolist() == ["Stephen King's It 0", "The Beatles' It 1"]
    assert (prompts.examples.groupby("group")["split"].nunique() == 1).all()
    assert tiny("byte-level").decode(prompts.tokens[1, 1 : prompts.lengths[1]].tolist()) == \
        "When was the release date of The Beatles' It 1"


@pytest.mark.parametrize(("columns", "options", "message"), [
    (dict(town=["a"]), {}, "lacks column.s. name, longitude, latitude, it has town; name the columns"),
    (dict(name=["a", "b"], longitude=[0, 1], latitude=[0, 120]), {},
     "latitude must lie in -90 to 90 degrees, row 1 has '120'; .* .are longitude and latitude swapped"),
    (dict(name=["a", "b"], longitude=[0, "x"], latitude=[0, 1]), {}, "longitude must lie in .* row 1 has 'x'"),
    (dict(name=["a", "b"], date=["1969-07-20", "July"]), dict(targets=["date"]),
     "date must be a year or a date such as 1969-07-20, row 1 has 'July'"),
    (dict(name=["a", ""], date=[1, 2]), dict(targets=["date"]), "row 1 has no name"),
    (dict(name=["a", "b"], u=[1, 2], v=[1, 2]), dict(targets=["u", "v"]), "targets must be .* or one column of dates"),
    (dict(name=["a", "b"], longitude=[0, 1], latitude=[0, 1]), dict(split="published"), "needs a column is_test"),
    (dict(name=["a", "b"], longitude=[7, 7], latitude=[0, 1]), {}, "longitude is the same in all 2 row.s., so there is "
     "nothing to read from the names; give a table in which it differs"),
    (dict(name=["a", "b"], longitude=[0, 1], latitude=[0, 1]), dict(block="land"), "lacks column.s. land, it has name"),
    (dict(name=["a", "b", "c"], longitude=[0, 1, 2], latitude=[0, 1, 2]), dict(prompt="coords"),
     "prompt must be one of empty, empty_all_caps, random, or a template with one {} for the entity, not 'coords'"),
])
def test_a_table_that_is_no_table_of_places_or_dates(tmp_path, columns, options, message):
    with pytest.raises(ValueError, match=message):
        space_time.load(_csv(tmp_path / "bad.csv", **columns), tiny("byte-level"), **options)


def test_data_sets_that_are_not_there():
    with pytest.raises(FileNotFoundError, match="wolrd.csv is neither a file nor a data set; .* one of world_place"):
        space_time.load("wolrd.csv", tiny("byte-level"))
    with pytest.raises(FileNotFoundError, match="the file of headline is not in the public copy .* give your own as"):
        space_time.load("headline", tiny("byte-level"))


COLUMNS = {  # of the published files, and what they hold: t text, f and i numbers, b truth values
    "world_place": dict(name="t", entity_subtype="t", country="t", latitude="f", longitude="f", has_thumbnail="i",
                        page_views="f", entity_type="t", total_area="t", population="t", is_test="b"),
    "art": dict(title="t", creator="t", release_date="t", length="t", page_name="t", page_views="f", entity_type="t",
                is_test="b", decade="i"),
}


@REAL
@pytest.mark.parametrize("name", COLUMNS)
def test_the_published_tables_have_the_columns_of_the_paper(name):
    table = pd.read_csv(fetch(f"world_models/{name}.csv"), keep_default_na=False)
    kinds = {c: "t" if pd.api.types.is_string_dtype(table[c]) else table[c].dtype.kind for c in table}
    assert kinds == COLUMNS[name]
    if name == "art":
        assert sorted(table["decade"].unique()) == [*range(1950, 2030, 10)]


@REAL
def test_the_published_places_and_works_have_the_rows_of_the_paper():
    places = space_time.load("world_place", tiny("word-level"), prompt="coords")
    counts = places.examples["split"].value_counts()
    assert len(places) == 39_585 and counts["test"] == 7_917
    assert places.examples["kind"].value_counts().to_dict() == {"populated_place": 30_783, "structure": 6_453,
                                                                "natural_place": 2_349}
    assert places.examples["block"].nunique() == 365 and (places.examples["block"] == "United_States").sum() == 6_324
    ford = places.examples[places.examples["entity"] == "Ford Rotunda"].iloc[0]
    assert (ford["place/longitude"], ford["place/latitude"]) == (-83.1767, 42.3121)
    works = space_time.load("art", tiny("word-level"), prompt="release")
    assert len(works) == 31_321 and (works.examples["split"] == "test").sum() == 6_437
    assert works.examples["group"].nunique() == 9_134
    assert works.examples["kind"].value_counts().to_dict() == {"song": 24_865, "movie": 4_103, "book": 2_353}
    assert (works.labels("time")[:, 0] // 10 * 10 == works.examples["block"].astype(int)).mean() > 0.999
    eighties = hold_out(works, "1980").examples
    assert (eighties.groupby("group")["split"].nunique() == 1).all()


@REAL
@pytest.mark.parametrize("family", [f for f in FAMILIES if f != "byt5"])
def test_the_last_token_of_a_published_name_is_the_same_with_offsets_and_without(family):
    by_offsets, by_prefixes = (space_time.load("world_place", t, prompt="{} is a place", n=300)
                               for t in (tiny(family), WithoutOffsets(tiny(family))))
    assert by_offsets.examples.equals(by_prefixes.examples)
    assert by_offsets.tokens.equal(by_prefixes.tokens)
