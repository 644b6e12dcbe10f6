import base64
import csv
import hashlib
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from probing import validate
from probing._result_files import write_results
from tests.worldprobe import browser
from tests.worldprobe.board_table import toy_table
from tests.worldprobe.payloads import PAYLOADS
from tests.worldprobe.test_report import Page
from tests.worldprobe.test_submissions import with_samples
from worldprobe import _cli
from worldprobe._board_rows import NUMBERS, TEXT, board_rows
from worldprobe._csv import unguarded
from worldprobe._leaderboard import _harmless, build, named, page, ranked
from worldprobe._report import Section, write_report

METADATA = {"command": ["worldprobe", "run", "toy"], "versions": {"worldprobe": "0.1.0"}}
BIG = 5000


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return board_rows(toy_table())


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The page of one run with a report, and of a board with one submission."""
    folder = tmp_path_factory.mktemp("board")
    (folder / "toy").mkdir()
    write_results(toy_table(), folder / "toy" / "results.parquet", METADATA)
    write_report(folder / "toy" / "report.html", title="toy", sections=[
        Section("Nothing"), Section("What used does"), Section("Read", about="label:inert"),
        Section("Done", subsections=[Section("Erased", about="change:used")])])
    whole, samples = with_samples()
    (folder / "sent").mkdir()
    (folder / "sent" / "a.json").write_bytes(whole)
    (folder / "sent" / "a.samples.json").write_bytes(samples)
    return build([folder / "toy", folder / "sent"], folder / "site").parent


def many(rows: pd.DataFrame, n: int = BIG) -> pd.DataFrame:
    """Rows for a large board, all different."""
    rng = np.random.default_rng(0)
    some = pd.concat([rows] * -(-n // len(rows)), ignore_index=True).iloc[:n]
    score = rng.uniform(0.4, 1, n)
    some = some.assign(model=[f"model-{i % 173}" for i in range(n)], task=[f"task-{i % 7}" for i in range(n)],
                       score=score, score_low=score - 0.01, score_high=score + 0.01, cost=rng.exponential(size=n),
                       effect=rng.uniform(-0.1, 1, n), run="big", origin="run", version="0", report=None)
    return named(ranked(some))


def on_page(rows: pd.DataFrame) -> pd.DataFrame:
    return named(ranked(rows.assign(origin="run", run="toy", version="0", report=None)))


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if browser.FOUND is None:
        pytest.skip("no chromium here to open the page in")
    opened = browser.Browser(tmp_path_factory.mktemp("profile"))
    opened.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1, uploadThroughput=-1)
    yield opened
    opened.close()


def line(rows: pd.DataFrame, **where) -> pd.Series:
    (found,) = (row for _, row in rows.iterrows() if all(row[k] == v for k, v in where.items()))
    return found


def test_a_row_has_what_was_read_beside_what_was_written(rows):
    assert list(rows) == [*TEXT, *NUMBERS]
    row = line(rows, label="used", probe="mass_mean")
    assert (row["where"], row["score"], row["score_low"]) == ("layer 1", 0.94, pytest.approx(0.93))  # by validation
    assert (row["shortcut"], row["shortcut_name"], row["reads"]) == (0.7, "shortcut: rule", "yes")
    assert row["selectivity"] == pytest.approx(0.94 - 0.51)
    assert (row["edit"], row["at_dose"], row["chosen"]) == ("steer mass_mean.write", 1.0, "on cases set aside")
    assert [row[c] for c in ("effect", "effect_low", "effect_high")] == pytest.approx([0.7, 0.65, 0.75])
    assert [row[c] for c in ("band_low", "band_high")] == pytest.approx([-0.02, 0.06]) and row["enough"] == "yes"
    assert (row["cost"], row["cost_on"]) == (0.08, "other prompts")
    share = (0.1 - 0.08) / (0.20 - 0.08)  # the dose that costs 0.1 nats lies on the line between those run
    assert row["dose"] == pytest.approx(1 + share) and row["effect_at_dose"] == pytest.approx(0.7 + share * 0.2)


def test_what_reads_no_better_than_a_shortcut_is_no_news_and_what_does_nothing_is_not_enough(rows):
    inert = line(rows, label="inert", probe="mass_mean")
    assert (inert["reads"], inert["enough"], inert["control_name"]) == ("no news", "no", "shortcut: rule")
    assert line(rows, label="inert", probe="logistic")["reads"] == "yes"
    assert pd.isna(line(rows, label="inert", probe="logistic")["effect"])


def test_directions_that_are_no_probe_have_rows_without_a_score(rows):
    encoding = line(rows, label="used", probe="encoding")
    assert pd.isna(encoding["score"]) and encoding["effect"] == pytest.approx(0.7) and pd.isna(encoding["reads"])
    leace = line(rows, label="used", probe="leace")
    assert leace["erased"] == pytest.approx(1.6) and leace["used"] == "yes"
    assert leace["erased_band_high"] == pytest.approx(0.04)  # of random subspaces, which an eraser is held against


def test_overlapping_intervals_tie(rows):
    five = pd.DataFrame({"task": "t", "label": "l", "place": None, "metric": "accuracy",
                         "score": [0.9, 0.89, 0.80, 0.6, np.nan], "score_low": [0.88, 0.87, 0.79, 0.58, np.nan],
                         "score_high": [0.92, 0.91, 0.875, 0.62, np.nan]})
    found = ranked(five)
    assert found["best_rank"].tolist()[:4] == [1, 1, 2, 4] and found["worst_rank"].tolist()[:4] == [2, 3, 3, 4]
    assert found["of"].tolist()[:4] == [4] * 4 and pd.isna(found["best_rank"][4])


def test_checkpoints_are_left_out_and_changes_find_their_readings():
    table = toy_table()
    assert board_rows(table.assign(revision="step 8")).empty
    renamed = table.assign(label=table["label"].where(table["intervention"].isna(), "moved"))
    renamed = renamed[renamed["label"] != "inert"]
    renamed = pd.concat([renamed, table[(table["label"] == "inert") & table["intervention"].isna()]])
    assert line(board_rows(renamed), label="moved", probe="mass_mean")["effect"] > 0.6  # of which label is not known
    told = board_rows(renamed, {"changes": {"moved": "used"}})
    assert line(told, label="used", probe="mass_mean")["change"] == "moved"


def test_an_edit_belongs_to_the_reading_at_its_own_place():
    table = toy_table()
    read, edits = table[table["intervention"].isna()], table[table["intervention"].notna()]
    there = read["model"].notna() & (read["label"] == "used")
    read = read.assign(positions=read["positions"].mask(there, "end"))
    moved = edits[edits["label"] == "used"].assign(label="moved", positions="full stop")
    table = validate(pd.concat([read, moved], ignore_index=True))
    apart = board_rows(table)
    assert line(apart, label="moved", probe="mass_mean")["place"] == "full stop"
    assert pd.isna(line(apart, label="used", probe="mass_mean")["effect"])
    told = {"changes": {"moved": {"full stop": ["used", "end"]}}}
    assert line(board_rows(table, told), label="used", probe="mass_mean")["effect"] == pytest.approx(0.7)


def test_of_several_ways_to_write_it_is_the_one_that_did_best_on_the_cases_set_aside():
    table = toy_table()
    more = table[(table["label"] == "used") & (table["probe"] == "mass_mean.write") & table["intervention"].notna()]
    error = more["metric"] == "error_ratio"
    worse = more.assign(intervention="move_to", **{c: more[c].where(~error, more[c] / 2 + 0.5)
                                                   for c in ("value", "ci_low", "ci_high")})
    null = table[(table["label"] == "used") & (table["intervention"] == "steer") & (table["control"] == "null")]
    table = validate(pd.concat([table, worse, null[null["probe"] != "mass_mean.write"].assign(
        intervention="move_to", probe=None)], ignore_index=True).drop_duplicates())
    here = line(board_rows(table), label="used", probe="mass_mean")
    assert (here["edit"], here["chosen"]) == ("steer mass_mean.write", "the best of 2 here")
    told = {"set_aside": {"used": {"last": ["move_to mass_mean.write", "steer mass_mean.write"]}}}
    aside = line(board_rows(table, told), label="used", probe="mass_mean")
    assert (aside["edit"], aside["chosen"]) == ("move_to mass_mean.write", "on cases set aside")
    assert aside["effect"] == pytest.approx(0.35)


@pytest.mark.parametrize("odd", [{"changes": 1}, {"changes": {"used": {"last": [1, 2]}}}, {"changes": {"used": ["x"]}},
                                 {"set_aside": {"used": {"last": "x"}}}, {"set_aside": {"used": [{}]}},
                                 {"set_aside": {"used": {"last": [1, None, {}]}}},
                                 {"changes": {"used": {"last": [[], {}]}}}])
def test_odd_metadata_of_a_submission_change_nothing(odd, rows):
    pd.testing.assert_frame_equal(board_rows(toy_table(), odd), rows)


def test_the_site_holds_page_csv_and_reports_and_rows_lead_to_them(site):
    held = {f.relative_to(site).as_posix() for f in site.rglob("*") if f.is_file()}
    assert {"index.html", "leaderboard.csv"} < held and len(held) == 3
    rows = pd.read_csv(site / "leaderboard.csv")
    assert rows["origin"].value_counts().to_dict() == {"run": 6, "score recomputed": 1}
    link = rows.loc[rows["label"] == "used", "report"].iloc[0]
    report, _, anchor = link.partition("#")
    assert report in held and f'id="{anchor}-h">What used does<' in (site / report).read_text()  # by its heading
    links = rows[rows["run"] == "toy"].set_index(["label", "probe"])["report"]
    assert links["inert", "logistic"].endswith("#s3") and links["used", "encoding"].endswith("#s4-1")


def test_a_report_that_could_run_something_is_not_taken(site):
    ours = next((site / "reports").iterdir()).read_text()
    assert _harmless(ours)
    for text in ("<script>1</script>", ours.replace("<head>", "<head><script>1</script>"),
                 ours.replace("default-src &#39;none&#39;", "default-src *"),
                 ours.replace("default-src", "script-src &#39;unsafe-inline&#39;; default-src"), ""):
        assert not _harmless(text)


def test_the_page_names_its_own_script_and_style_and_allows_no_other(site):
    text = (site / "index.html").read_text()
    found = Page(text)
    policy = next(a["content"] for a in found.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy and "http" not in policy
    for kind, tag in (("style", "<style>(.*?)</style>"), ("script", "<script>(.*?)</script>")):
        digest = hashlib.sha256(re.search(tag, text, re.DOTALL)[1].encode()).digest()
        assert f"{kind}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert not any(name.startswith("on") or name == "style" for _, a in found.tags for name in a)
    assert not re.search(r"url\(|@import|innerHTML|insertAdjacentHTML|document\.write|\beval\b", text)


def test_no_payload_is_live_in_the_page(rows, chromium, tmp_path):
    n = len(PAYLOADS)
    some = pd.concat([rows] * n, ignore_index=True).iloc[:n].drop(columns=list(TEXT))
    texts = [*TEXT, "origin", "run", "version", "report"]
    some = some.assign(score=0.5, effect=0.5, cost=1.0, dose=1.0, shortcut=0.2, control=0.3, erased=0.1,
                       **{c: [PAYLOADS[(i + 11 * k) % n] for i in range(n)] for k, c in enumerate(texts)})
    text = page(named(ranked(some)))
    tags = Page(text).tags
    assert sum(tag == "script" for tag, _ in tags) == 2 and not any(tag in ("img", "iframe") for tag, _ in tags)
    (tmp_path / "index.html").write_text(text)
    chromium.open((tmp_path / "index.html").as_uri() + "#cols=model,task,label,place,probe,layer,score,reads,shortcut,"
                  "control,effect,enough,dose,cost,erased,used,origin,report")
    assert chromium.value("document.querySelectorAll('#body tr').length") == 50
    for number in range(5):
        assert chromium.value("document.querySelectorAll('main :is(img, iframe, script, style, a[href^=j], object,"
                              " embed, base, link, meta)').length") == 0
        assert chromium.value("[...document.querySelectorAll('main *')].every(e => [...e.attributes].every(a => "
                              "!a.name.startsWith('on')))")
        chromium.value(f"document.querySelectorAll('#body tr')[{number}].querySelector('button').click()")
        assert chromium.value("document.querySelectorAll('.detail dd').length") > 20
        chromium.value("document.getElementById('after').click()")
    assert chromium.value("window.live === undefined") and chromium.said == []
    assert [r for r in chromium.requests if not r.startswith(("file:", "about:"))] == []


def cells(chromium, column: int) -> list[str]:
    return chromium.value("[...document.querySelectorAll('#body tr:not(.detail)')]"
                          f".map(r => r.children[{column}].textContent)")


def test_the_page_sorts_filters_links_and_saves_without_a_network(rows, chromium, tmp_path):
    """Driven with the keyboard alone, from disk, with the network off."""
    (tmp_path / "index.html").write_text(page(on_page(rows)))
    address = (tmp_path / "index.html").as_uri()
    chromium.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path / "saved"))
    chromium.open(address)
    heads = chromium.value("[...document.querySelectorAll('#heads button')].map(b => b.dataset.key)")
    assert heads[:2] == ["model", "task"] and "erased" not in heads and "used" in heads
    at = {key: i for i, key in enumerate(heads)}

    chromium.value("document.querySelector('[data-key=score]').focus()")
    chromium.press("Enter")
    scores = [t.split()[0] for t in cells(chromium, at["score"])]
    assert scores == ["0.950", "0.950", "0.940", "0.660", "–", "–"]  # what is missing comes last
    assert chromium.value("document.activeElement.dataset.key") == "score"
    assert chromium.value("document.querySelector('[aria-sort]').textContent").startswith("Score")
    assert chromium.value("location.hash") == "#sort=-score"
    chromium.value("document.querySelector('[data-key=label]').focus()")
    chromium.press("Enter", shift=True)
    assert chromium.value("location.hash") == "#sort=-score,label"
    assert cells(chromium, at["label"])[:2] == ["inert", "used"]
    assert "then label (low to high)" in chromium.value("document.getElementById('status').textContent")
    assert chromium.value("document.querySelectorAll('[aria-sort]').length") == 1

    chromium.value("document.getElementById('filter').focus()")
    chromium.type("used -leace probe:mass")
    assert cells(chromium, at["probe"]) == ["mass_mean"]
    assert chromium.value("document.getElementById('status').textContent").startswith("1 of 6 rows")
    assert chromium.value("location.hash") == "#sort=-score,label&q=used%20-leace%20probe%3Amass"
    chromium.value("document.querySelector('#body button').focus()")
    chromium.press(" ")
    assert chromium.value("document.querySelector('.detail').textContent").count("steer mass_mean.write") == 1
    assert chromium.value("document.activeElement.getAttribute('aria-expanded')") == "true"

    chromium.value("document.getElementById('csv').focus()")
    chromium.press("Enter")
    file = tmp_path / "saved" / "leaderboard.csv"
    for _ in range(200):
        if file.exists() and file.stat().st_size:
            break
        chromium.value("new Promise(r => setTimeout(r, 10))")
    saved = list(csv.DictReader(io.StringIO(file.read_text(), newline="")))
    assert [(unguarded(r["label"]), float(r["score"])) for r in saved] == [("used", 0.94)]

    link = chromium.value("location.href")
    chromium.open(link)  # what was seen is in the address
    assert cells(chromium, at["probe"])[0] == "mass_mean"
    assert chromium.value("document.querySelectorAll('.detail').length") == 1
    assert chromium.value("document.getElementById('filter').value") == "used -leace probe:mass"
    chromium.value("document.querySelector('#picker summary').focus()")
    chromium.press("Enter")
    chromium.value("document.querySelector('#picker input[value=task]').focus()")
    chromium.press(" ")
    assert "task" not in chromium.value("[...document.querySelectorAll('#heads button')].map(b => b.dataset.key)")
    chromium.press("Escape")
    assert chromium.value("!document.getElementById('picker').open && document.activeElement.tagName") == "SUMMARY"
    chromium.value("document.getElementById('reset').click()")
    assert chromium.value("location.hash") in ("", "#") and len(cells(chromium, 0)) == 6
    assert [r for r in chromium.requests if not r.startswith(("file:", "blob:"))] == [] and chromium.said == []


def test_a_large_board_pages_and_sorts_all_its_rows(rows, chromium, tmp_path):
    big = many(rows)
    (tmp_path / "index.html").write_text(page(big))
    chromium.open((tmp_path / "index.html").as_uri() + "#sort=-score&page=100")
    assert chromium.value("document.getElementById('where').textContent") == "4,951 to 5,000 of 5,000"
    worst = big.sort_values("score")["score"].iloc[0]
    assert cells(chromium, 6 - (not big["place"].notna().any()))[-1].startswith(f"{worst:.3f}")
    chromium.value("document.querySelector('[data-key=effect]').click()")
    best = big["effect"].max()
    assert cells(chromium, 11 - (not big["place"].notna().any()))[0].startswith(f"{best:.3f}")
    assert chromium.value("document.getElementById('where').textContent") == "1 to 50 of 5,000"
    row = big.iloc[4321]["id"]
    chromium.open((tmp_path / "index.html").as_uri() + f"#sort=model,task&row={row}")
    assert chromium.value("document.querySelector('tr.hit button').dataset.id") == row


def test_odd_addresses_show_the_whole_board(rows, chromium, tmp_path):
    (tmp_path / "index.html").write_text(page(on_page(rows)))
    for odd in ("#sort=constructor,-__proto__,,-&cols=x,toString&page=-3&row=%00", "#%%%", "#page=1e9&q=" + "x" * 999):
        chromium.open((tmp_path / "index.html").as_uri() + odd)
        assert chromium.value("document.querySelectorAll('#body tr').length") >= 1 and chromium.said == []


def test_nothing_to_show_is_said(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert _cli.main(["leaderboard", "build", str(tmp_path / "empty"), "--out", str(tmp_path / "site")]) == 2
    assert "is no run folder and no board" in capsys.readouterr().err


def test_the_rows_of_the_page_are_those_of_its_csv(site):
    data = json.loads(re.search(r'id="data">(.*?)</script>', (site / "index.html").read_text(), re.DOTALL)[1])
    made = pd.DataFrame(data["rows"], columns=data["fields"])
    saved = pd.read_csv(site / "leaderboard.csv")
    assert made["id"].tolist() == saved["id"].tolist()
    assert made["score"].to_numpy(float) == pytest.approx(saved["score"].to_numpy(float), rel=1e-5, nan_ok=True)
