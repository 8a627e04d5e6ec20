"""Take the screenshots of the page on the studio, and measure how long a user waits.

The script starts a studio, and a browser paints in it with the bundled model.

    python docs/figures/studio.py [FOLDER]

It needs `pip install 'limner[test]'` and Debian's chromium. The numbers are printed as JSON.
"""

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, ViewportSize, sync_playwright

CHROMIUM = "/usr/bin/chromium"
PICTURES = Path(__file__).parents[1] / "pictures"
WIDE: ViewportSize = {"width": 1200, "height": 780}
LOW = {"width": 1200, "height": 640}
PHONE = {"width": 375, "height": 780}
TALL = {"width": 1200, "height": 1060}
CLIENTS, REQUESTS = 10, 20
TRAIN_OPTIONS = (
    "data.size=16 model.channels=32,64 train.batch=32 train.steps=1200 train.sample_every=300 "
    "train.log_every=20"
)
WATCH_SCRIPT = """new MutationObserver(() => {
    if (document.querySelector(".job canvas")) window.formed ??= performance.now();
    if (document.querySelector(".job.done img")) window.painted ??= performance.now();
}).observe(document, { childList: true, subtree: true, attributes: true })"""
"""Records when a picture first appears, because the page itself is polled too rarely."""


def start_studio(folder: Path, port: int = 0) -> tuple[subprocess.Popen[str], str, float]:
    """Start a studio; return its process, its address, and the seconds until it answered."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "limner", "studio", "--no-open"]
    command += ["--port", str(port), "--data", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    url = re.findall(r"http://\S+", process.stdout.readline())[0]
    httpx.get(f"{url}/healthz", timeout=60)
    return process, url, time.perf_counter() - start


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    """Return the CPU time of a studio's server in seconds, without that of its worker. It does not
    depend on other programs on the machine.
    """
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_ready(url: str) -> None:
    while httpx.get(f"{url}/readyz", timeout=60).status_code != 200:
        time.sleep(0.1)


def measure_requests(process: subprocess.Popen[str], url: str) -> dict[str, float]:
    """Submit jobs and list them; return the requests per second and the CPU time of each."""

    def client() -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            for _ in range(REQUESTS):
                http.get("/api/v1/jobs")

    rates: dict[str, float] = {}
    start, cpu_before = time.perf_counter(), cpu_seconds(process)
    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rates["GET jobs per second"] = CLIENTS * REQUESTS / (time.perf_counter() - start)
    rates["GET jobs, ms of CPU"] = 1000 * (cpu_seconds(process) - cpu_before) / (CLIENTS * REQUESTS)
    with httpx.Client(base_url=url, timeout=60) as http:
        job = {"params": {"sampler": {"steps": 4000}}}
        start, cpu_before = time.perf_counter(), cpu_seconds(process)
        ids = [http.post("/api/v1/jobs", json=job).json()["id"] for _ in range(100)]
        rates["POST jobs per second"] = 100 / (time.perf_counter() - start)
        rates["POST jobs, ms of CPU"] = 1000 * (cpu_seconds(process) - cpu_before) / 100
        start = time.perf_counter()
        for id in ids:
            http.delete(f"/api/v1/jobs/{id}")
        rates["DELETE jobs per second"] = 100 / (time.perf_counter() - start)
    return rates


def open_page(browser: Browser, url: str, path: str = "/", **options: Any) -> Page:
    page = browser.new_context(**dict[str, Any](viewport=WIDE) | options).new_page()
    page.goto(url + path)
    page.wait_for_selector("main")
    return page


ALL_LOADED = """() => [...document.images]
    .filter((one) => one.getBoundingClientRect().top < innerHeight)
    .every((one) => one.complete && one.naturalWidth)"""


def screenshot(page: Page, name: str, folder: Path) -> None:
    page.wait_for_function(ALL_LOADED)
    page.screenshot(path=folder / f"studio-{name}.png")


def measure_waits(browser: Browser, url: str) -> dict[str, float]:
    """Measure the time from an address to a usable page, and from Enter to the first frame."""
    start = time.perf_counter()
    page = browser.new_page(viewport=WIDE)
    page.add_init_script(WATCH_SCRIPT)
    page.goto(url)
    page.wait_for_selector(".paint:not([disabled])")
    usable = time.perf_counter() - start
    page.fill("#prompt", "a red apple")
    page.select_option("#count", "1")
    start = page.evaluate("performance.now()")
    page.locator("#prompt").press("Control+Enter")
    page.wait_for_selector(".job.done img", timeout=300_000)
    frame, picture = ((stamp - start) / 1000 for stamp in page.evaluate("[formed, painted]"))
    page.context.close()
    return {"usable": usable, "first frame": frame, "one picture": picture}


def paint(page: Page, prompt: str, count: int, folder: Path | None = None) -> None:
    page.fill("#prompt", prompt)
    page.select_option("#count", str(count))
    page.locator("#prompt").press("Control+Enter")
    if folder is not None:
        page.wait_for_function(
            "() => document.querySelector('.job progress:not(.still)')?.value > 8"
        )
        screenshot(page, "forming", folder)
    page.wait_for_selector(f'.job.done[aria-label="{prompt}"] img', timeout=300_000)


def main(folder: Path) -> None:
    """Measure the studio, and take the screenshots."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        process, url, numbers["first answer, first start"] = start_studio(Path(data))
        wait_until_ready(url)
        process.terminate()
        process.wait()
        process, url, numbers["first answer"] = start_studio(Path(data))
        numbers["first answer, CPU"] = cpu_seconds(process)
        try:
            start = time.perf_counter()
            wait_until_ready(url)
            numbers["worker ready after"] = time.perf_counter() - start
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = open_page(browser, url)
            page.wait_for_selector(".paint:not([disabled])")
            screenshot(page, "empty", folder)
            page.context.close()
            numbers["waits"] = [measure_waits(browser, url) for _ in range(3)]
            numbers |= measure_requests(process, url)
            tour(browser, url, folder)
            browser.close()
        finally:
            process.terminate()
            process.wait()
    print(json.dumps(numbers, indent=1))


