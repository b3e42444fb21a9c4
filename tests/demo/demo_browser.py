"""The demo as a user starts it, and a watched browser: Debian's Chromium, or the one that HAT_CHROMIUM names."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

LAUNCH = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
LAUNCH += ["--disable-background-networking", "--disable-component-update"]


@contextmanager
def chromium():
    """A browser; the test is skipped where there is none."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'hat-reid[dev]'")
    path = os.environ.get("HAT_CHROMIUM") or shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium: install it, or name one in HAT_CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=LAUNCH)
        yield browser
        browser.close()


@contextmanager
def visit(browser, url, *, width=1360, height=900, dark=False, password=None):
    """A visitor of their own; afterwards nothing may have been asked of anyone but the demo, and no script may have failed."""
    size, scheme = {"width": width, "height": height}, "dark" if dark else "light"
    context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(60_000)  # a busy machine is slow, and a test that waits for nothing is fast all the same
    asked, failed = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(url)
    if password is not None:
        page.get_by_label("username").fill(password[0])
        page.get_by_label("password").fill(password[1])
        page.get_by_role("button", name="Login").click()
    page.wait_for_selector(".hat-sample, #hat-results .hat-empty")
    yield page
    context.close()
    outside = [one for one in asked if not one.startswith((url, "data:", "blob:"))]
    assert outside == [], "the page asked another server"
    assert failed == []


def open_page(page, name):
    """Open one of the demo's pages."""
    page.get_by_role("tab", name=name, exact=True).click()


def ranked(page):
    """(identity, camera, similarity) of the ranked list, as it is read."""
    page.wait_for_selector("#hat-results .hat-card")
    cards = [card.split() for card in page.locator("#hat-results .hat-caption").all_inner_texts()]
    number = lambda words, name: int(words[words.index(name) + 1])  # noqa: E731
    return [(number(words, "Person"), number(words, "camera"), float(words[0])) for words in cards]


def serious_findings(page):
    """What axe finds that is serious or critical, by rule and place."""
    sync_axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe-playwright-python is not installed")
    found = [one for one in sync_axe.Axe().run(page).response["violations"] if one["impact"] in ("serious", "critical")]
    return [(finding["id"], node["target"]) for finding in found for node in finding["nodes"]]


def try_sample(page, number=0):
    """Search for one of the examples; the ranked list, as it is read."""
    page.locator(".hat-sample").nth(number).click()
    return ranked(page)


def give(page, field, path):
    """Hand in a file."""
    page.set_input_files(f"{field} input[type=file]", str(path))


def refusal(page):
    """The sentence that the page shows about what did not work."""
    toast = page.get_by_test_id("toast-body")
    toast.wait_for()
    assert toast.locator("img").count() == 0 and "Traceback" not in toast.inner_text()
    return toast.inner_text()


@contextmanager
def hat_demo(*arguments, **variables):
    """Start `hat demo`; its address once it is served. Afterwards it is stopped as by Ctrl+C, and must end in peace."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
    command = [sys.executable, "-m", "hat", "demo", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)
    said = ""
    try:
        while "the demo is at" not in said:
            line = process.stderr.readline()
            assert line, f"hat demo ended: {said}"
            said += line
        yield re.search(r"http://[^\s/]+/", said).group()
    finally:
        process.send_signal(signal.SIGINT)
        said += process.communicate(timeout=60)[1]
    assert process.returncode == 0 and "Traceback" not in said, said
