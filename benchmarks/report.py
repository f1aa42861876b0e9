"""How large the report of a long run is, how long it takes to make, and how soon a browser can work with it.

    python benchmarks/report.py RUN [--rounds 3] [--json report.json]

RUN is a run directory with statistics. The figures of the documentation are of 60 watched layers and 5,000 probed steps:

    python -m nrm_keras run images/digits_adaptive@mlp model.units=[32,32,32,32,32,32,32,32,32,32,32,32,32,32,32,32,32,32,32,32] \\
        train.epochs=250 diagnostics.every=1 diagnostics.drift_every=20

The browser is Chromium, driven by Playwright; interactive is when the page has loaded, was scrolled to the chart of layers to choose from,
and that is drawn anew after another layer was chosen.
"""

import argparse
import json
import os
import shutil
import statistics
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

from nrm_keras.report import page


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", default="report.json", help="where the figures go")
    arguments = parser.parse_args()
    seconds = []
    for _ in range(arguments.rounds):
        began = time.perf_counter()
        written = page.write(arguments.run)
        seconds.append(time.perf_counter() - began)
    size = sum(file.stat().st_size for file in arguments.run.glob("*.jsonl")) / 1e6
    results = {
        "statistics_megabytes": size,
        "generated_seconds": statistics.median(seconds),
        "page_megabytes": written.stat().st_size / 1e6,
        "interactive_seconds": statistics.median(interactive(written) for _ in range(arguments.rounds)),
    }
    for name, value in results.items():
        print(f"{name.replace('_', ' '):24} {value:.2f}")
    with open(arguments.json, "w") as file:
        json.dump({"threads": os.cpu_count(), "run": str(arguments.run), "results": results}, file, indent=1)


def interactive(path: Path) -> float:
    """Seconds from the address to a chart that has changed at a choice."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        view = browser.new_page(offline=True)
        began = time.perf_counter()
        view.goto(path.resolve().as_uri())
        figure = view.locator("#bands ~ .charts figure").first
        figure.scroll_into_view_if_needed()  # charts are drawn when they come near
        figure.locator(".main-svg").first.wait_for()
        before = figure.locator(".scatterlayer").inner_html()
        figure.locator("select").select_option(index=1)
        while figure.locator(".scatterlayer").inner_html() == before:
            time.sleep(0.01)
        seconds = time.perf_counter() - began
        browser.close()
    return seconds


if __name__ == "__main__":
    main()
