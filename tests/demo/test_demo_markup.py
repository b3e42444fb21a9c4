"""Whatever a stranger called a file, a page shows it as text."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from hat.console import share_text
from hat.demo.pages.gallery import _bars
from hat.demo.pages.search import _match_metadata, _summary
from hat.demo.ranking import Outcome, QueryImage, SearchOptions
from hat.demo.view.markup import MAX_TEXT, Cell, data_uri, escaped, fragments, jpeg_bytes, last_part, plural
from hat.serve import Record
from hat.serve.search.searching import Match

VIEW, RECORDS, PIECES = fragments("search"), fragments("gallery"), fragments("components")

HOSTILE = [
    "<script>alert(1)</script>.jpg",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "${alert(1)} {{constructor}} `x`",
    "</button></li></ol><iframe src=//evil>",
    "a\u202egpj.exe\x00\x1b[31m",
    "&lt;b&gt;",
]


class Reader(HTMLParser):
    """Tags, attributes and text of a piece of HTML, as a browser would see them."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.text, self.depth = [], [], "", []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, *one) for one in attributes]
        if tag not in ("img", "path", "rect", "br"):
            self.depth.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)

    def handle_endtag(self, tag):
        assert self.depth and self.depth.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data):
        self.text += data


def picture(size=(32, 64)):
    return jpeg_bytes(Image.new("RGB", size, (200, 30, 30)))


def record(number=1, **fields):
    fields = {"source": "a.jpg", "content_hash": f"{number:064x}", **fields}
    return Record(id=number, enrolled_s=0.0, **fields)


def outcome(*matches, query_pid=None, rerank_s=None):
    seconds = {"decode": 0.0012, "embed": 0.2345, "search": 0.0004} | ({} if rerank_s is None else {"re-rank": rerank_s})
    return Outcome("people", matches, seconds, 20, SearchOptions(query_pid=query_pid))


def words(markup):
    """Its text, as a reader sees it."""
    return " ".join(Reader(markup).text.split())


def cards(all_records, marked=(), *, can_mark=True):
    return RECORDS.records(all_records, set(marked), can_mark, "1 to 2", 1, 3)


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_is_text_wherever_it_is_shown(name):
    hostile = record(source=name, attributes={name: name}, pid=3, camid=1, thumbnail=picture())
    found = outcome(Match(record=hostile, similarity=0.5), query_pid=3)
    query = QueryImage(name, Image.new("RGB", (4, 8)), picture(), np.zeros(2, np.float32), 0.0, 0.0)
    plain = record(source="plain.jpg", attributes={"plain": "plain"}, pid=3, camid=1, thumbnail=picture())
    harmless = outcome(Match(record=plain, similarity=0.5), query_pid=3)
    tame = QueryImage("plain.jpg", query.image, query.picture, query.embedding, 0.0, 0.0)
    pieces = [
        (VIEW.matches(found, 0), VIEW.matches(harmless, 0)),
        (VIEW.details(_match_metadata(found, 0, "")), VIEW.details(_match_metadata(harmless, 0, ""))),
        (VIEW.tiles([query]), VIEW.tiles([tame])),
        *((cards([hostile], can_mark=can), cards([plain], can_mark=can)) for can in (True, False)),
        (PIECES.bars(name, *_bars({name: 2})), PIECES.bars("plain", *_bars({"plain": 2}))),
        (PIECES.table([name], [[Cell(name, name)]], name, 0), PIECES.table(["a"], [[Cell("a", "a")]], "a", 0)),
        (RECORDS.enrollment(name, "bad", [(name, name)], 0), RECORDS.enrollment("a", "bad", [("a", "a")], 0)),
        (PIECES.empty(name, caller=lambda: name), PIECES.empty("a", caller=lambda: "a")),
    ]
    for given, expected in pieces:
        read, wanted = Reader(given), Reader(expected)
        assert read.tags == wanted.tags and read.depth == []
        assert [one[:2] for one in read.attributes] == [one[:2] for one in wanted.attributes]
        assert not any(sign in given for sign in ("${", "{{", "`"))


