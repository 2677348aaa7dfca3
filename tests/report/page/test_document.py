"""A page is one file that needs no other, and whatever it is told it only shows."""

from html.parser import HTMLParser

import pytest

from deepseg.report.page.document import Section, write_page
from deepseg.report.page.markup import data_block, element, joined, pairs, table

HOSTILE = "<script>alert('a')</script> & \"b\""


class Elements(HTMLParser):
    """Tags in their order, and the text outside of scripts and styles."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text, self.open = [], [], "", []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += attributes
        if tag not in ("meta", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text += data


@pytest.fixture
def page(tmp_path):
    sections = [
        Section("First part", table(["case", "Dice"], [[HOSTILE, 0.5], ["b", None]])),
        Section("Second part", joined([pairs({HOSTILE: HOSTILE}), data_block({"a": HOSTILE})])),
    ]
    write_page(tmp_path / "page.html", HOSTILE, HOSTILE, sections)
    return (tmp_path / "page.html").read_text("utf-8")


def test_names_are_shown_and_not_obeyed(page):
    elements = Elements()
    elements.feed(page)
    assert elements.open == []
    assert elements.tags.count("script") == 2  # the data, and the page's own
    assert elements.text.count(HOSTILE) == 6  # title twice, subtitle, a cell and a pair


def test_nothing_is_fetched_from_anywhere(page):
    assert "default-src 'none'" in page
    elements = Elements()
    elements.feed(page)
    assert {"link", "img", "iframe"}.isdisjoint(elements.tags)
    assert {value for name, value in elements.attributes if name in ("src", "href")} == {
        "#first-part",
        "#second-part",
    }


def test_cells_are_sorted_by_the_value_and_not_by_its_digits():
    text = table(["a"], [[0.123456789], [None]]).text
    assert '<td class="number" data-value="0.123456789">0.123</td>' in text
    assert '<td class="number" data-value="">\N{EN DASH}</td>' in text


def test_an_attribute_cannot_be_left():
    assert element("p", id='a"><b>').text == '<p id="a&quot;&gt;&lt;b&gt;"></p>'
