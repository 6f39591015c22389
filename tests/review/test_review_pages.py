"""The review pages by the real command, in a real browser, with the keyboard."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fasr_video.case.case import Case
from fasr_video.case.decisions import decide, decisions, standing_decisions
from fasr_video.case.verify import verify
from tests.support.reviewed import Names, make_case

CHROMIUM = Path("/usr/bin/chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}")

from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402

ARGUMENTS = [
    *(
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
    ),
    *("--disable-component-update", "--disable-sync"),
]


EVIL = "<img src=x onerror=\"fetch('http://203.0.113.1/')\"><script>document.title='run'</script>"
# Each test gets its own copy of one case.
CASES = ("keyboard", "slider", "script", "layout", "two")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("served")
    first, found = make_case(top / "first"), {}
    for name in CASES:
        found[name] = Path(shutil.copytree(first, top / name))
        with Case.open(found[name]) as case:
            case.set_meta("case_id", name)
    found["evil"] = make_case(
        top / "evil", Names(anna=EVIL, camera=EVIL, remark=EVIL, warnings=(EVIL,))
    )
    return found


@pytest.fixture(scope="module")
def address(folders: dict[str, Path]) -> Iterator[str]:
    """Return the address that the command prints."""
    command = [sys.executable, "-m", "fasr_video", "serve", *map(str, folders.values())]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}
    )
    assert process.stdout is not None
    yield process.stdout.readline().removeprefix("open ").strip()
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0


@dataclass
class Visit:
    """A page, with its requests and the browser's complaints."""

    page: Page
    address: str
    folder: Path
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def go(self, path: str) -> Page:
        self.page.goto(self.address.split("/?")[0] + path)
        return self.page

    def track(self, name: str) -> Page:
        with Case.open(self.folder, read_only=True) as case:
            return self.go(f"/case/{case.meta('case_id')}/track/{name}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture
def visit(
    browser: Browser, address: str, folders: dict[str, Path]
) -> Iterator[Callable[..., Visit]]:
    """Open the printed address as a new visitor; check requests and complaints in the end."""
    visits: list[Visit] = []

    def begin(case: str, **how: Any) -> Visit:
        context = browser.new_context(**how)
        context.set_default_timeout(30_000)
        visitor = Visit(context.new_page(), address, folders[case])
        visitor.page.on("request", lambda r: visitor.requests.append(r.url))
        visitor.page.on("console", lambda m: visitor.complaints.append(m.text))
        visitor.page.on("pageerror", lambda e: visitor.complaints.append(str(e)))
        visitor.page.goto(address)
        visits.append(visitor)
        return visitor

    yield begin
    for visitor in visits:
        visitor.page.context.close()
        assert visitor.requests and all(
            url.startswith("http://127.0.0.1:") for url in visitor.requests
        )
        assert visitor.complaints == []


def test_a_track_is_decided_with_the_keyboard_alone(
    visit: Callable[..., Visit], folders: dict[str, Path]
) -> None:
    page = visit("keyboard").page
    assert "token" not in page.url
    page.locator(".card a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**/track/T1")
    page.keyboard.press("a")
    page.keyboard.type("same ear, same scar; a and r are only letters here")
    page.keyboard.press("Tab")
    page.keyboard.type("Anna")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("[role=status]")
    assert "Recorded: accepted anna, by Anna." in page.inner_text("[role=status]")
    page.keyboard.press("u")
    page.wait_for_url("**/track/T2")
    page.keyboard.press("p")
    page.wait_for_url("**/track/T1")
    with Case.open(folders["keyboard"], read_only=True) as case:
        (decision,) = standing_decisions(case, 1)
        assert (decision.verdict, decision.subject, decision.by) == ("accepted", "anna", "Anna")
        assert decision.reason == "same ear, same scar; a and r are only letters here"
        # The fixture gave each copy its own id, so that all can be served together.
        assert [p for c in verify(case) for p in c.problems] == [
            "case_id differs from the one in the log"
        ]


def test_the_wipe_slider_works_with_the_keyboard(
    visit: Callable[..., Visit],
) -> None:
    def clip_path() -> str:
        return str(page.eval_on_selector(".stage .over", "e => getComputedStyle(e).clipPath"))

    page = visit("slider").track("T1")
    slider = page.get_by_label("Wipe")
    assert slider.input_value() == "50" and clip_path() == "inset(0px 50% 0px 0px)"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "51" and clip_path() == "inset(0px 49% 0px 0px)"
    assert slider.get_attribute("aria-valuetext") == "51 % of the track's picture"
    page.keyboard.press("Home")
    assert clip_path() == "inset(0px 100% 0px 0px)"
    assert page.locator(".wipe.synthetic").count() == 0
    page.get_by_role("link", name="Show the reconstruction instead").click()
    page.wait_for_selector(".wipe.synthetic")
    assert "not for comparison" in page.inner_text(".wipe .banner")


def test_everything_except_the_slider_works_without_scripts(visit: Callable[..., Visit]) -> None:
    page = visit("script", java_script_enabled=False).track("T1")
    left, right = (page.locator(f".stage .{side}").bounding_box() for side in ("over", "under"))
    assert left and right and left["x"] + left["width"] <= right["x"]  # side by side
    page.get_by_text("Reject", exact=True).click()
    page.fill("textarea", "other ear")
    page.fill("form:not(.undo) input[name=by]", "Ben")
    page.click("button:text('Record')")
    assert "Recorded: rejected anna, by Ben." in page.inner_text("[role=status]")
    page.click("button:text('Undo')")
    assert "undone by Ben" in page.inner_text(".history")
    page.click("nav >> text=Subjects")
    page.locator("input[name=track]").nth(0).check()
    page.locator("input[name=track]").nth(2).check()
    page.click("button:text('Join the chosen tracks')")
    assert "Subject 1" in page.inner_text("main")


def test_hostile_names_run_nothing(visit: Callable[..., Visit], folders: dict[str, Path]) -> None:
    with Case.open(folders["evil"]) as case:
        decide(case, 1, "accepted", EVIL, by="Anna", subject=EVIL)
    evil = visit("evil")
    page = evil.go("/?camera=%3Cscript%3E")
    assert page.locator("img[src=x]").count() == 0
    evil.track("T1")
    assert page.title() == "T1 · fasr-video" and EVIL in page.inner_text(".history")
    for link in ("Subjects", "Log", "Sign off"):
        page.click(f"nav >> text={link}")
        page.wait_for_load_state("domcontentloaded")
        assert link in page.title() and page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_pages_fit_their_width_and_every_picture_and_field_has_a_name(
    visit: Callable[..., Visit], width: int, scheme: str
) -> None:
    visitor = visit("layout", viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = visitor.page
    for name in ("overview", "T1", "Subjects", "Log", "Sign off"):
        if name == "T1":
            visitor.track("T1")
        elif name != "overview":
            page.click(f"nav >> text={name}")
        page.wait_for_load_state()  # a page without its style is wider
        assert page.evaluate("document.documentElement.scrollWidth") == width, name
        assert page.locator("img:not([alt]), img[alt='']").count() == 0
        fields = "input:not([type=hidden]), select, textarea"
        assert (
            page.eval_on_selector_all(fields, "all => all.filter(e => !e.labels.length).length")
            == 0
        )
        assert page.locator("h1").count() == 1


def test_two_people_work_on_one_track_at_once(
    visit: Callable[..., Visit], folders: dict[str, Path]
) -> None:
    """The second one finds the first one's decision on the page."""
    pages = [visit("two").track("T1"), visit("two").track("T1")]
    for page, name in zip(pages, ("Anna", "Ben"), strict=True):
        page.keyboard.press("a")
        page.keyboard.type("same ear")
        page.fill("form:not(.undo) input[name=by]", name)
        page.click("button:text('Record')")
        page.wait_for_selector("[role=status]")
    assert "reviewers agree" in pages[1].inner_text(".metadata")
    with Case.open(folders["two"], read_only=True) as case:
        assert [d.by for d in decisions(case, 1)] == ["Anna", "Ben"]
