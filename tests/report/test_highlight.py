"""Texts with their spans: the text stays as it is, every code point is under the lines of its spans, and nothing acts."""

from __future__ import annotations

from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from kxbatch.report.highlight import AROUND, LANES, MOST, MOST_MARKS, Mark, highlight, window


class Drawn(HTMLParser):
    """What is drawn: each character of the text with the classes and titles around it; labels apart."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.characters: list[tuple[str, list[str], str]] = []
        self.labels: list[str] = []
        self.tags: set[str] = set()
        self._open: list[tuple[str, str, str]] = []
        self.feed(html)
        self.close()
        assert not self._open, "every element is closed"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = dict(attrs)
        self._open.append((tag, found.get("class") or "", found.get("title") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self._open[-1][0] in ("sub", "sup"):
            self.labels.append(data)
            return
        classes = [one for tag, one, _ in self._open if tag == "span" and one]
        titles = "".join(title for _, _, title in self._open)
        self.characters += [(character, classes, titles) for character in data]


TEXT = st.text(st.sampled_from("ab<>&\"' 中é\u0301👩\u200d💻"), min_size=1, max_size=20)


@st.composite
def drawings(draw: st.DrawFn) -> tuple[str, list[Mark]]:
    text = draw(TEXT)
    marks = []
    for number in range(draw(st.integers(0, 8))):
        start = draw(st.integers(0, len(text) - 1))
        end = draw(st.integers(start + 1, len(text)))
        marks.append(Mark(start, end, f"T{number}", f"tone{number}", f"words{number}", draw(st.booleans())))
    return text, marks


@given(drawings())
def test_every_code_point_is_under_the_lines_of_its_spans(drawing: tuple[str, list[Mark]]) -> None:
    text, marks = drawing
    drawn = Drawn(highlight(text, marks))
    assert "".join(character for character, _, _ in drawn.characters) == text
    for at, (_, classes, titles) in enumerate(drawn.characters):
        covering = {mark.tone: mark for mark in marks if mark.start <= at < mark.end}
        assert {one.split()[2] for one in classes} == covering.keys()
        assert all(covering[one.split()[2]].above == one.startswith("above") for one in classes)
        assert set(titles.split("; ")) - {""} == {mark.words for mark in covering.values()}
        sides = [tuple(one.split()[:2]) for one in classes]
        assert len(set(sides)) == len(sides), "no line lies on another one"
    assert sorted(drawn.labels) == sorted(mark.label for mark in marks)


@given(drawings())
def test_inner_lines_are_nearer_to_the_text(drawing: tuple[str, list[Mark]]) -> None:
    text, marks = drawing
    for _, classes, _ in Drawn(highlight(text, marks)).characters:
        found = {mark.tone: mark for mark in marks}
        for side in ("above", "below"):
            lanes = [(int(one.split()[1][1:]), found[one.split()[2]]) for one in classes if one.startswith(side)]
            lengths = [mark.end - mark.start for _, mark in sorted(lanes, key=lambda one: one[0])]
            assert lengths == sorted(lengths)


def test_deep_nests_are_drawn_to_the_end() -> None:
    drawn = Drawn(highlight("x" * 40, [Mark(0, 40 - at, str(at), "t", "") for at in range(2 * LANES)]))
    assert len(drawn.characters) == 40
    assert drawn.labels == [str(at) for at in reversed(range(2 * LANES))]


def test_of_very_many_spans_some_are_drawn_and_the_rest_is_counted() -> None:
    marks = [Mark(start, end, "t", "t", "") for start in range(40) for end in range(start + 1, 41)]
    drawn = Drawn(highlight("x" * 40, marks))
    assert len(drawn.labels) == MOST_MARKS
    told = "".join(character for character, _, _ in drawn.characters)
    assert told == "x" * 40 + f" ({len(marks) - MOST_MARKS} more spans are not drawn)"


def test_a_part_of_a_text_shows_that_it_is_one() -> None:
    text = "".join(chr(0x4E00 + at) for at in range(1000))
    first, last = window(text, 500, 510)
    assert (first, last) == (500 - AROUND, 510 + AROUND)
    marks = [Mark(0, 1000, "all", "a", "all"), Mark(500, 510, "in", "b", "in"), Mark(0, 10, "out", "c", "out")]
    drawn = Drawn(highlight(text, marks, first, last))
    shown = "".join(character for character, _, _ in drawn.characters)
    assert shown == f"…{text[first:last]}…"
    assert drawn.labels == ["in"], "the end of the whole is not here, and the third is elsewhere"
    assert window(text, 3, 5) == (0, 5 + AROUND)
    assert window(text, 500, 999) == (500 - AROUND, 500 - AROUND + MOST)


def test_what_is_hostile_or_invisible_is_shown_and_does_nothing() -> None:
    hostile = "<script>x()</script>\n\t\x00&amp;\r"
    drawn = Drawn(highlight(hostile, [Mark(0, 8, "<b>", "t", "\"><img src=x onerror='x()'>")]))
    assert drawn.tags == {"p", "span", "sub"}
    assert "".join(one for one, _, _ in drawn.characters) == "<script>x()</script>↵⇥ &amp;"
    assert drawn.labels == ["<b>"]
    assert drawn.characters[0][2] == "\"><img src=x onerror='x()'>"
