import csv
import html
import io
import json
import re
import unicodedata
from pathlib import Path

import huggingface_hub
import jsonschema
import pandas as pd
import pytest
import yaml
from markdown_it import MarkdownIt

from probing._result_files import read_results, write_results
from probing._results import COLUMNS, ResultsError
from tests.worldprobe.board_table import toy_table
from tests.worldprobe.payloads import PAYLOADS
from worldprobe import _cite, _cli
from worldprobe._board_rows import TEXT, board_rows
from worldprobe._csv import csv_text, guarded, read_csv, unguarded
from worldprobe._eval_results import eval_results
from worldprobe._every_eval_ever import records
from worldprobe._export import FORMATS, export
from worldprobe._latex import escaped, latex_table
from worldprobe._markdown import escaped as in_markdown
from worldprobe._markdown import markdown_table
from worldprobe._terminal import plain

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((Path(__file__).with_name("every_eval_ever") / "eval.schema.json").read_text())
METADATA = {"command": ["worldprobe", "run", "toy"], "versions": {"worldprobe": "0.1.0"}}
TEXTS = [c for c, (kind, _) in COLUMNS.items() if kind == "str"]


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return toy_table()


@pytest.fixture(scope="module")
def rows(table) -> pd.DataFrame:
    return board_rows(table)


