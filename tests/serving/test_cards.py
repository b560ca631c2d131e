"""Model card and technical file: whole, of the record alone, offline; what others wrote stays text."""

from __future__ import annotations

import base64
import html
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pipeline.refs import Approval
from serving.cards import cards, short
from serving.changes import changes
from serving.markdown import escape
from tests.serving.full_record import full_record

DOCUMENTS = ("model_card", "technical_file")
HOSTILE = (
    "<script>alert(1)</script>",
    "</td></tr></table><img src=x onerror=alert(1)>",
    "[click](javascript:alert(1)) ![x](http://evil.example/x.png)",
    "a | b | c\n|---|---|\n| d | e |",
    "# heading\n\n- list\n\n> quote\n\n```\ncode\n```\n\n---",
    "**bold** _thin_ `code` ~~gone~~ $x$ \\*",
    "{{ record.run }} {% raw %} &lt;b&gt; &#60;b&#62;",
    "<!-- --> <![CDATA[ ]]> <?php ?>",
    "1. one\u2028==\r\n\t    indented\x00\u202etxet",
    "[a]: http://evil.example 'b'",
    "http://evil.example <http://evil.example> me@evil.example",
)
LENIENT = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])  # a renderer that takes HTML


class Outline(HTMLParser):
    """The tags of a page, with every attribute but what images hold."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[object] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, [pair for pair in attrs if not (tag == "img" and pair[0] == "src")]))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", data))

    def handle_decl(self, decl: str) -> None:
        self.tags.append(("declaration", decl))

    def handle_pi(self, data: str) -> None:
        self.tags.append(("instruction", data))


def outline(page: str) -> Outline:
    found = Outline()
    found.feed(page)
    found.close()
    return found


@pytest.fixture(scope="module")
def plain() -> dict[str, str]:
    return cards(full_record("plain"), full_record("plain", 1, signer="another"))


@pytest.mark.parametrize("text", HOSTILE)
def test_what_others_wrote_breaks_out_of_nothing(plain: dict[str, str], text: str) -> None:
    made = cards(full_record(text), full_record(text, 1, signer="another"))
    for name in DOCUMENTS:
        assert outline(made[f"{name}.html"]).tags == outline(plain[f"{name}.html"]).tags
        assert outline(LENIENT.render(made[f"{name}.md"])).tags == outline(LENIENT.render(plain[f"{name}.md"])).tags
        assert len(made[f"{name}.md"].splitlines()) == len(plain[f"{name}.md"].splitlines())
    for name, drawing in made.items():
        if name.startswith("plots/"):
            ET.fromstring(drawing)
    few = short(full_record(text))
    assert outline(LENIENT.render(few)).tags == outline(LENIENT.render(short(full_record("plain")))).tags


@settings(max_examples=300, deadline=None)
@given(text=st.text(alphabet=st.sampled_from("ab1 \n\t`*_~[]()<>!|\\#-+=.&;:'\"$^@/ü\u202e"), max_size=40))
def test_escaped_text_reads_as_it_was_written(text: str) -> None:
    seen = " ".join(re.sub(r"[\x00-\x1f\u202e]+", " ", text).split())
    for before, after in (("", ""), ("- ", ""), ("| h |\n|---|\n| ", " |"), ("**bold** ", "\n\nmore"), ("more\n", "")):
        found, bare = (
            outline(LENIENT.render(before + escape(text) + after)),
            outline(LENIENT.render(before + "x" + after)),
        )
        if not seen:
            continue
        assert found.tags == bare.tags
        assert "".join(found.text).replace("\n", "") == "".join(bare.text).replace("x", seen, 1).replace("\n", "")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_page_asks_nothing_of_a_network(plain: dict[str, str], name: str) -> None:
    page = plain[f"{name}.html"]
    assert "default-src 'none'" in page
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert {link for link in links if not link.startswith("data:image/svg+xml;base64,")} <= {"technical_file.html"}
    assert not re.search(r"<(script|link|iframe|object)\b|@import|url\(", page)
    drawings = [base64.b64decode(link.partition(",")[2]) for link in links if link.startswith("data:")]
    assert len(drawings) == 2  # calibration, slices
    for drawing in drawings:
        assert ET.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"
        assert drawing.decode() in plain.values()
    assert all(f"]({key})" in plain[f"{name}.md"] for key in plain if key.startswith("plots/"))


def test_the_technical_file_has_every_point_of_the_annex(plain: dict[str, str]) -> None:
    headings = re.findall(r"^(##+) (\S+)", plain["technical_file.md"], re.MULTILINE)
    found, point = set(), ""
    for level, mark in headings:
        point = mark.rstrip(".") if level == "##" else point
        found.add(point + (mark if level == "###" else ""))
    letters = {"1": "abcdefgh", "2": "abcdefgh"}
    wanted = {str(number) for number in range(1, 10)} | {f"{at}({one})" for at in letters for one in letters[at]}
    assert found == wanted


def test_a_card_says_what_the_record_says() -> None:
    record = full_record("plain", approval=Approval(approved=True, by="Ada", at="", via="airflow", note="looks well"))
    made = cards(record, None)
    card, file = (html.unescape(made[f"{name}.md"]).replace("\\", "") for name in DOCUMENTS)
    for text in ("0.8125", "waived", "plain. until 2026-12-24", "by airflow: looks well", "a" * 64, "c" * 64, "1,200"):
        assert text in card, text
        assert text in file, text
    assert "Ada on 2026-11-25T07:59:00+00:00" in file
    assert "No earlier version has served; the ledger's entries before this one" in file
    first = cards(record.model_copy(update={"before": None}), None)
    assert "There is no record of an earlier version." in first["technical_file.md"]
    assert "What each serving process (1) said of itself" in file
    assert "roc_auc at least 0.7" in card
    assert "To be added by the provider" in card


def test_a_record_of_which_little_is_known_makes_cards_too() -> None:
    nothing: dict[str, object] = dict.fromkeys(
        ("spec", "dataset", "checks", "evaluation", "gates", "approval", "serving", "mlflow_run", "previous", "before")
    )
    made = cards(full_record("plain", **nothing, models=(), onnx=(), libraries={}), None)
    for name in DOCUMENTS:
        assert "None" not in made[f"{name}.md"]
        assert len(outline(made[f"{name}.html"]).tags) > 30
    assert short(full_record("plain", **nothing)).startswith("**record**")


def test_changes_are_found_and_nothing_else() -> None:
    old, new = full_record("plain", 1), full_record("plain", 2, libraries={"xgboost": "3.3.0", "onnx": "1.23"})
    score = old.evaluation.scores[0].model_copy(update={"metrics": {"roc_auc": 0.9, "log_loss": 0.4375}})
    new = new.model_copy(update={"evaluation": new.evaluation.model_copy(update={"scores": (score,)})})
    candidate = new.spec.candidates[0].model_copy(update={"trials": 9})
    new = new.model_copy(update={"spec": new.spec.model_copy(update={"candidates": (candidate,)})})
    assert [(one.area, one.what, one.before, one.after) for one in changes(old, new)] == [
        ("spec", "candidates.xgboost.trials", "4", "9"),
        ("metrics", "roc_auc", "0.8125", "0.9"),
        ("libraries", "xgboost", "3.2.0", "3.3.0"),
        ("libraries", "slipway", "0.1.0", ""),
        ("libraries", "onnx", "", "1.23"),
    ]
    assert changes(old, old) == ()
    assert "candidates.xgboost.trials | 4 | 9" in cards(new, old)["technical_file.md"]
    assert "Nothing but the run." in cards(full_record("plain", 2), full_record("plain", 1))["technical_file.md"]


def test_many_columns_are_cut_and_said() -> None:
    from pipeline.columns import Column

    record = full_record("plain")
    schema = record.dataset.row_schema
    wide = schema.model_copy(update={"columns": tuple(Column(name=f"c{at}", kind="number") for at in range(1000))})
    data = record.dataset.model_copy(update={"row_schema": wide})
    made = cards(record.model_copy(update={"dataset": data}), None)
    assert "1,000 columns of kind number: c0, c1," in made["model_card.md"]
    assert "c199 and 800 more, which `record.json` names" in made["model_card.md"].replace(",\n", "")
    assert "800 more columns are in `record.json`" in made["technical_file.md"]
    assert "`numeric` with 1,000 columns" in made["technical_file.md"]
