"""The page of a run in a real browser: it opens without an error or a request, at two widths and in
two themes, what is folded unfolds, cores tell what lies on them, and axe finds nothing.

Needs Playwright and a Chromium of the system (apt-get install chromium); skipped where either is
missing.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

from mmfree_neuro.api import Graph as Door
from mmfree_neuro.api import Run
from mmfree_neuro.cli.main import main
from mmfree_neuro.graph.nodes import Graph

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
ARGUMENTS = [
    "--no-sandbox",  # which the user root needs
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDTHS = {1280: 900, 390: 844}


@pytest.fixture(scope="module")
def runs(
    random_graph: Callable[[str, str], Graph], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with two runs, their pages and the page of both."""
    folder = tmp_path_factory.mktemp("pages")
    door = Door(random_graph("lower-bounds", "a14"))
    for name, chips in (("one", 1), ("three", 3)):
        mapped = door.map("kapoho-point", chips=chips)
        found = mapped.run("import os", new_tokens=3, engine="fast")
        assert isinstance(found, Run)
        found.save(folder / name)
        found.report(folder / f"{name}.html")
    both = [str(folder / name) for name in ("one", "three")]
    assert main(["report", *both, "-o", str(folder / "both.html")]) == 0
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A browser without a window."""
    before = dict(os.environ)
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield found
        found.close()
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def opened(browser: Any, runs: Path) -> Iterator[Callable[..., Any]]:
    """Opens a page; at the end no error was told and nothing but the page was asked for."""
    contexts, told, asked = [], [], []

    def page(name: str, width: int = 1280, theme: str = "light") -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": WIDTHS[width]}, color_scheme=theme
        )
        contexts.append(context)
        found = context.new_page()
        found.on("console", lambda message: told.append(message.text))
        found.on("pageerror", lambda error: told.append(str(error)))
        found.on("request", lambda request: asked.append(request.url))
        found.goto((runs / name).as_uri(), wait_until="load")
        return found

    yield page
    for context in contexts:
        context.close()
    assert told == []
    assert all(url.startswith("file://") and url.endswith(".html") for url in asked)
    assert len(asked) == len(contexts)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["one.html", "three.html", "both.html"])
def test_anyone_can_read_it(opened: Callable[..., Any], name: str, width: int, theme: str) -> None:
    page = opened(name, width, theme)
    assert not page.evaluate(
        "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    )
    for details in page.locator("section > details").all():
        details.evaluate("one => one.open = true")
    found = axe.Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found] == []
    ink, paper = (
        page.evaluate(f"getComputedStyle(document.body).{of}")
        for of in ("color", "backgroundColor")
    )
    light = sum(map(int, paper[4:-1].split(","))) > sum(map(int, ink[4:-1].split(",")))
    assert light == (theme == "light")


def test_a_core_tells_what_lies_on_it(opened: Callable[..., Any]) -> None:
    page = opened("three.html")
    told = page.locator("#core")
    assert told.inner_text() == ""
    page.locator(".core").nth(5).hover()
    assert told.inner_text().startswith("Core ") and "Neurons of " in told.inner_text()
    page.locator("#chips").focus()
    texts = set()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown"):
        page.keyboard.press(key)
        texts.add(told.inner_text())
    assert len(texts) >= 2
    assert page.locator(".core.on").count() == 1


def test_cores_are_coloured_by_what_is_chosen(opened: Callable[..., Any]) -> None:
    page = opened("three.html")
    kinds = set(page.locator("#key span").all_inner_texts())
    assert {"MLGRU", "GLU", "Residual"} <= kinds
    choices = page.locator("#by option").all_inner_texts()
    assert choices[:2] == ["kind of node", "block"] and len(choices) == 7
    fills = "squares => new Set(squares.map(one => getComputedStyle(one).fill)).size"
    for choice in choices[1:]:
        page.locator("#by").select_option(label=choice)
        count = 2 if choice != "block" else len(set(blocks(page)))
        assert page.locator("#key span").count() == count
        assert page.locator(".core").evaluate_all(fills) >= 2, choice


def blocks(page: Any) -> list[Any]:
    """The block of every core in use."""
    return [core[3] for core in json.loads(page.locator("#cores").inner_text())["cores"]]


def test_a_colour_can_be_read_back_to_a_block(opened: Callable[..., Any]) -> None:
    page = opened("three.html")
    page.locator("#by").select_option(label="block")
    key = page.locator("#key span")
    assert key.all_inner_texts() == ["block 0", "block 1", "outside the blocks"]
    fill = "one => getComputedStyle(one).fill"
    ground = "one => getComputedStyle(one.firstChild).backgroundColor"
    colours = dict(zip((0, 1, None), (key.nth(k).evaluate(ground) for k in range(3)), strict=True))
    cores = page.locator(".core")
    for number, block in enumerate(blocks(page)):
        assert cores.nth(number).evaluate(fill) == colours[block]
    key.nth(1).hover()
    assert page.locator(".core:not(.dim)").count() == blocks(page).count(1)
    page.locator("h1").hover()
    assert page.locator(".core.dim").count() == 0


OVERLAPS = """selector => {
  const shown = [...document.querySelectorAll(selector)].filter(one => one.getBBox().width);
  const boxes = shown.map(one => [one.textContent, one.getBoundingClientRect()]);
  return boxes.flatMap(([name, a], k) => boxes.slice(0, k).filter(([, b]) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2
  ).map(([other]) => [name, other]));
}"""


@pytest.mark.parametrize("width", WIDTHS)
def test_texts_of_pictures_lie_beside_each_other(opened: Callable[..., Any], width: int) -> None:
    """And inside of their pictures, large enough to be read."""
    page = opened("three.html", width)
    for picture in (".plot", ".rows", "#chips"):
        assert page.evaluate(OVERLAPS, f"{picture} text") == []
    outside = """() => [...document.querySelectorAll("svg text")].filter(one => {
      const text = one.getBoundingClientRect(), all = one.closest("svg").getBoundingClientRect();
      return text.width && (text.left < all.left - 1 || text.right > all.right + 1);
    }).map(one => one.textContent)"""
    assert page.evaluate(outside) == []
    heights = "texts => texts.map(one => one.getBoundingClientRect().height).filter(high => high)"
    assert min(page.locator("svg text").evaluate_all(heights)) >= 9


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pictures_have_the_colours_of_the_page(opened: Callable[..., Any], theme: str) -> None:
    """Of our estimates alone; and words for whoever does not see them."""
    page = opened("three.html", 390, theme)
    fills = page.locator(".rows .ours circle, .rows .ours rect, .plot .ours circle").evaluate_all(
        "marks => [...new Set(marks.map(one => getComputedStyle(one).fill))]"
    )
    assert len(fills) == 1
    assert (
        page.locator(".card.ours").first.evaluate("one => getComputedStyle(one).borderLeftColor")
        == fills[0]
    )
    for name in ("Estimated energy of a token, by part", "Use of every limit of a core"):
        picture = page.get_by_role("img", name=name)
        assert picture.count() == 1
        assert (
            picture.locator("desc").first.text_content().count("%" if "limit" in name else "mJ") > 5
        )


def test_arrows_show_what_goes_from_chip_to_chip(opened: Callable[..., Any]) -> None:
    page = opened("three.html")
    arrows = page.locator(".arrows")
    assert not arrows.is_visible()
    page.locator("#traffic").check()
    assert arrows.is_visible()
    told = arrows.locator("title").all_text_contents()
    assert len(told) >= 2 and all("messages per token" in text for text in told)
    page.locator("#traffic").uncheck()
    assert not arrows.is_visible()


def test_what_is_folded_unfolds(opened: Callable[..., Any]) -> None:
    page = opened("one.html")
    step = page.get_by_text("step 1,")
    assert not step.first.is_visible()
    page.get_by_text("Time of a token in generation: block, step").click()
    time = page.locator("section > details", has_text="Time of a token in generation: block")
    time.locator("summary", has_text="block 0:").click()
    assert step.first.is_visible()
    heading = page.get_by_role("heading", name="Sources of every figure of the system")
    sources = page.locator("section", has=heading).locator("table").first
    assert not sources.is_visible()
    page.get_by_role("link", name="Sources of every figure of the system").click()
    assert sources.is_visible()


def test_where_the_run_stands(opened: Callable[..., Any]) -> None:
    page = opened("one.html")
    ours = page.locator(".dot.ours title").all_text_contents()
    assert len(ours) == 2 and all("estimated" in text for text in ours)
    assert page.locator(".dot.other").count() > 10
    assert opened("both.html").locator(".dot.ours").count() == 4
