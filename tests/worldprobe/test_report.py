import base64
import csv
import gzip
import hashlib
import io
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from tasks import LabelledPrompts
from tasks._study import Read, Reading
from tests.worldprobe import browser
from tests.worldprobe.payloads import PAYLOADS
from worldprobe._csv import unguarded
from worldprobe._report import Exhibit, Section, Table, write_report
from worldprobe._sections import effect_section, headline, probe_section
from worldprobe._study_items import items_part
from worldprobe._verdicts import verdicts

VOID = {"meta", "link", "img", "br", "hr", "input"}
HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>"
CIRCLE = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9"><circle r="3"{}/>{}</svg>'


class Page(HTMLParser):
    """Tags in order with their attributes and whether every tag that opens is closed."""

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, name: str) -> list[dict]:
        return [attributes for tag, attributes in self.tags if tag == name]


def write(table: pd.DataFrame, path, **more) -> str:
    settings = dict(
        title="Othello", summary="A model made up for the test.", verdicts=verdicts(table, "mine_theirs"),
        numbers=headline(table, "mine_theirs"),
        checks=[
            {"id": 1, "what": "majority", "paper": "61.8 %", "ours": 0.618, "pass_mark": "± 0.5", "pass": True},
            {"id": 10, "what": "flip", "paper": "0.10", "ours": 0.33, "ci_low": 0.29, "ci_high": 0.37, "pass": False},
        ],
        sections=[probe_section(table, "mine_theirs", against="black_white", positions="ply",
                                subsets=("occupied", "flipped_once"), groups="games"),
                  effect_section(table, groups="opening groups")],
        run=dict(command="worldprobe run othello", versions=dict(torch="2"), seeds=dict(seed=0), citation="@misc{}"),
    )
    return write_report(path / "report.html", **settings | more).read_text()


@pytest.fixture(scope="module")
def html(table, tmp_path_factory) -> str:
    return write(table, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(html) -> Page:
    return Page(html)


def test_the_page_parses_and_its_ids_are_unique(page):
    assert page.open == []
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert {a["href"][1:] for a in page.all("a") if a["href"].startswith("#")} <= set(ids)


def test_the_policy_forbids_everything_but_inline_style_data_images_and_the_script_of_the_page(html, page):
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    (script,) = re.findall("<script>(.*?)</script>", html, re.DOTALL)
    own = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy == (f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{own}'; img-src data:; "
                      "base-uri 'none'; form-action 'none'")
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\b|fetch\(|XMLHttp|import", script)


def test_the_page_loads_nothing_and_runs_nothing_else(html, page):
    assert page.all("script") == [{}]
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "srcset", "poster", "action"):
                assert value.startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)|@import", html)
    assert len(html) < 5_000_000


def test_it_reads_is_used_is_enough(page):
    said = " ".join(" ".join(page.text).split())
    for word, state in (("reads", "yes"), ("is used", "not tested"), ("is enough", "yes")):
        assert re.search(rf"\b{word}\s+{state}\b", said)


def test_verdicts_of_several_labels_stand_under_their_names(table, tmp_path):
    words = verdicts(table, "mine_theirs")
    path = write_report(tmp_path / "r.html", title="two", verdicts={"discs": words, "colours": words[:1]})
    assert re.findall(r'<p class="of">(\w+)</p>|<span class="word">([\w ]+)</span>', path.read_text()) == [
        ("discs", ""), *(("", v.word) for v in words), ("colours", ""), ("", "reads")]


def test_every_main_number_has_its_interval(html, table):
    rows = re.findall(r"<dd><strong>([^<]+)</strong> <span class=\"interval\">(.*?)</span>", html)
    assert len(rows) == len(headline(table, "mine_theirs")) >= 10
    assert all(re.fullmatch(r"\[-?\d\S*, -?\d\S*\]", interval) for _, interval in rows)


