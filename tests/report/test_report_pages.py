"""The pages of a report in a real browser: Chromium, opened from the disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fasr_video.report.write import write_report
from tests.support.cases import LEAD, decide, make_synthetic_case
from tests.support.chromium import ARGUMENTS, CHROMIUM, DESKTOP, PHONE

pytestmark = pytest.mark.skipif(
    not CHROMIUM.is_file(), reason=f"no browser at {CHROMIUM}: apt-get install chromium"
)
NAMES = ("index", "T1", "T2", "T3", "S2-T1", "S2-T2", "S2-T3")

FAINT_TEXT = """() => {
  const parse = (c) => { const n = c.match(/[\\d.]+/g).map(Number);
    return n.length < 4 ? [...n, 1] : n; };
  const light = ([r, g, b]) => { const f = [r, g, b].map((v) => v / 255)
    .map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * f[0] + 0.7152 * f[1] + 0.0722 * f[2]; };
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; }
    return [255, 255, 255, 1]; };
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  while (walk.nextNode()) { const e = walk.currentNode.parentElement;
    if (!walk.currentNode.textContent.trim() || ["SCRIPT", "STYLE"].includes(e.tagName)) continue;
    const pair = [light(parse(getComputedStyle(e).color)), light(behind(e))];
    const [a, b] = pair.sort((x, y) => y - x);
    count += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) found.push(walk.currentNode.textContent.trim()); }
  return [count, found]; }"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_synthetic_case(tmp_path_factory.mktemp("pages") / "case")
    decide(folder, 1, "accepted", LEAD, by="R. Viewer")
    return write_report(folder)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=str(CHROMIUM), args=list(ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport=DESKTOP)
    yield context.new_page()
    context.close()


def show(page: Any, report: Path, name: str) -> None:
    page.goto((report / f"{name}.html").as_uri())


def test_pages_use_no_network_and_raise_no_browser_complaint(page: Any, report: Path) -> None:
    requests, complaints = list[str](), list[str]()
    page.on("request", lambda r: requests.append(r.url.split(":")[0]))
    page.on("console", lambda message: complaints.append(message.text))
    for name in NAMES:
        show(page, report, name)
    assert requests == ["file"] * len(NAMES)
    assert complaints == []


def test_policy_lets_a_page_show_its_pictures_and_nothing_else(page: Any, report: Path) -> None:
    for name in NAMES:
        show(page, report, name)
        policy = page.locator("meta[http-equiv=Content-Security-Policy]").get_attribute("content")
        assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
        assert (
            page.locator(
                "script, [onclick], [onload], [onerror], iframe, object, link[rel=stylesheet]"
            ).count()
            == 0
        )
        # The policy allows the style by its hash; otherwise the page would have none.
        assert page.evaluate("getComputedStyle(document.body).fontFamily").startswith("system-ui")


def test_names_from_files_and_galleries_stay_text(page: Any, report: Path) -> None:
    raised = list[str]()

    def note(dialog: Any) -> None:
        raised.append(dialog.message)
        dialog.dismiss()

    page.on("dialog", note)
    for name in NAMES:
        show(page, report, name)
    assert raised == []
    show(page, report, "T1")
    assert page.get_by_text(f"accepted {LEAD}").first.is_visible()


def test_every_picture_loads_and_has_a_text_alternative(page: Any, report: Path) -> None:
    for name in NAMES:
        show(page, report, name)
        images = page.locator("img").evaluate_all(
            "all => all.map((i) => [i.alt.trim(), i.naturalWidth])"
        )
        assert images and all(alt and width for alt, width in images)