def test_texts_read_as_they_were_and_are_of_bounded_length():
    assert Reader(f"<p>{escaped(HOSTILE[0])}</p>").text == HOSTILE[0]
    assert Reader(f'<p title="{escaped(HOSTILE[1])}"></p>').attributes == [("p", "title", HOSTILE[1])]
    assert escaped("\x00\x1b\u202e") == "   "
    assert len(escaped("x" * 10_000)) == MAX_TEXT and escaped("x" * 10_000).endswith("…")
    sources = {"a/b/c.jpg": "c.jpg", "c.jpg": "c.jpg", "C:\\x\\c.jpg": "c.jpg", "a/b/": "b", "/": "/"}
    assert {source: last_part(source) for source in sources} == sources
    assert [plural(n, "image") for n in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]
    assert plural(2, "query", "queries") == "2 queries"


def test_a_picture_keeps_its_proportions_and_is_made_smaller_only():
    tall = Image.open(io.BytesIO(jpeg_bytes(Image.new("RGB", (300, 900)), max_height=256)))
    assert tall.size == (85, 256)
    assert Image.open(io.BytesIO(jpeg_bytes(Image.new("RGB", (10, 20))))).size == (10, 20)
    assert base64.b64decode(data_uri(picture()).partition(",")[2]) == picture()


def test_matches_are_right_or_wrong_where_both_identities_are_known():
    matches = [Match(record=record(n, pid=pid), similarity=1 - n / 10) for n, pid in enumerate([4, 5, None], start=1)]
    framed = VIEW.matches(outcome(*matches, query_pid=4), 0).split("<li>")[1:]
    assert ["hat-right" in one for one in framed] == [True, False, False]
    assert ["hat-wrong" in one for one in framed] == [False, True, False]
    assert [re.findall(">(right|wrong)<", one) for one in framed] == [["right"], ["wrong"], []]
    unframed = VIEW.matches(outcome(*matches), 0)
    assert "hat-right" not in unframed and "hat-wrong" not in unframed


def test_moves_of_re_ranking_are_told():
    fields = [({"pid": 4}, 0.5, 3), ({"pid": 4}, 0.6, 1), ({}, 0.4, 9), ({}, 0.3, 4)]
    matches = [
        Match(record=record(n, **who), similarity=found, distance=n / 10, rank_before=rank)
        for n, (who, found, rank) in enumerate(fields, start=1)
    ]
    shown = VIEW.matches(outcome(*matches, rerank_s=0.01), 0).split("<li>")[1:]
    moves = [re.findall(r">((?:up|down) from rank \d+)<", card) for card in shown]
    assert moves == [["up from rank 3"], ["down from rank 1"], ["up from rank 9"], []]
    assert "▲ 2" in shown[0] and "▼ 1" in shown[1] and "▲ 6" in shown[2]
    summary = words(_summary(outcome(*matches, query_pid=4, rerank_s=0.05)))
    assert summary.startswith("4 nearest images of 20 · 2 of 4 show person 4 · re-ranking moved 3 of 4, 1 from below the list")
    assert summary.endswith("decode1.2 msembed234 mssearch0.4 msre-rank50 ms")
    assert words(_summary(outcome(*matches))).endswith("20 decode1.2 msembed234 mssearch0.4 ms")


def test_percentages_are_written_without_an_exponent():
    shown = {1.0: "100 %", 0.995: "99.5 %", 0.6: "60 %", 0.0999: "9.99 %", 0.0123: "1.23 %", 1.4e-7: "0.000014 %", 0.0: "0 %"}
    assert {rate: share_text(rate) for rate in shown} == shown


def test_cards_say_what_they_are_and_tables_are_whole():
    read = Reader(VIEW.matches(outcome(Match(record=record(), similarity=0.1)), 0))
    labels = [value for _, name, value in read.attributes if name == "aria-label"]
    assert labels == ["Rank 1: unknown person, unknown camera; no picture is kept"]
    read = Reader(cards([record(1), record(2)], {2}))
    assert [value for _, name, value in read.attributes if name == "aria-pressed"] == ["false", "true"]
    assert not any(value == "select" for _, _, value in Reader(cards([record(1)], {1}, can_mark=False)).attributes)
    read = Reader(PIECES.table(["a", "b"], [[Cell("1"), Cell("2")]], "Two numbers", 1))
    assert read.tags.count("td") == 2 and ("td", "class", "hat-number") in read.attributes and read.depth == []
