"""The page of a run in a browser: it draws without complaint, and the map answers pointer, keys and search."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluation import report
from evaluation.report_map import principal_plane
from training.build import Run
from training.run_dir import RunDirectory

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium here")

NAME = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def page_file(judged_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run on the 360 test rows of the digits; row 7 has an evil name, and so have a class and the run."""
    folder = tmp_path_factory.mktemp("runs")
    assert judged_run.directory is not None
    shutil.copytree(judged_run.directory.path, folder / "<b>run")
    run = replace(judged_run, directory=(directory := RunDirectory(folder / "<b>run")))
    (directory.path / "skipped.csv").write_text(f"path,reason\n{NAME},no image\n")
    path = run.source.path
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.source, "path", lambda row: NAME if row == 7 else path(row))
        patch.setattr(run.source, "class_names", lambda: (NAME, *map(str, range(1, 9)), "nine " * 40))
        patch.setattr(report, "lay_out", lambda features, seed: (principal_plane(features), "PCA"))
        report.write_report(run, directory, folder / "page.html")
    return folder / "page.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Opened:
    """A page that is drawn, with what it complained of and asked for."""

    def __init__(self, browser: Any, file: Path, width: int = 1440, scheme: str = "light", touch: bool = False) -> None:
        size = {"width": width, "height": 900}
        self.context = browser.new_context(viewport=size, color_scheme=scheme, has_touch=touch)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url[:20]))
        self.page.goto(file.as_uri())
        self.page.locator("html[data-ready]").wait_for(state="attached")

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self.context.close()
        if kind is None:
            assert self.said == []
            assert {url.split(":")[0] for url in self.asked} <= {"file", "data"}