def tour(browser: Browser, url: str, folder: Path) -> None:
    """Take the screenshots of the page."""
    page = open_page(browser, url)
    for prompt in ("a golden crown", "a sailing boat", "a purple cat"):
        paint(page, prompt, 2)
    paint(page, "a red apple", 4, folder)
    page.locator(".job.done a").first.click()
    page.wait_for_selector(".lit img:not(.pixels)")  # the upscaler's view
    screenshot(page, "picture", folder)
    page.context.close()
    attention(browser, url, folder)
    words(browser, url, folder)
    way(browser, url, folder)
    dark = open_page(browser, url, viewport=LOW, color_scheme="dark")
    dark.wait_for_selector(".gallery img")
    screenshot(dark, "dark", folder)
    dark.context.close()
    phone = open_page(browser, url, viewport=PHONE, device_scale_factor=2, is_mobile=True)
    phone.wait_for_selector(".gallery img")
    screenshot(phone, "phone", folder)
    phone.context.close()
    grid(browser, url, folder)
    steps(browser, url, folder)
    training(browser, url, folder)


def set_seed(page: Page, seed: int) -> None:
    page.locator("#seed").fill(str(seed))
    page.locator("#seed").dispatch_event("change")


def attention(browser: Browser, url: str, folder: Path) -> None:
    """Show where the model attends for a word."""
    page = open_page(browser, url)
    set_seed(page, 1)
    paint(page, "a sad cloud with rain", 1)
    page.locator(".job.done a").first.click()
    page.get_by_role("button", name="Where it looks").click()
    page.get_by_role("button", name="rain", exact=True).click()
    page.mouse.move(0, 0)
    page.wait_for_selector(".bright")
    screenshot(page, "attention", folder)
    page.context.close()


