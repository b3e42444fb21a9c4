"""All that a visitor can do, in a real browser: every page, light and dark, on a desk and on a phone, by mouse and by keys."""

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from demo_browser import give, hat_demo, open_page, ranked, refusal, serious_findings, try_sample, visit
from PIL import Image

from hat.data import read_image
from hat.demo.uploads import UPLOAD_LIMITS
from hat.serve import Gallery

pytestmark = pytest.mark.slow

PHONE = {"width": 390, "height": 844}

CHECK = {"level": "embedding", "name": "worst cosine", "value": 0.9995, "limit": 0.999, "sense": ">=", "passed": True}
CANDIDATE = {"name": "market.onnx", "runtime": "onnxruntime", "passed": True, "checks": [CHECK]}
REPORT = {"passed": True, "reference": "runs/market", "num_queries": 40, "num_gallery": 200, "candidates": [CANDIDATE]}
CARD = "| what | " + " | ".join("ABCDEFGHIJKL") + " |\n" + "|---" * 13 + "|\n| one row of figures | " + "82.48 | " * 12 + "\n"


@pytest.fixture(scope="module")
def full_demo(browser, make_state, tiny_checkpoint, people, tmp_path_factory):
    """The page with everything, a second file to compare with and a report: (address, gallery's file, temporary folder)."""
    folder = tmp_path_factory.mktemp("full")
    make_state(folder).close()
    for name in ("model", "twin"):
        shutil.copytree(tiny_checkpoint, folder / name)
    (folder / "model" / "MODEL_CARD.md").write_text(CARD)
    (folder / "parity.json").write_text(json.dumps(REPORT))
    data = Path(people.query.paths[0]).parent.parent
    options = ("--gallery", folder / "people.gallery", "--data", data, "--compare", folder / "twin")
    arguments = map(str, (folder / "model", *options, "--report", folder / "parity.json"))
    with hat_demo(*arguments, TMPDIR=str(folder)) as url:
        yield url, folder / "people.gallery", folder


