"""The review pages as a person meets them: the real command, a real browser, the keyboard."""

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
from tests.reviewed import Names, made_case

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
# Copies of one case, for each test one that it may change.
CASES = ("keyboard", "slider", "script", "layout", "two")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    top = tmp_path_factory.mktemp("served")
    first, found = made_case(top / "first"), {}
    for name in CASES:
        found[name] = Path(shutil.copytree(first, top / name))
        with Case.open(found[name]) as case:
            case.set_meta("case_id", name)
    found["evil"] = made_case(
        top / "evil", Names(anna=EVIL, camera=EVIL, remark=EVIL, warnings=(EVIL,))
    )
    return found


@pytest.fixture(scope="module")
def address(folders: dict[str, Path]) -> Iterator[str]:
    """What the command prints."""
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
    """A page, and what went wrong while it was looked at."""

    page: Page
    address: str
    folder: Path
    asked: list[str] = field(default_factory=list)
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
    """A new visitor, who opens the printed address; what they asked for, and complaints, are looked at in the end."""
    visits: list[Visit] = []

    def begin(case: str, **how: Any) -> Visit:
        context = browser.new_context(**how)
        context.set_default_timeout(30_000)
        made = Visit(context.new_page(), address, folders[case])
        made.page.on("request", lambda r: made.asked.append(r.url))
        made.page.on("console", lambda m: made.complaints.append(m.text))
        made.page.on("pageerror", lambda e: made.complaints.append(str(e)))
        made.page.goto(address)
        visits.append(made)
        return made

    yield begin
    for made in visits:
        made.page.context.close()
        assert made.asked and all(url.startswith("http://127.0.0.1:") for url in made.asked)
        assert made.complaints == []


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
        (made,) = standing_decisions(case, 1)
        assert (made.verdict, made.subject, made.by) == ("accepted", "anna", "Anna")
        assert made.reason == "same ear, same scar; a and r are only letters here"
        # The copies that are served beside each other were given ids of their own.
        assert [p for c in verify(case) for p in c.problems] == [
            "case_id differs from the one in the log"
        ]


def test_the_wipe_slider_moves_with_the_keyboard_and_shows_as_much_as_it_says(
    visit: Callable[..., Visit],
) -> None:
    def shown() -> str:
        return str(page.eval_on_selector(".stage .over", "e => getComputedStyle(e).clipPath"))

    page = visit("slider").track("T1")
    slider = page.get_by_label("Wipe")
    assert slider.input_value() == "50" and shown() == "inset(0px 50% 0px 0px)"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "51" and shown() == "inset(0px 49% 0px 0px)"
    assert slider.get_attribute("aria-valuetext") == "51 % of the track's picture"
    page.keyboard.press("Home")
    assert shown() == "inset(0px 100% 0px 0px)"
    assert page.locator(".wipe.synthetic").count() == 0
    page.get_by_role("link", name="The reconstruction in its place").click()
    page.wait_for_selector(".wipe.synthetic")
    assert "not for comparison" in page.inner_text(".wipe .banner")


def test_all_but_the_slider_works_without_script(visit: Callable[..., Visit]) -> None:
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
        decide(case, 1, "accepted", EVIL, "Anna", EVIL)
    evil = visit("evil")
    page = evil.go("/?camera=%3Cscript%3E")
    assert page.locator("img[src=x]").count() == 0
    evil.track("T1")
    assert page.title() == "T1 · fasr-video" and EVIL in page.inner_text(".history")
    for link in ("Subjects", "Log", "Sign off"):
        page.click(f"nav >> text={link}")
        assert link in page.title() and page.locator("img[src=x]").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_pages_fit_their_width_and_every_picture_and_field_has_a_name(
    visit: Callable[..., Visit], width: int, scheme: str
) -> None:
    made = visit("layout", viewport={"width": width, "height": 800}, color_scheme=scheme)
    page = made.page
    for name in ("overview", "T1", "Subjects", "Log", "Sign off"):
        if name == "T1":
            made.track("T1")
        elif name != "overview":
            page.click(f"nav >> text={name}")
        page.wait_for_load_state()  # a page whose style is not there yet is wider
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
    """Whoever sends second finds the first one's decision beside it."""
    pages = [visit("two").track("T1"), visit("two").track("T1")]
    for page, name in zip(pages, ("Anna", "Ben"), strict=True):
        page.keyboard.press("a")
        page.keyboard.type("same ear")
        page.fill("form:not(.undo) input[name=by]", name)
        page.click("button:text('Record')")
        page.wait_for_selector("[role=status]")
    assert "reviewers agree" in pages[1].inner_text(".facts")
    with Case.open(folders["two"], read_only=True) as case:
        assert [d.by for d in decisions(case, 1)] == ["Anna", "Ben"]