def words(browser: Browser, url: str, folder: Path) -> None:
    """Show two ways to change a prompt's words, both starting from the first picture."""
    page = open_page(browser, url)
    set_seed(page, 3)
    paint(page, "a green heart", 1)
    page.locator(".job.done a").first.click()
    page.get_by_role("link", name="Change words").click()
    tree = page.locator(".tree a")
    for word, new in (("green", "blue"), ("heart", "star"), ("green", "red")):
        page.get_by_role("button", name=word, exact=True).click()
        page.get_by_label("In place of").fill(new)
        page.get_by_role("button", name="Paint the change").click()
        tree.filter(has_text=f"{word} → {new}").wait_for(timeout=300_000)
        if new == "star":
            tree.first.click()
            page.get_by_role("heading", name="a green heart").wait_for()
    page.get_by_label("Before and after").fill("45")
    page.mouse.move(0, 0)
    screenshot(page, "words", folder)
    page.context.close()


def way(browser: Browser, url: str, folder: Path) -> None:
    """Show the path from one seed to another."""
    page = open_page(browser, url)
    page.get_by_role("button", name="From seed to seed").click()
    page.fill("#prompt", "an animal")
    set_seed(page, 7)
    page.locator(".paint").click()
    page.get_by_label("Along the path").fill("1")
    screenshot(page, "way", folder)
    page.context.close()


def grid(browser: Browser, url: str, folder: Path) -> None:
    """Show three guidance scales for two prompts."""
    page = open_page(browser, url)
    page.fill("#prompt", "a green heart")
    page.locator("details.more summary").last.click()
    page.select_option("#axis-0", "sampler.scale")
    page.get_by_label("Values of columns").fill("1, 2.5, 6")
    page.select_option("#axis-1", "prompt")
    page.get_by_label("Values of rows").fill("green, red")
    page.get_by_role("button", name="Paint 6 pictures").click()
    page.wait_for_function(
        "() => document.querySelectorAll('.board td img').length === 6", timeout=600_000
    )
    screenshot(page, "grid", folder)
    page.context.close()


def steps(browser: Browser, url: str, folder: Path) -> None:
    """Show one seed with more and with fewer steps."""
    page = open_page(browser, url, viewport=LOW)
    page.wait_for_selector(".paint:not([disabled])")
    page.select_option("#model", "shortcut")
    page.select_option("#class", "5")
    page.select_option("#count", "1")
    set_seed(page, 3)
    page.locator(".paint").click()
    page.locator(".job.done a").first.click()
    page.get_by_role("button", name="More or fewer steps").click()
    page.get_by_label("Steps").press("ArrowLeft")
    page.get_by_text("2 steps, painted in").wait_for()
    screenshot(page, "steps", folder)
    page.context.close()


def draw_dots(folder: Path, count: int = 200) -> None:
    """Draw pictures of random coloured dots."""
    folder.mkdir()
    generator = random.Random(0)
    for i in range(count):
        image = Image.new("RGB", (64, 64), "white")
        x, y, radius = (generator.uniform(*ends) for ends in ((14, 50), (14, 50), (6, 14)))
        box = (x - radius, y - radius, x + radius, y + radius)
        ImageDraw.Draw(image).ellipse(box, generator.choice(("#d0342c", "#2c58d0", "#2f8f3e")))
        image.save(folder / f"{i:03}.png")


def training(browser: Browser, url: str, folder: Path) -> None:
    """Show a model that is trained on pictures that were chosen in the page."""
    page = open_page(browser, url, "/train", viewport=TALL)
    page.set_default_timeout(3_600_000)
    with tempfile.TemporaryDirectory() as temporary:
        draw_dots(Path(temporary) / "dots")
        page.locator("input[webkitdirectory]").set_input_files(Path(temporary) / "dots")
        page.get_by_text("200 valid").wait_for()
    page.locator(".begin summary").click()
    page.fill("#further", TRAIN_OPTIONS)
    page.get_by_role("button", name="Train").click()
    page.get_by_text("done, 1,200 of 1,200 steps").wait_for()
    screenshot(page, "training", folder)
    page.context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