@pytest.mark.parametrize("size", [{}, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_is_accessible_and_fits(browser, full_demo, size, dark):
    with visit(browser, full_demo[0], dark=dark, **size) as page:
        found = {}

        def check(name):
            assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"], f"{name} is too wide"
            if findings := serious_findings(page):
                found[name] = findings

        check("welcome")
        try_sample(page)
        page.get_by_role("button", name="Cameras and time").click()
        page.get_by_role("button", name="What is known of the query").click()
        page.get_by_label("Only these cameras").wait_for()
        check("search")
        open_page(page, "Gallery")
        page.wait_for_selector("#hat-records .hat-card")
        page.get_by_role("button", name="Another gallery").click()
        page.get_by_label("Name of a new, empty gallery").wait_for()
        check("gallery")
        open_page(page, "Compare")
        page.locator("#hat-compare").click()
        page.wait_for_selector(".hat-compared")
        check("compare")
        open_page(page, "Look inside")
        page.wait_for_selector(".hat-maps img")
        check("look inside")
        open_page(page, "Report")
        page.wait_for_selector(".hat-report")
        check("report")
        page.get_by_role("button", name="What it must not be used for").click()
        page.get_by_role("heading", name="What it must not be used for").wait_for()
        page.get_by_role("button", name="Model card").click()
        figure = page.locator(".hat-model-card td", has_text="82.48").first
        figure.wait_for()
        lines = "td => { const all = document.createRange(); all.selectNodeContents(td); return all.getClientRects().length; }"
        assert size is PHONE or figure.evaluate(lines) == 1, "a figure of the card is broken into lines"
        check("about")
        assert found == {}


def test_a_person_is_found_by_keys_alone_and_pictures_are_whole_and_have_a_text(browser, full_demo):
    with visit(browser, full_demo[0]) as page:
        page.locator(".hat-sample").nth(2).focus()
        page.keyboard.press("Enter")
        assert len(ranked(page)) == 12
        sizes = page.locator("#hat-results img").evaluate_all(
            "all => all.map(one => [one.naturalWidth / one.naturalHeight, getComputedStyle(one).objectFit, one.alt])"
        )
        assert len(sizes) == 12
        assert all(fit == "contain" and alt.startswith("Rank ") and 0.45 < ratio < 0.55 for ratio, fit, alt in sizes)
        page.locator("#hat-results .hat-card").nth(1).focus()
        page.keyboard.press("Space")
        page.wait_for_function("document.querySelector('#hat-details dd')?.innerText.startsWith('2')")
        page.get_by_label("Leave out the query's own camera").focus()
        page.keyboard.press("Space")
        page.wait_for_selector(".hat-summary >> text=of 32")
        page.get_by_role("tab", name="Search").focus()
        page.keyboard.press("Tab")


def test_cameras_are_chosen_and_a_wrong_time_is_a_sentence(browser, full_demo, sample):
    other = ({1, 2} - {sample.camid}).pop()
    with visit(browser, full_demo[0]) as page:
        try_sample(page)
        page.get_by_label("Leave out the query's own camera").uncheck()
        page.wait_for_selector(".hat-summary >> text=of 32")
        page.get_by_role("button", name="Cameras and time").click()
        page.get_by_label("Only these cameras").click()
        page.get_by_role("option", name=f"camera {other}").click()
        page.wait_for_selector(".hat-summary >> text=of 16")
        of_other = f"every(card => card.innerText.includes('camera {other}'))"
        page.wait_for_function(f"[...document.querySelectorAll('#hat-results .hat-card')].{of_other}")
        page.get_by_label("Seen from (UTC)").fill("yesterday")
        page.get_by_label("Seen from (UTC)").press("Enter")
        assert "'yesterday' is not a time" in refusal(page)


def test_a_person_is_cropped_out_of_a_photo_by_mouse_and_by_keys(browser, full_demo, sample, tmp_path):
    photo = Image.new("RGB", (600, 300), (120, 130, 120))
    person = read_image(sample.path)
    photo.paste(person.resize((100, 200)), (450, 50))
    photo.save(tmp_path / "street.png")
    with visit(browser, full_demo[0]) as page:
        give(page, "#hat-query-files", tmp_path / "street.png")
        area = page.locator(".hat-crop-area")
        area.wait_for()
        assert serious_findings(page) == []
        frame = area.bounding_box()
        at = lambda x, y: (frame["x"] + x * frame["width"] / 600, frame["y"] + y * frame["height"] / 300)  # noqa: E731
        page.mouse.move(*at(450, 50))
        page.mouse.down()
        page.mouse.move(*at(500, 150))
        page.mouse.move(*at(550, 250))
        page.mouse.up()
        box = page.locator(".hat-crop-box")
        sides = lambda: [float(one) for one in re.findall(r"[\d.]+(?=%)", box.get_attribute("style"))]  # noqa: E731
        drawn = sides()
        assert np.allclose(drawn, [75, 100 / 6, 100 / 6, 200 / 3], atol=1.5)
        box.focus()
        page.keyboard.press("ArrowLeft")
        moved = sides()
        assert moved[0] == pytest.approx(drawn[0] - 2) and moved[2] == pytest.approx(drawn[2])
        page.keyboard.press("ArrowRight")
        page.get_by_role("button", name="Search for this person").click()
        found = ranked(page)
        assert len(found) == 12 and page.locator("#hat-query .hat-name").all_inner_texts() == ["street.png"]
        assert not area.is_visible()


def test_images_are_enrolled_and_removed_again(browser, full_demo, make_image, tmp_path):
    url, location, _ = full_demo

    def count():
        with Gallery.open(location, read_only=True) as gallery:
            return len(gallery)

    before = count()
    with visit(browser, url) as page:
        open_page(page, "Gallery")
        give(page, "#hat-enroll-files", make_image(tmp_path / "0777_c5s1.png", seed=77))
        page.wait_for_selector("#hat-enroll-files >> text=0777_c5s1")
        page.locator("#hat-enroll").click()
        page.wait_for_selector("#hat-enrolled >> text=1 image added")
        assert count() == before + 1
        page.locator("#hat-person input").click()
        page.get_by_role("option", name="person 777").click()
        page.wait_for_selector("#hat-records >> text=1 to 1 of 1 image")
        page.locator("#hat-records .hat-card").first.click()
        page.get_by_role("button", name="Remove for good").first.click()
        page.get_by_role("button", name="Marked images").click()
        page.wait_for_selector("#hat-confirm >> text=Remove 1 marked image?")
        page.locator("#hat-confirm").get_by_role("button", name="Keep").click()
        page.wait_for_selector("#hat-confirm", state="hidden")
        assert count() == before + 1
        page.get_by_role("button", name="Marked images").click()
        page.locator("#hat-confirm").get_by_role("button", name="Remove for good").click()
        page.wait_for_selector("#hat-removed >> text=1 image removed")
    assert count() == before


def test_a_gallery_is_made_and_one_of_another_model_refused(browser, full_demo, foreign_gallery):
    with visit(browser, full_demo[0]) as page:
        open_page(page, "Gallery")
        page.get_by_role("button", name="Another gallery").click()
        give(page, "#hat-gallery-file", foreign_gallery)
        assert "theirs.gallery was made by another model" in refusal(page)
        page.get_by_label("Name of a new, empty gallery").fill("evening")
        page.get_by_role("button", name="Make it").click()
        page.wait_for_selector("#hat-records >> text=Nobody is enrolled here yet")
        assert page.locator("#hat-gallery input").input_value() == "evening"
    with visit(browser, full_demo[0]) as page:  # the others see it too, and begin with the first one
        assert page.locator("#hat-gallery input").input_value() == "people"
        page.locator("#hat-gallery input").click()
        page.get_by_role("option", name="evening").wait_for()


def test_an_enormous_file_is_refused_in_a_sentence_and_uploads_leave_no_file_behind(browser, full_demo, make_image, tmp_path):
    url, _, folder = full_demo
    large = tmp_path / "large.jpg"
    with large.open("wb") as file:
        file.truncate(UPLOAD_LIMITS.file_bytes + 2**20)
    with visit(browser, url) as page:
        give(page, "#hat-query-files", large)
        assert "size" in refusal(page).lower()
        assert page.locator("#hat-results .hat-empty").count() == 1
        give(page, "#hat-query-files", make_image(tmp_path / "noise.png", seed=5))
        ranked(page)
        # The library makes an empty file with a random name for each upload that it hands over, and forgets it.
        assert [path for path in folder.glob("hat-demo-*/uploads/**/*") if path.is_file() and path.stat().st_size] == []


def test_the_command_draws_people_asks_for_a_password_and_cleans_up(browser, tiny_checkpoint, tmp_path):
    arguments = (str(tiny_checkpoint), "--user", "anna", "--host", "127.0.0.1", "--port", "17860")
    served = hat_demo(*arguments, HAT_DEMO_PASSWORD="walnut", TMPDIR=str(tmp_path))
    with served as url, visit(browser, url, password=("anna", "walnut")) as page:
        assert len(try_sample(page)) == 12
        open_page(page, "Gallery")
        page.wait_for_selector("#hat-records .hat-card")
        assert "240" in page.locator(".hat-stats").inner_text()
    time.sleep(0.5)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("hat-demo")] == []