def place_of(page: Any, point: int) -> tuple[float, float]:
    """Where on the screen a point of the map lies."""
    page.locator("#map-canvas").scroll_into_view_if_needed()
    x, y = page.evaluate(f"view.at(DATA.x[{point}], DATA.y[{point}])")
    box = page.locator("#map-canvas").bounding_box()
    return box["x"] + x, box["y"] + y


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (390, "dark")])
def test_every_part_is_drawn_at_both_widths_and_none_is_wider(
    browser: Any, page_file: Path, width: int, scheme: str
) -> None:
    with Opened(browser, page_file, width, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        assert page.locator("h1").inner_text() == "<b>run"
        assert page.locator("#scores tbody tr").count() >= 2 and page.locator(".figure").count() == 5
        assert page.locator(".card").count() == 10 and page.locator(".tree-leaves li").count() == 10
        assert page.locator(".matrix tbody tr").count() == 10 and page.locator("#curves figure").count() > 5
        assert NAME in page.locator("#skipped").inner_text() and "n_clusters" in page.locator("#config").text_content()
        page.locator("#cluster-9").scroll_into_view_if_needed()
        page.locator("#cluster-9 .picture-button").first.wait_for()
        drawn = "new Set(view.context.getImageData(0, 0, view.canvas.width, view.canvas.height).data).size"
        assert page.evaluate(drawn) > 50
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == ("rgb(252, 252, 250)" if scheme == "light" else "rgb(20, 22, 24)")


def test_the_map_answers_hover_and_click_with_names_that_stay_text(browser: Any, page_file: Path) -> None:
    with Opened(browser, page_file) as page:
        assert not page.locator("#tip").is_visible()
        page.mouse.move(*place_of(page, 7))
        found = page.evaluate("view.marks.hover")
        assert page.locator("#tip").is_visible()
        assert page.locator("#tip strong").inner_text() == page.evaluate(f"DATA.names[{found}]")
        page.mouse.down()
        page.mouse.up()
        assert page.locator("#chosen-name").inner_text() == page.evaluate(f"DATA.names[{found}]")
        assert page.locator(".near .picture-button").count() == 8
        nearest = page.evaluate(f"neighborsOf({found})[0]")
        page.locator(".near .picture-button").first.click()
        assert page.evaluate("view.marks.chosen") == nearest
        page.locator("#chosen .facts button").first.click()
        assert page.evaluate("view.marks.emphasis") == page.evaluate(f"DATA.cluster[{nearest}]")
        assert page.locator('.legend-item[aria-pressed="true"]').count() == 1
        page.evaluate("choose(7, false)")
        assert page.locator("#chosen-name").inner_text() == NAME
        assert page.locator("#chosen-name *").count() == 0 and page.locator("img").count() == 0


def test_a_name_is_searched_and_the_first_hit_taken_by_enter(browser: Any, page_file: Path) -> None:
    with Opened(browser, page_file) as page:
        page.locator("#search").fill("ONERROR")
        assert "1 name holds this" in page.locator("#hits").inner_text()
        assert page.locator(".hit").inner_text() == NAME
        page.locator("#search").press("Enter")
        assert page.evaluate("view.marks.chosen") == 7
        page.locator("#search").fill("digits/")
        assert page.locator(".hit").count() == 24
        page.locator("#search").fill("no such name")
        assert "0 names hold this" in page.locator("#hits").inner_text()


def test_wheel_drag_and_buttons_move_the_map(browser: Any, page_file: Path) -> None:
    with Opened(browser, page_file) as page:
        left, top = place_of(page, 20)
        page.mouse.move(left, top)
        page.mouse.wheel(0, -90)
        page.wait_for_timeout(50)
        while page.evaluate("view.scale") == 1:  # a wheel is not waited for
            page.wait_for_timeout(20)
        assert page.evaluate("view.scale") == pytest.approx(1.35, abs=0.01)
        assert place_of(page, 20) == pytest.approx((left, top), abs=1)  # zoomed about the pointer
        page.mouse.down()
        page.mouse.move(left + 80, top + 30)
        page.mouse.up()
        assert place_of(page, 20) == pytest.approx((left + 80, top + 30), abs=1)
        assert page.evaluate("view.marks.chosen") == -1  # a drag chooses nothing
        page.locator("#zoom-all").click()
        assert page.evaluate("view.scale") == 1
        page.locator("#zoom-in").click()
        assert page.evaluate("view.scale") == 1.5


def test_two_fingers_zoom_and_one_tap_chooses(browser: Any, page_file: Path) -> None:
    with Opened(browser, page_file, 390, touch=True) as page:
        left, top = place_of(page, 30)
        touch = page.context.new_cdp_session(page)

        def send(kind: str, *fingers: tuple[float, float]) -> None:
            points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(fingers)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

        send("touchStart", (left, top), (left + 40, top))
        for step in range(1, 9):
            send("touchMove", (left, top), (left + 40 + 10 * step, top))
        send("touchEnd")
        assert page.evaluate("view.scale") == pytest.approx(3, rel=0.1)
        assert page.evaluate("view.marks.chosen") == -1
        page.touchscreen.tap(*place_of(page, 30))
        assert page.evaluate("view.marks.chosen") >= 0


def test_the_map_is_used_by_keys_alone(browser: Any, page_file: Path) -> None:
    with Opened(browser, page_file) as page:
        page.locator("#zoom-all").focus()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.id") == "map-canvas"
        assert page.evaluate("view.marks.cross")
        for key in ("+", "+", "ArrowLeft", "ArrowDown"):
            page.keyboard.press(key)
        assert page.evaluate("view.scale") == 2.25
        assert page.evaluate("view.middle[0] < 0.5 && view.middle[1] < 0.5")
        page.keyboard.press("Enter")
        chosen = page.evaluate("view.marks.chosen")
        assert chosen == page.evaluate("view.nearest(view.wide / 2, view.high / 2, Infinity)")
        assert page.locator("#chosen-name").inner_text() == page.evaluate(f"DATA.names[{chosen}]")
        page.keyboard.press("0")
        page.keyboard.press("Escape")
        assert page.evaluate("[view.scale, view.marks.chosen]") == [1, -1]
        page.keyboard.press("Tab")  # the legend
        page.keyboard.press("Enter")
        assert page.evaluate("view.marks.emphasis") == 0


def test_classes_colour_the_map_and_the_switch_changes_the_scheme(browser: Any, page_file: Path) -> None:
    with Opened(browser, page_file) as page:
        page.locator("#coloring").select_option("truth")
        assert page.locator("#legend h3").inner_text() == "True classes"
        assert page.locator(".legend-name").first.inner_text() == NAME
        assert page.locator(".matrix tbody th").first.inner_text() == NAME
        assert page.evaluate("document.documentElement.scrollWidth") == 1440  # a long name is cut
        assert page.locator(".legend-size").last.bounding_box()["height"] < 25  # and leaves room for the number
        page.evaluate("showCluster(4)")
        assert page.evaluate("[view.marks.emphasis, view.groups === DATA.cluster]") == [4, True]
        for paper in ("rgb(252, 252, 250)", "rgb(20, 22, 24)", "rgb(252, 252, 250)"):
            page.locator("#theme").click()
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
            swatch = page.locator('.legend-item [data-color="0"]').evaluate("mark => mark.style.backgroundColor")
            assert swatch == ("rgb(40, 112, 175)" if paper.startswith("rgb(252") else "rgb(88, 167, 231)")


def teardown_module() -> None:
    torch.use_deterministic_algorithms(True)