def test_pages_lead_to_each_other(page: Any, report: Path) -> None:
    show(page, report, "index")
    for name in NAMES[1:]:
        page.get_by_role("link", name=name, exact=True).first.click()
        assert page.get_by_role("heading", level=1).inner_text() == f"Track {name}"
        page.get_by_role("link", name="All tracks").click()
    show(page, report, "T3")
    page.get_by_role("link", name="S2-T1 →").click()
    assert page.url.endswith("/S2-T1.html")


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_pages_never_scroll_sideways(page: Any, report: Path, viewport: Any) -> None:
    page.set_viewport_size(viewport)
    for name in NAMES:
        show(page, report, name)
        assert page.evaluate("document.documentElement.scrollWidth") <= viewport["width"], name
        wide = (
            "all => all.filter((e) => e.getBoundingClientRect().right > innerWidth).map((e) => "
            "e.alt)"
        )
        assert page.locator("img:not(.scroll img)").evaluate_all(wide) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_in_light_and_dark(
    browser: Any, report: Path, scheme: Any
) -> None:
    context = browser.new_context(viewport=DESKTOP, color_scheme=scheme)
    page = context.new_page()
    for name in NAMES:
        show(page, report, name)
        count, faint = page.evaluate(FAINT_TEXT)
        assert count > 50 and faint == []
    shade = page.evaluate(
        "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"
    )
    assert (max(shade) < 60) == (scheme == "dark")
    context.close()


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_the_banner_stays_visible_over_each_reconstruction(
    page: Any, report: Path, viewport: Any
) -> None:
    page.set_viewport_size(viewport)
    show(page, report, "T1")
    banner, pictures = page.locator(".banner"), page.locator(".synthetic figure img")
    assert pictures.count() == 4
    for picture in pictures.all():
        picture.evaluate(
            "e => window.scrollTo(0, e.getBoundingClientRect().bottom + scrollY - innerHeight / 2)"
        )
        picture_box, banner_box = picture.bounding_box(), banner.bounding_box()
        assert banner_box["y"] >= 0 and banner_box["y"] + banner_box["height"] <= picture_box["y"]
        assert (
            page.evaluate("e => getComputedStyle(e).position", banner.element_handle()) == "sticky"
        )
        assert picture.locator("xpath=..").locator(".tag").inner_text() == "Synthetic"


def test_camera_pixels_are_magnified_by_whole_numbers_at_every_width(
    page: Any, report: Path
) -> None:
    for viewport in (DESKTOP, PHONE):
        page.set_viewport_size(viewport)
        for name in NAMES[1:]:
            show(page, report, name)
            sizes = page.locator("img.pixels").evaluate_all(
                "all => all.map((i) => [i.width / i.naturalWidth, i.height / i.naturalHeight,"
                " getComputedStyle(i).imageRendering])"
            )
            assert sizes[0][0] == 5 and sizes[1][0] == 1
            assert all(w == h == int(w) and how == "pixelated" for w, h, how in sizes)


def test_pages_can_be_used_by_keyboard_with_visible_focus(page: Any, report: Path) -> None:
    show(page, report, "index")
    page.keyboard.press("Tab")
    focused = "document.activeElement"
    assert page.evaluate(f"{focused}.textContent") == "Skip to the content"
    assert page.evaluate(f"{focused}.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate(f"{focused}.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate(f"{focused}.textContent") == "T1"
    assert page.evaluate(f"parseFloat(getComputedStyle({focused}).outlineWidth)") >= 2


def test_tables_have_captions_and_headers(page: Any, report: Path) -> None:
    for name in NAMES:
        show(page, report, name)
        assert page.locator("table").count() == page.locator("table > caption").count() > 0
        assert page.locator("th:not([scope])").count() == 0
        ids = page.locator("[id]").evaluate_all("all => all.map((e) => e.id)")
        assert len(ids) == len(set(ids))
        assert page.locator("h1").count() == 1


def test_print_is_black_on_white_without_navigation_and_with_the_banner(
    page: Any, report: Path
) -> None:
    page.emulate_media(media="print", color_scheme="dark")
    show(page, report, "T1")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not page.locator("nav").is_visible() and page.locator(".banner").is_visible()
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")
