"""The pages of runs in a Chromium of the system: bytes, milliseconds to open, what axe finds, and
pictures of them.

    pip install playwright axe-playwright-python; apt-get install chromium
    python examples/benchmarks/page.py NAME=REPORT.html ... [--pictures FOLDER]

A row for each page and width; no row is written for a page that tells an error or asks for
anything.  Pictures are of the first screen, light and dark.
"""

import argparse
import json
import shutil
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright
from rows import write

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
SIZES = {1280: 900, 390: 844}
TIMES = 5
"""A page is opened so often; the median counts."""
OPENED = "() => performance.getEntriesByType('navigation')[0].loadEventEnd"


def main() -> None:
    """Open, measure, picture and write."""
    parser = argparse.ArgumentParser(description="Opens pages of runs in a browser.")
    parser.add_argument("pages", nargs="+", metavar="NAME=REPORT.html")
    parser.add_argument("--pictures", type=Path)
    options = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    rows: list[dict[str, object]] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        for named in options.pages:
            name, _, path = named.partition("=")
            for width, height in SIZES.items():
                rows.append(measured(browser, name, Path(path), width, height))
                print(json.dumps(rows[-1]), flush=True)
                if options.pictures is not None:
                    for theme in ("light", "dark"):
                        context = browser.new_context(
                            viewport={"width": width, "height": height}, color_scheme=theme
                        )
                        page = context.new_page()
                        page.goto(Path(path).resolve().as_uri())
                        page.screenshot(path=options.pictures / f"page-{name}-{width}-{theme}.png")
                        context.close()
        browser.close()
    write("page", rows)


def measured(browser: object, name: str, path: Path, width: int, height: int) -> dict[str, object]:
    """One page at one width."""
    milliseconds, told, asked = [], [], []
    for time in range(TIMES):
        context = browser.new_context(viewport={"width": width, "height": height})  # type: ignore[attr-defined]
        page = context.new_page()
        page.on("console", lambda message: told.append(message.text))
        page.on("pageerror", lambda error: told.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.resolve().as_uri(), wait_until="load")
        milliseconds.append(page.evaluate(OPENED))
        if time == TIMES - 1:
            found = Axe().run(page).response["violations"]
            high = page.evaluate("document.documentElement.scrollHeight")
        context.close()
    if told or len(asked) != TIMES:
        raise SystemExit(f"{name}: told {told}, asked for {asked}: no row is written")
    return {
        "what": f"{name}, {width} pixels wide",
        "value": round(sorted(milliseconds)[TIMES // 2], 1),
        "unit": "ms to open",
        "bytes": path.stat().st_size,
        "pixels high": high,
        "axe violations": [one["id"] for one in found],
    }


if __name__ == "__main__":
    main()
