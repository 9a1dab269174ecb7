"""Every source that code or a document cites is in the repository, and has the cited section."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.committed_files import files

# A citation is `daraja.md §4.2`, or has several sections: `rules.md §6, §7`. A line break inside
# it, with the mark of a comment behind it, counts as a blank.
_LINE_BREAK = re.compile(r"\s*\n[ \t]*(?:#[: ]?)?[ \t]*")
_ONE = r"§\d+(?:\.\d+)*(?:\s*\([\w ]*\))?"  # with a remark: "§2.2 (errors)"
_CITED = re.compile(
    r"(?<![\w./-])(?:(?P<document>[\w./-]+\.md)(?:\]\([^)]*\))?`?:?\s+)?"
    rf"(?P<sections>{_ONE}(?:(?:,\s*|,?\s+and\s+){_ONE})*)"
)
_SECTION = re.compile(r"§(\d+(?:\.\d+)*)")
_HEADING = re.compile(r"^##+ (\d+(?:\.\d+)*)\.? ", re.MULTILINE)
_OF_OTHERS = re.compile(r"RFC \d+,? $")  # an RFC has sections of its own
_OUTSIDE = re.compile(r"(?<![\w/-])(?:design|interface|field|examples)[.]md\b")


def citations(name: str, text: str) -> Iterator[tuple[str, str]]:
    """Each cited document, by its file name, and section.

    A section without a document is one of the text itself, if that has numbered headings, else of
    daraja.md.
    """
    is_numbered = name.endswith(".md") and _HEADING.search(text)
    own = name if is_numbered else "daraja.md"
    flat = _LINE_BREAK.sub(" ", text)
    for cited in _CITED.finditer(flat):
        if _OF_OTHERS.search(flat[: cited.start()]):
            continue
        document = (cited["document"] or own).rsplit("/", 1)[-1]
        for section in _SECTION.findall(cited["sections"]):
            yield document, section


def test_every_cited_section_is_a_heading_of_a_document_of_the_repository() -> None:
    texts = {name: text for name, text in files().items() if name.endswith((".py", ".md"))}
    headings = {
        name.rsplit("/", 1)[-1]: set(_HEADING.findall(text))
        for name, text in texts.items()
        if name.endswith(".md")
    }
    cited = [
        (name, *citation) for name, text in texts.items() for citation in citations(name, text)
    ]
    assert len(cited) > 200
    assert [place for place in cited if place[2] not in headings.get(place[1], set())] == []


def test_no_file_cites_a_document_outside_the_repository() -> None:
    assert [name for name, text in files().items() if _OUTSIDE.search(text)] == []


def test_the_search_finds_every_citation() -> None:
    text = (
        "# (rules.md %6, %7 and\n    # %18; `daraja.md` %4.2, RFC 9110 %7.8) and %5"
        " ([x.md](a/x.md) %2)"
    )
    text = text.replace("%", "§")  # so that this file cites nothing
    assert list(citations("a.py", text)) == [
        ("rules.md", "6"),
        ("rules.md", "7"),
        ("rules.md", "18"),
        ("daraja.md", "4.2"),
        ("daraja.md", "5"),
        ("x.md", "2"),
    ]
    assert _OUTSIDE.search("(design" + ".md, rule 3)")
