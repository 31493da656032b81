"""The web page in a real browser: Chromium, as Debian packages it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Page,
    Request,
    Route,
    expect,
    sync_playwright,
)
from real_server import RealServer
from serving_fakes import SLOW_L, L
from spoiled_server import SLOW_STEP_S, Device

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REFUSAL = re.compile("Failed to load resource.* status of 50[34]")
"""What browsers say to the console when a server refuses, whatever the page makes of it."""
LONG_STEP_S = 0.2
"""Of the slow model: a draw of all codes takes 80 s, and the page can do something meanwhile."""
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt install chromium")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


LOOKS = pytest.mark.parametrize("look", ["wide", "narrow and dark"], indirect=True)
"""For what depends on the size of the window and its colours; other tests have a wide one."""


@pytest.fixture
def look(request: pytest.FixtureRequest) -> str:
    return getattr(request, "param", "wide")


@pytest.fixture
def page(browser: Browser, server: RealServer, look: str) -> Iterator[Page]:
    """The page, which must say nothing to the console and ask nobody else for anything."""
    narrow = look != "wide"
    page = browser.new_page(
        viewport={"width": 360 if narrow else 1000, "height": 900},
        color_scheme="dark" if narrow else "light",
    )
    page.set_default_timeout(300_000)
    expect.set_options(timeout=300_000)
    said: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        said.append(f"{message.type}: {message.text}")

    def watch(sent: Request) -> None:
        if not sent.url.startswith((server.url, "data:")):
            said.append(f"asked {sent.url}")

    page.on("console", hear)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", watch)
    page.goto(server.url)
    expect(page.get_by_label("Model").locator("option")).to_have_count(6)
    drawn(page, L, L)  # something, at once
    yield page
    page.close()
    assert [line for line in said if not REFUSAL.search(line)] == []


def drawn(page: Page, codes: int, length: int) -> None:
    expect(page.get_by_role("status")).to_contain_text(f"{codes} of {length} codes in")


@LOOKS
def test_it_opens_with_samples_and_the_times_of_this_machine(page: Page) -> None:
    expect(page.locator("#samples img")).to_have_count(16)
    told = page.locator("#curve-text").inner_text()
    assert re.fullmatch(
        rf"At {L} codes: 100 % of full quality, \S+ m?s for one sample on this server\.", told
    )
    expect(page.locator("#curve")).to_contain_text("time on this server, up to")


def test_nothing_lately_is_an_empty_bar(page: Page) -> None:
    expect(page.locator("#codes-share-text")).to_have_text("no recent requests")
    assert page.locator("#codes-share").evaluate("meter => meter.value") == 0
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#codes-share-text")).to_have_text("100 %")
    assert page.locator("#codes-share").evaluate("meter => meter.value") == 1


def test_codes_are_counted_while_they_come(page: Page) -> None:
    page.get_by_role("button", name="Draw").click()
    progress = page.locator("#progress")
    expect(progress).to_have_text(re.compile(rf"code [1-9] of {L}"))
    expect(page.get_by_role("status")).to_have_text("Drawing:")
    drawn(page, L, L)
    expect(progress).to_have_text("")


@LOOKS
def test_samples_sharpen_stop_and_are_refined(page: Page) -> None:
    page.get_by_label("Label").select_option("owl")
    page.get_by_role("spinbutton", name="Samples").fill("6")
    page.get_by_label("Seed").fill("3")
    page.get_by_role("button", name="Draw").click()
    images = page.locator("#samples img")
    expect(images).to_have_count(6)
    expect(images.first).to_have_attribute("alt", re.compile(r"sample 1, [2-5] codes"))
    early = images.first.get_attribute("src")
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status")).to_contain_text(re.compile(rf"Stopped at \d+ of {L} codes"))
    page.get_by_role("button", name="Refine more").click()
    drawn(page, L, L)
    expect(images.first).to_have_attribute("alt", f"owl, sample 1, {L} codes")
    assert images.first.get_attribute("src") != early
    slider = page.locator("#codes")
    slider.focus()
    for _ in range(L - 4):
        page.keyboard.press("ArrowLeft")  # back to what was seen
    expect(images.first).to_have_attribute("alt", "owl, sample 1, 4 codes")
    expect(page.locator("#curve-text")).to_contain_text("44 % of full quality")
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0  # nothing sticks out


def test_a_sample_is_varied(page: Page) -> None:
    page.get_by_label("Label").select_option("owl")
    page.get_by_role("spinbutton", name="Samples").fill("5")
    page.get_by_role("button", name="Draw").click()
    drawn(page, L, L)
    images = page.locator("#samples img")
    chosen = images.nth(2)
    chosen.click()
    expect(page.get_by_label("sample no.")).to_have_value("3")
    given = chosen.get_attribute("src")
    page.get_by_label("kept codes").fill(str(L))
    with page.expect_request("**/v1/samples") as asked:
        page.get_by_role("button", name="Vary").click()
    assert asked.value.post_data_json["vary"]["index"] == 2
    drawn(page, L, L)
    expect(images).to_have_count(5)
    assert {image.get_attribute("src") for image in images.all()} == {given}
    page.get_by_label("kept codes").fill("0")
    page.get_by_role("button", name="Vary").click()
    drawn(page, L, L)
    expect(images.first).to_have_attribute("alt", f"owl, sample 1, {L} codes")
    assert len({image.get_attribute("src") for image in images.all()}) > 1


def test_a_draw_that_takes_its_time_is_stopped_on_the_server(page: Page, device: Device) -> None:
    device.set(LONG_STEP_S)
    page.get_by_label("Model").select_option("slow")
    page.get_by_role("spinbutton", name="Samples").fill("32")
    page.get_by_label("Slow motion").uncheck()
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#samples img")).to_have_count(32)
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_contain_text(re.compile(rf"\d+ of {SLOW_L} codes"))
    expect(page.get_by_role("button", name="Stop")).to_be_disabled()
    device.set(SLOW_STEP_S)
    page.get_by_role("button", name="Refine more").click()
    expect(page.get_by_role("status")).to_contain_text(re.compile(rf"\d+ of {SLOW_L} codes in"))


def test_refining_waits_for_the_end_of_what_was_stopped(page: Page, device: Device) -> None:
    device.set(LONG_STEP_S)
    page.get_by_label("Model").select_option("slow")
    page.get_by_role("spinbutton", name="Samples").fill("32")
    page.get_by_label("Slow motion").uncheck()
    stops: list[Route] = []
    page.route("**/v1/samples/*", lambda route: stops.append(route))  # on its way for a while
    page.get_by_role("button", name="Draw").click()
    expect(page.locator("#samples img")).to_have_count(32)
    with page.expect_request("**/v1/samples/*") as asked:
        page.evaluate("""async () => {
            const [stop, refine] = ["stop", "refine"].map((id) => document.getElementById(id));
            stop.click();
            while (refine.disabled) await new Promise((resolve) => setTimeout(resolve));
            refine.click();  // before another preview comes
        }""")
    assert asked.value.method == "DELETE"
    while not stops:
        page.wait_for_timeout(1)
    with page.expect_response("**/v1/samples/*"):
        stops[0].continue_()
    device.set(SLOW_STEP_S)
    expect(page.get_by_role("status")).to_contain_text(re.compile(rf"\d+ of {SLOW_L} codes in"))


def test_what_is_stopped_before_it_has_told_its_name_is_left(page: Page) -> None:
    asked: list[Route] = []
    page.route("**/v1/samples", lambda route: asked.append(route))  # never gets there
    page.get_by_role("button", name="Draw").click()
    expect(page.get_by_role("status")).to_contain_text("Drawing")
    with page.expect_event("requestfailed"):
        page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("status")).to_contain_text(f"Stopped at 0 of {L} codes")
    expect(page.get_by_role("button", name="Refine more")).to_be_disabled()
    page.unroute("**/v1/samples")
    page.get_by_role("button", name="Draw").click()
    drawn(page, L, L)
    assert len(asked) == 1


@LOOKS
def test_models_are_switched_and_sounds_can_be_played(page: Page) -> None:
    page.get_by_label("Model").select_option("sound")
    page.get_by_role("spinbutton", name="Samples").fill("3")
    page.get_by_role("button", name="Draw").click()
    drawn(page, L, L)
    expect(page.locator("#samples audio")).to_have_count(3)
    assert page.locator("#samples audio").first.evaluate(
        "audio => new Promise(done => { audio.oncanplay = () => done(true); audio.load(); })"
    )
    page.get_by_label("Model").select_option("colour")
    expect(page.locator("#samples audio")).to_have_count(0)
    page.get_by_role("button", name="Draw").click()
    drawn(page, L, L)
    expect(page.locator("#codes-share-text")).to_contain_text("100 %")


def test_mistakes_are_told(page: Page) -> None:
    page.get_by_label("Model").select_option("slow")
    page.get_by_label("Deadline, ms").fill("1")
    page.get_by_role("button", name="Draw").click()
    status = page.get_by_role("status")
    expect(status).to_have_class("wrong")
    expect(status).to_contain_text("a deadline of 1 ms is too short")


@LOOKS
def test_axe_finds_nothing(page: Page) -> None:
    page.get_by_role("button", name="Draw").click()
    drawn(page, L, L)
    page.get_by_label("Model").select_option("sound")
    page.get_by_role("button", name="Draw").click()
    drawn(page, L, L)
    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["impact"], one["nodes"][0]["html"]) for one in found] == []