def test_every_cell_of_a_score_has_its_interval(page, html):
    for body in re.findall(r'id="s1-t\d".*?</table>', html, flags=re.DOTALL):
        cells = re.findall(r"<td>(.*?)</td>", body)
        assert cells and all(re.fullmatch(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]|–", c) for c in cells)


def test_a_number_without_an_interval_is_refused(tmp_path):
    bare = pd.DataFrame([dict(what="accuracy", value=0.9, ci_low=None, ci_high=None)])
    with pytest.raises(ValueError, match="'accuracy' needs its interval"):
        write_report(tmp_path / "r.html", title="Othello", numbers=bare)
    assert list(tmp_path.iterdir()) == []


def unpacked(button: dict) -> str:
    """The file that a button saves."""
    return gzip.decompress(base64.b64decode(button["data-gzip"])).decode()


def test_every_figure_comes_as_svg_and_its_data_as_csv(page, table):
    buttons = [a for a in page.all("button") if "data-gzip" in a]
    figures = [a for a in buttons if a["data-name"].endswith(".svg")]
    assert len(figures) == len(page.all("figure")) == 11
    for button in buttons:
        if button in figures:
            assert unpacked(button).lstrip().startswith("<?xml") and "var(--" not in unpacked(button)
        else:
            assert len(pd.read_csv(io.StringIO(unpacked(button)))) > 0
    data = next(a for a in buttons if a["data-name"] == "accuracy-by-layer-mine-theirs.csv")
    assert list(pd.read_csv(io.StringIO(unpacked(data))).columns) == list(table.columns)


def test_a_report_of_a_large_table_stays_small(table, tmp_path):
    """Thirty tables, each with all its rows behind it: the report of a whole study has fifty."""
    rng = np.random.default_rng(0)
    rows = pd.concat([table] * 3, ignore_index=True)
    parts = []
    for i in range(30):
        value = rng.uniform(size=len(rows))
        data = rows.assign(value=value, ci_low=value - 0.01, ci_high=value + 0.01, revision=f"step {i}")
        parts.append(Section(f"part {i}", tables=[Table("rows", data.head(3)[["label", "value"]], data=data)]))
    html = write_report(tmp_path / "r.html", title="large", sections=parts).read_text()
    files = [unpacked(a) for a in Page(html).all("button")]
    assert len(files) == 30 and all(len(f.splitlines()) == len(rows) + 1 for f in files)
    assert sum(map(len, files)) > 10_000_000 and len(html) < 5_000_000  # as base64 they alone were 13 MB


def test_the_files_of_a_report_are_saved_without_a_network(html, table, tmp_path_factory):
    if browser.FOUND is None:
        pytest.skip("no chromium here to open the page in")
    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text(html)
    chromium = browser.Browser(folder / "profile")
    try:
        chromium.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=-1,
                      uploadThroughput=-1)
        chromium.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder / "saved"))
        chromium.open((folder / "report.html").as_uri())
        assert chromium.value("getComputedStyle(document.querySelector('.unsaved')).display") == "none"
        for name in ("accuracy-by-layer-mine-theirs.svg", "accuracy-by-layer-mine-theirs.csv"):
            chromium.value(f"document.querySelector('[data-name=\"{name}\"]').focus()")
            chromium.press("Enter")
            file = folder / "saved" / name
            for _ in range(500):
                if file.exists() and file.stat().st_size:
                    break
                chromium.value("new Promise(r => setTimeout(r, 10))")
            button = next(a for a in Page(html).all("button") if a.get("data-name") == name)
            assert file.read_bytes().decode() == unpacked(button)
        assert [r for r in chromium.requests if not r.startswith(("file:", "blob:", "data:"))] == []
        assert chromium.said == []
        chromium.call("Emulation.setScriptExecutionDisabled", value=True)
        chromium.open((folder / "report.html").as_uri())  # which asks the page, and is answered all the same
        assert chromium.value("getComputedStyle(document.querySelector('.files')).display") == "none"
    finally:
        chromium.close()


def test_every_figure_says_what_is_seen_on_how_many_cases_and_what_the_interval_is(html):
    captions = re.findall(r"<figcaption>\s*<p id[^>]*>(.*?)</p>", html, flags=re.DOTALL)
    assert len(captions) == 11
    for caption in captions:
        assert "n\u00a0=\u00a0" in caption and "interval" in caption


def test_scrolling_boxes_can_be_reached_with_the_keyboard(page):
    boxes = [a for a in page.all("div") if a.get("class") == "scroll"]
    assert boxes and all(a["tabindex"] == "0" and a.get("aria-labelledby") for a in boxes)


