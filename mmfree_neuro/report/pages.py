"""Sections as a Markdown page, or as one HTML file with its pictures inside."""

import re
from collections.abc import Sequence
from typing import Any

import jinja2
from markupsafe import Markup, escape

from mmfree_neuro.errors import printable
from mmfree_neuro.report import chips, drawn
from mmfree_neuro.report.record import Content
from mmfree_neuro.report.sections import Section, beside, sections, verdict
from mmfree_neuro.report.wording import PHASES, change, ends, figure, linked


def _cell(text: str) -> str:
    escaped = re.sub(r"([\\`*_|<>&\[\]])", r"\\\1", " ".join(text.split()))
    return linked(escaped, "[{text}]({address})")


def _html_cell(text: str) -> Markup:
    return Markup(linked(str(escape(text)), '<a href="{address}">{text}</a>'))


def _markdown(section: Section) -> list[str]:
    lines = [
        f"## {section.title}",
        "",
        *(line for sentence in section.sentences for line in (_cell(sentence), "")),
    ]
    for table in section.tables:
        rows = ["| " + " | ".join(map(_cell, row)) + " |" for row in (table.head, *table.rows)]
        lines += ([f"**{_cell(table.caption)}**", ""] if table.caption else []) + [
            rows[0],
            "|" + " --- |" * len(table.head),
            *rows[1:],
            "",
        ]
    for label, text in section.texts:
        fence = "`" * max(3, 1 + max((len(ticks) for ticks in re.findall("`+", text)), default=0))
        lines += [f"{label}:", "", fence + "text", text, fence, ""]
    return lines


def to_markdown(report: Content) -> str:
    """The report as Markdown, without pictures."""
    lines = [f"# {_cell(_title(report))}", "", _cell(verdict(report)), ""]
    for section in sections(report):
        lines += _markdown(section)
    return printable("\n".join(lines))


def _title(report: Content) -> str:
    return f"{report['header']['model']} on {report['header']['system']}"


def to_html(report: Content) -> str:
    """The report as one HTML page that needs no other file."""
    found = drawn.dots([report])
    return _rendered(
        "report.html",
        report=report,
        title=_title(report),
        verdict=verdict(report),
        sections=sections(report),
        plot=drawn.scatter(found) if found else None,
        energy=drawn.energy(report),
        limits=drawn.limits(report),
        map=chips.chips(report),
        core_data=chips.core_data(report),
    )


def _rendered(template: str, **content: Any) -> str:
    loader = jinja2.PackageLoader("mmfree_neuro.report")
    pages = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters["linked"] = _html_cell
    pages.globals |= {"figure": figure, "ends": ends, "change": change, "phases": PHASES}
    return printable(pages.get_template(template).render(content))


def beside_to_html(reports: Sequence[Content], names: Sequence[str]) -> str:
    """Several reports side by side, each under its name, as one HTML page that needs no other
    file."""
    found = drawn.dots(reports, names)
    return _rendered(
        "beside.html",
        title=_title_of(reports),
        section=beside(reports, names),
        plot=drawn.scatter(found) if found else None,
    )


def beside_to_markdown(reports: Sequence[Content], names: Sequence[str]) -> str:
    """Several reports side by side, each under its name, as Markdown."""
    lines = [f"# {_cell(_title_of(reports))}", "", *_markdown(beside(reports, names))]
    return printable("\n".join(lines))


def _title_of(reports: Sequence[Content]) -> str:
    return f"{len(reports)} runs side by side"
