"""What a person does in a browser: ``python3 browser.py`` with a JSON object on standard input.

Opens an experiment, a run's charts and its picture, waits until each shows what it should, and writes a screenshot of each
to the folder ``screens``. Prints what stood on each page. Runs in the browser's machine, as a user without rights.
Input: ``url``, ``authorization`` (the header's value), ``key`` (the SHA-256 of the certificate's public key, in base64: the
one certificate that the browser accepts without a CA), ``experiment``, ``run``, ``screens``.
"""

import json
import sys

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

SECONDS = 90
OPTIONS = [
    *("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--window-size=1440,900", "--hide-scrollbars"),
]
PICTURE_SHOWN = "return [...document.images].some(i => i.naturalWidth > 100 && i.clientWidth > 100)"
LINES_DRAWN = "return document.querySelectorAll('.js-plotly-plot .scatterlayer .trace path.js-line').length"


def main() -> None:
    asked = json.load(sys.stdin)
    options = webdriver.ChromeOptions()
    for option in [*OPTIONS, f"--ignore-certificate-errors-spki-list={asked['key']}", "--user-data-dir=/tmp/profile"]:
        options.add_argument(option)
    browser = webdriver.Chrome(options=options)
    wait = WebDriverWait(browser, SECONDS)
    seen = {}

    def text() -> str:
        return browser.find_element(By.TAG_NAME, "body").text

    def show(name: str, path: str, words: list[str], script: str = "return true") -> None:
        browser.get(f"{asked['url']}/#{path}")
        try:
            wait.until(lambda _: all(word in text() for word in words) and browser.execute_script(script))
        finally:
            browser.save_screenshot(f"{asked['screens']}/{name}.png")
            seen[name] = text()

    try:
        browser.execute_cdp_cmd("Network.enable", {})
        headers = {"Authorization": asked["authorization"]}
        browser.execute_cdp_cmd("Network.setExtraHTTPHeaders", {"headers": headers})
        experiment = f"/experiments/{asked['experiment']}"
        run = f"{experiment}/runs/{asked['run']}"
        show("experiment", f"{experiment}/runs", ["harbour-cranes", "small-step", "large-step", "warm-start"])
        show("charts", f"{run}/model-metrics", ["warm-start", "loss", "accuracy"], f"{LINES_DRAWN} >= 2")
        show("picture", f"{run}/artifacts/error.png", ["warm-start", "error.png"], PICTURE_SHOWN)
        browser.get(f"{asked['url']}/version")
        seen["protocol"] = browser.execute_script(
            "return performance.getEntriesByType('navigation')[0].nextHopProtocol"
        )
    finally:
        print(json.dumps(seen))
        browser.quit()


main()