@pytest.fixture(scope="module")
def hostile(rows) -> pd.DataFrame:
    """A board whose every text is a payload, and every payload in every column of text."""
    many = pd.concat([rows] * -(-len(PAYLOADS) // len(rows)), ignore_index=True).iloc[: len(PAYLOADS)]
    shifted = {c: [PAYLOADS[(i + 7 * k) % len(PAYLOADS)] for i in range(len(many))] for k, c in enumerate(TEXT)}
    return many.assign(**shifted, score=0.9, effect=0.5, control=0.7)


@pytest.fixture
def run(table, tmp_path) -> Path:
    write_results(table, tmp_path / "results.parquet", METADATA)
    return tmp_path


def test_there_are_two_hundred_payloads():
    assert len(PAYLOADS) >= 200


@pytest.mark.parametrize(("name", "read"), [("parquet", lambda f: read_results(f)[0]), ("csv", read_csv),
                                            ("json", lambda f: read_results(f)[0])])
def test_what_is_exported_comes_back_equal(run, table, name, read):
    (file,) = export(run, [name], run / "out")
    pd.testing.assert_frame_equal(read(file), table)


def test_every_format_is_written_and_named(run):
    files = export(run, FORMATS)
    assert all(file.is_file() and file.is_relative_to(run / "export") for file in files)
    assert [f.name for f in files[:5]] == ["results.csv", "results.parquet", "results.json", "table.tex", "table.md"]
    assert {f.suffix for f in files[5:]} == {".json", ".yaml"}


def test_a_table_without_its_controls_cannot_be_exported(run, table):
    head = json.loads((run / "results.json").read_text())
    (run / "results.parquet").unlink()
    head["rows"] = [row for row in head["rows"] if row.get("control") != "shuffled_labels"]
    (run / "results.json").write_text(json.dumps(head))
    with pytest.raises(ResultsError, match="was edited"):
        export(run, ["csv"])
    assert not (run / "export").exists()


def test_csv_keeps_every_payload_and_runs_none_in_any_column(table):
    many = pd.concat([table] * 2, ignore_index=True).iloc[: len(PAYLOADS)]
    for column in TEXTS:
        text = csv_text(many.assign(**{column: pd.Series(PAYLOADS[: len(many)], dtype="str")}))
        cells = list(csv.reader(io.StringIO(text, newline="")))[1:]
        at = list(COLUMNS).index(column)
        for payload, cell in zip(PAYLOADS, (line[at] for line in cells), strict=False):
            assert unguarded(cell) == payload
            assert not re.match(r"[\s\x00-\x20\u200b\ufeff]*[=+\-@|%\uff1d\uff0b\uff0d\uff20]", cell)


def test_csv_gives_back_text_that_looks_guarded_empty_or_missing(table, tmp_path):
    texts = ["'", "''", "'=1", "=1", "", "-1", "1", "nan", "x\ny", 'a"b', "\r"]
    odd = table.iloc[: len(texts)].assign(positions=pd.Series([*texts[:-1], None], dtype="str")).reset_index(drop=True)
    file = tmp_path / "odd.csv"
    file.write_bytes(csv_text(odd).encode())
    pd.testing.assert_frame_equal(read_csv(file), odd)


def test_a_guard_is_taken_away_exactly_once():
    for text in [*PAYLOADS, *map(guarded, PAYLOADS)]:
        assert unguarded(guarded(text)) == text


@pytest.mark.parametrize("text", ["", "task,x\n1,2\n", "task\n\"a\n", "task,n\n\"a\",x\n", "task,n\n\"a\"\n"])
def test_csv_that_is_no_table_is_refused(tmp_path, text):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(ResultsError, match="x.csv"):
        read_csv(tmp_path / "x.csv")


def test_latex_has_booktabs_columns_of_numbers_and_intervals(rows):
    text = latex_table(rows)
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule"))
    assert "S[table-format=1.3]@{\\;}l" in text and r"0.950 & {[\num{0.940}, \num{0.960}]}" in text
    assert "task: toy, model: toy-1" in text  # what all rows share is in the caption
    layout = re.search(r"\\begin\{tabular\}\{@\{\}(.*)@\{\}\}", text)[1]
    n = len(re.findall(r"l|S\[[^]]*\]", layout.replace(r"\;", "")))
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(rows) and all(len(re.findall(r"(?<!\\)&", line)) == n - 1 for line in body)


def test_no_payload_is_live_in_latex(hostile):
    for payload in PAYLOADS:
        rest = re.sub(r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar|char34|"
                      r"textasciigrave|textquotesingle)\{\}|\\[{}$&#_%]", "", escaped(payload))
        assert not re.search(r"[\\{}$&#_%~^\n\r\x00-\x1f]", rest), payload
    text = latex_table(hostile)
    body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0].strip().splitlines()
    assert len(body) == len(hostile) and len({len(re.findall(r"(?<!\\)&", line)) for line in body}) == 1
    assert all(line.lstrip().startswith("{") for line in body)  # no [ or * after a line break
    assert set(re.findall(r"\\([A-Za-z]+)", text)) <= {
        "usepackage", "begin", "end", "centering", "small", "caption", "toprule", "midrule", "bottomrule", "num",
        "multicolumn", "textbackslash", "textasciitilde", "textasciicircum", "textless", "textgreater", "textbar",
        "char", "textasciigrave", "textquotesingle"}


def test_no_payload_is_live_in_markdown(hostile):
    source = markdown_table(hostile)
    shown = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(source)
    assert set(re.findall(r"<(\w+)", shown)) <= {"p", "table", "thead", "tbody", "tr", "th", "td"}
    assert shown.count("<tr>") == len(hostile) + 1
    assert not re.search(r"(?<!\\)://|www\.|\bhttps?:/", source)  # what GitHub makes links of


def test_markdown_shows_what_the_text_says():
    for payload in PAYLOADS:
        made = MarkdownIt("commonmark").enable("table").render(f"| a |\n|---|\n| x{in_markdown(payload)}x |\n")
        cell = html.unescape(re.search(r"<td>(.*)</td>", made)[1])
        assert cell.split() == ("x" + plain(re.sub(r"[\n\r\t]", " ", payload)) + "x").split(), payload


def test_a_terminal_obeys_no_payload():
    for payload in PAYLOADS:
        assert not {unicodedata.category(c) for c in plain(payload)} & {"Cc", "Cf", "Zl", "Zp", "Cs"}
    assert plain("Zürich, 東京, Ωμέγα – ½") == "Zürich, 東京, Ωμέγα – ½"


def test_an_error_of_the_command_line_is_safe_to_print(capsys, tmp_path):
    assert _cli.main(["export", str(tmp_path / "\x1b[2J\u202e"), "--to", "csv"]) == 2
    assert "\\x1b[2J\\u202e" in (said := capsys.readouterr().err) and "\x1b" not in said and "Traceback" not in said


def test_records_fit_the_schema_of_every_eval_ever(rows, hostile):
    assert SCHEMA["version"] == "0.3.0"
    checker = jsonschema.Draft7Validator(SCHEMA)
    found = records(rows, METADATA, retrieved=0.0)
    (path, record), = found.items()
    assert re.fullmatch(r"eee/data/toy/unknown/toy-1/[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-"
                        r"[0-9a-f]{12}\.json", path)
    assert list(checker.iter_errors(record)) == []
    read = record["evaluation_results"][0]
    assert read["score_details"]["score"] == 0.95 and read["metric_config"]["metric_id"] == "accuracy"
    assert read["score_details"]["uncertainty"]["confidence_interval"]["lower"] == pytest.approx(0.94)
    assert read["score_details"]["details"]["shortcut"] == "0.7"
    names = [r["evaluation_name"] for r in record["evaluation_results"]]
    assert "toy: write used, mass_mean" in names and len(names) == len(set(names))
    assert records(rows, METADATA, retrieved=0.0) == found
    for path, record in records(hostile, METADATA, retrieved=0.0).items():
        assert list(checker.iter_errors(record)) == []
        assert ".." not in path.split("/") and not path.startswith("/") and len(path.split("/")) == 6


def test_hugging_face_reads_the_evaluation_results(rows, hostile):
    (path, text), = eval_results(rows, METADATA, "org/board").items()
    assert path == "hf/unknown--toy-1/.eval_results/worldprobe-toy.yaml"
    entries = huggingface_hub.parse_eval_result_entries(yaml.safe_load(text))
    assert {e.dataset_id for e in entries} == {"org/board"} and len({e.task_id for e in entries}) == len(entries)
    score = next(e for e in entries if e.task_id == "read-used-logistic")
    assert score.value == 0.95 and "shortcut: rule" in score.notes
    assert huggingface_hub.eval_result_entries_to_yaml(entries) == yaml.safe_load(text)
    for path, text in eval_results(hostile, METADATA).items():
        assert ".." not in path.split("/") and len(path.split("/")) == 4
        huggingface_hub.parse_eval_result_entries(yaml.safe_load(text))
    with pytest.raises(ValueError, match="ORG/NAME, not 'board'"):
        eval_results(rows, METADATA, "board")


def test_the_command_prints_the_files_and_says_what_it_cannot_do(run, capsys):
    assert _cli.main(["export", str(run), "--to", "csv,md", "--out", str(run / "out")]) == 0
    assert capsys.readouterr().out.split() == [str(run / "out" / "results.csv"), str(run / "out" / "table.md")]
    assert _cli.main(["export", str(run / "gone"), "--to", "csv"]) == 2
    assert "there is no" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        _cli.main(["export", str(run), "--to", "csv,xlsx"])
    assert stop.value.code == 2 and "no format 'xlsx'; there are csv, parquet" in capsys.readouterr().err


def test_the_citation_agrees_with_the_citation_file_and_names_the_papers_of_a_run(run, capsys):
    given = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert f"title = {{{given['title']}}}" in _cite.BIBTEX and f"version = {{{given['version']}}}" in _cite.BIBTEX
    assert given["authors"][0]["name"] in _cite.BIBTEX and given["license"] in _cite.BIBTEX
    assert _cli.main(["cite"]) == 0 and capsys.readouterr().out.strip() == _cite.BIBTEX
    assert _cli.main(["cite", str(run)]) == 0
    said = capsys.readouterr().out
    assert "mass_mean: Marks & Tegmark, arXiv:2310.06824" in said and "leace: Belrose et al." in said
    assert "othello" not in said


def test_every_paper_is_one_that_the_code_names():
    files = [f for part in ("tasks", "probing", "interventions") for f in (ROOT / part).rglob("*.py")]
    code = "\n".join(f.read_text() for f in files)
    for papers in _cite.PAPERS.values():
        for paper in papers.split("; "):
            assert paper.rpartition("arXiv:")[2] in code