def test_text_from_results_stays_text(table, tmp_path):
    odd = table.assign(label=table["label"].replace("mine_theirs", HOSTILE))
    odd["probe"] = odd["probe"].replace("logistic", HOSTILE)
    html = write(table, tmp_path, title=HOSTILE, summary=HOSTILE, verdicts=verdicts(odd, HOSTILE),
                 numbers=headline(odd, HOSTILE), sections=[probe_section(odd, HOSTILE)],
                 run={HOSTILE: {HOSTILE: HOSTILE}, "command": HOSTILE},
                 checks=[{"id": HOSTILE, "what": HOSTILE, "paper": HOSTILE, "ours": HOSTILE, "pass": True}])
    page = Page(html)
    assert page.all("script") == [{}] and page.all("img") == []
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert html.count("&lt;script&gt;") > 20


def test_without_interventions_the_report_says_what_is_missing(make_table, tmp_path):
    table = make_table(effects=False)
    html = write(table, tmp_path)
    assert "No intervention was run" in html and "may be causally inert" in html
    assert html.count("<figure") == 3


def test_without_probes_the_report_says_so(table, tmp_path):
    effects = table[table["intervention"].notna()]
    html = write(effects, tmp_path)
    assert "No probe of mine_theirs was scored" in html


def test_an_empty_report_is_a_page(tmp_path):
    page = Page(write_report(tmp_path / "deep" / "r.html", title="Nothing").read_text())
    assert page.open == [] and page.all("figure") == []


@pytest.mark.parametrize("attribute, element", [
    (' onload="alert(1)"', ""), ("", "<script>1</script>"), ("", '<image href="https://example.org/x.png"/>'),
    (' style="fill:url(https://example.org/#a)"', ""), ("", "<foreignObject/>"), ("", '<a href="#x">x</a>'),
])
def test_a_picture_that_is_more_than_a_picture_is_refused(tmp_path, attribute, element):
    picture = CIRCLE.format(attribute, element)
    with pytest.raises(ValueError, match="must only draw"):
        write_report(tmp_path / "r.html", title="t", sections=[Section("s", "", [Exhibit("e", picture, "c")])])


def test_markup_hidden_from_the_xml_reader_is_written_as_text(tmp_path):
    picture = CIRCLE.format("", "<title><![CDATA[><script>alert(1)</script>]]></title>")
    section = Section("s", "", [Exhibit("e", picture, "c")])
    html = write_report(tmp_path / "r.html", title="t", sections=[section]).read_text()
    assert Page(html).all("script") == [{}]


def test_sections_of_any_task_make_a_report(tmp_path):
    shown = pd.DataFrame({"city": ["Oslo"], "error in km": ["12.000 [10.000, 14.000]"]})
    cities = Exhibit("Map", CIRCLE.format("", ""), "One city.", shown)
    section = Section("Maps", ["Where the model puts cities."], [cities], [Table("Cities", shown)])
    page = Page(write_report(tmp_path / "r.html", title="Places", sections=[section]).read_text())
    assert "Oslo" in page.text and len(page.all("figure")) == 1


def test_no_payload_is_live_among_the_examples(tmp_path):
    """In the words of prompts, in groups, labels, targets, classes and the names of readings."""
    n = len(PAYLOADS)
    rng = np.random.default_rng(0)
    places = {f"x/{PAYLOADS[i]}": rng.integers(2, size=n) for i in (0, 41, 77, 120)}
    table = pd.DataFrame({"prompt": np.arange(n), "pos": 1, "group": PAYLOADS, "split": "test", **places})
    prompts = LabelledPrompts("none", torch.stack([torch.arange(n), torch.arange(n).flip(0)], 1),
                              torch.full((n,), 2), table, {"x": (PAYLOADS[3], PAYLOADS[9])}, vocabulary=tuple(PAYLOADS))
    read = Read(prompts, np.arange(n), rng.random((n, 4)), PAYLOADS[14])
    reading = Reading(PAYLOADS[1], "x", PAYLOADS[2], lambda n, seed: prompts)
    done = SimpleNamespace(study=SimpleNamespace(draws=None),
                           found=SimpleNamespace(readings={reading.name: read}, network=None))
    part = items_part(done, reading)
    html = write_report(tmp_path / "r.html", title="t", sections=[part]).read_text()
    page = Page(html)
    assert page.all("script") == [{}]
    assert not any(page.all(tag) for tag in ("img", "iframe", "form", "object", "base"))
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    (button,) = [a for a in page.all("button") if a["data-name"].endswith(".csv")]
    saved = list(csv.DictReader(io.StringIO(unpacked(button), newline="")))
    assert {unguarded(row["group"]) for row in saved} == set(PAYLOADS)
    assert not any(re.match(r"[=+\-@|%]", cell) for row in saved for cell in (row["group"], row["text"]))
