"""Pages as a reader sees them: Debian's Chromium, driven by Playwright, from disk and without a network."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright
from playwright.sync_api import TimeoutError as NotInTime

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# a heading, but none of plotly's own helpers, which lie outside of the page
HEADINGS = "h1, h2, h3"
CHARTS = "main .chart"


@dataclass
class Visit:
    """A page that is open, and all that it said or tried on its own."""

    page: Page
    console: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def noise(self) -> list[str]:
        return [*self.console, *self.errors, *self.requests, *self.dialogs]

    def open_everything(self) -> None:
        """Unfolds what is folded and scrolls to each chart, which may be drawn only then."""
        self.page.evaluate("() => document.querySelectorAll('details').forEach(one => { one.open = true; })")
        for chart in self.page.locator(CHARTS).all():
            self.draw(chart)

    def draw(self, chart: Locator) -> None:
        # wholly into view: Playwright's own scrolling is content with a part
        chart.evaluate("one => one.scrollIntoView({ block: 'center' })")
        chart.locator(".main-svg").first.wait_for(state="attached", timeout=10_000)

    def hover(self, chart: Locator) -> bool:
        """Whether plotly tells numbers somewhere on a grid of places in the chart."""
        self.draw(chart)
        area = chart.locator(".nsewdrag").first.bounding_box()
        for down in (0.5, 0.2, 0.8):
            for along in (0.5, 0.02, 0.25, 0.75, 0.98):
                self.page.mouse.move(area["x"] + along * area["width"], area["y"] + down * area["height"], steps=3)
                try:
                    chart.locator(".hoverlayer > *").first.wait_for(state="attached", timeout=300)
                    return True
                except NotInTime:
                    continue
        return False


def start() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        # without Chromium's own sandbox, as Playwright starts it: root, which owns containers, may not use it
        browser = playwright.chromium.launch(executable_path=CHROMIUM, chromium_sandbox=False)
        yield browser
        browser.close()


def visit(browser: Browser, path: Path, width: int, height: int, scheme: str) -> Visit:
    """Opens a file; any request but the one for this file is noted and fails."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", offline=True
    )
    seen = Visit(context.new_page())
    _listen(context, seen, path.resolve().as_uri())
    seen.page.goto(path.resolve().as_uri())
    return seen


def _listen(context: BrowserContext, seen: Visit, own: str) -> None:
    def decide(route):
        if route.request.url == own:
            return route.continue_()
        return route.abort()

    def note_request(request):
        if request.url != own and not request.url.startswith(("data:", "blob:")):
            seen.requests.append(f"request: {request.url}")

    def note_dialog(dialog):
        seen.dialogs.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    context.route("**/*", decide)
    context.on("request", note_request)
    seen.page.on("websocket", lambda socket: seen.requests.append(f"request: {socket.url}"))
    seen.page.on("console", lambda message: seen.console.append(f"console {message.type}: {message.text}"))
    seen.page.on("pageerror", lambda error: seen.errors.append(f"error: {error}"))
    seen.page.on("dialog", note_dialog)
