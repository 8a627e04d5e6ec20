"""The screenshots of the page on the studio, and how long a person waits: a studio is started, and
a browser paints in it with the bundled model.

    python docs/figures/studio.py [FOLDER]

Needs `pip install 'limner[test]'` and Debian's chromium; numbers are printed as JSON.
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
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = "/usr/bin/chromium"
PICTURES = Path(__file__).parents[1] / "pictures"
WIDE = {"width": 1200, "height": 780}
LOW = {"width": 1200, "height": 640}
PHONE = {"width": 375, "height": 780}
TALL = {"width": 1200, "height": 1060}
CLIENTS, EACH = 10, 20
LEARNS = (
    "data.size=16 model.channels=32,64 train.batch=32 train.steps=1200 train.sample_every=300 "
    "train.log_every=20"
)
WATCHED = """new MutationObserver(() => {
    if (document.querySelector(".job canvas")) window.formed ??= performance.now();
    if (document.querySelector(".job.done img")) window.painted ??= performance.now();
}).observe(document, { childList: true, subtree: true, attributes: true })"""
"""When a picture is first seen, for a page is asked only now and then."""


def started(folder: Path, port: int = 0) -> tuple[subprocess.Popen[str], str, float]:
    """A studio, its address, and the seconds until it answered."""
    begin = time.perf_counter()
    command = [sys.executable, "-m", "limner", "studio", "--port", str(port), "--data", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    url = re.findall(r"http://\S+", process.stdout.readline())[0]
    httpx.get(f"{url}/healthz", timeout=60)
    return process, url, time.perf_counter() - begin


def cpu(process: subprocess.Popen[str]) -> float:
    """Seconds of a processor that a studio's server has used, its worker's aside: what does not
    depend on who else uses the machine.
    """
    used = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(used[11]) + int(used[12])) / os.sysconf("SC_CLK_TCK")


def until_ready(url: str) -> None:
    while httpx.get(f"{url}/readyz", timeout=60).status_code != 200:
        time.sleep(0.1)


def requests_a_second(process: subprocess.Popen[str], url: str) -> dict[str, float]:
    """Jobs submitted and asked about, and how many there were a second."""

    def client() -> None:
        with httpx.Client(base_url=url, timeout=60) as own:
            for _ in range(EACH):
                own.get("/api/v1/jobs")

    found: dict[str, float] = {}
    begin, used = time.perf_counter(), cpu(process)
    threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    found["GET jobs per second"] = CLIENTS * EACH / (time.perf_counter() - begin)
    found["GET jobs, ms of CPU"] = 1000 * (cpu(process) - used) / (CLIENTS * EACH)
    with httpx.Client(base_url=url, timeout=60) as own:
        asked = {"params": {"sampler": {"steps": 4000}}}
        begin, used = time.perf_counter(), cpu(process)
        ids = [own.post("/api/v1/jobs", json=asked).json()["id"] for _ in range(100)]
        found["POST jobs per second"] = 100 / (time.perf_counter() - begin)
        found["POST jobs, ms of CPU"] = 1000 * (cpu(process) - used) / 100
        begin = time.perf_counter()
        for id in ids:
            own.delete(f"/api/v1/jobs/{id}")
        found["DELETE jobs per second"] = 100 / (time.perf_counter() - begin)
    return found


def opened(browser: Browser, url: str, path: str = "/", **of: Any) -> Page:
    page = browser.new_context(**({"viewport": WIDE} | of)).new_page()
    page.goto(url + path)
    page.wait_for_selector("main")
    return page


SHOWN = """() => [...document.images]
    .filter((one) => one.getBoundingClientRect().top < innerHeight)
    .every((one) => one.complete && one.naturalWidth)"""


def shot(page: Page, name: str, folder: Path) -> None:
    page.wait_for_function(SHOWN)
    page.screenshot(path=folder / f"studio-{name}.png")


def waits(browser: Browser, url: str) -> dict[str, float]:
    """From an address to a page that can be used, and from Enter to the first frame."""
    begin = time.perf_counter()
    page = browser.new_page(viewport=WIDE)
    page.add_init_script(WATCHED)
    page.goto(url)
    page.wait_for_selector(".paint:not([disabled])")
    usable = time.perf_counter() - begin
    page.fill("#prompt", "a red apple")
    page.select_option("#count", "1")
    begin = page.evaluate("performance.now()")
    page.locator("#prompt").press("Control+Enter")
    page.wait_for_selector(".job.done img", timeout=300_000)
    frame, painted = ((at - begin) / 1000 for at in page.evaluate("[formed, painted]"))
    page.context.close()
    return {"usable": usable, "first frame": frame, "one picture": painted}


def painted(page: Page, prompt: str, count: int, shots: Path | None = None) -> None:
    page.fill("#prompt", prompt)
    page.select_option("#count", str(count))
    page.locator("#prompt").press("Control+Enter")
    if shots is not None:
        page.wait_for_function(
            "() => document.querySelector('.job progress:not(.still)')?.value > 8"
        )
        shot(page, "forming", shots)
    page.wait_for_selector(f'.job.done[aria-label="{prompt}"] img', timeout=300_000)


def main(folder: Path) -> None:
    """Measure, and take the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        process, url, numbers["first answer, first start"] = started(Path(data))
        until_ready(url)
        process.terminate()
        process.wait()
        process, url, numbers["first answer"] = started(Path(data))
        numbers["first answer, CPU"] = cpu(process)
        try:
            begin = time.perf_counter()
            until_ready(url)
            numbers["worker ready after"] = time.perf_counter() - begin
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = opened(browser, url)
            page.wait_for_selector(".paint:not([disabled])")
            shot(page, "empty", folder)
            page.context.close()
            numbers["waits"] = [waits(browser, url) for _ in range(3)]
            numbers |= requests_a_second(process, url)
            tour(browser, url, folder)
            browser.close()
        finally:
            process.terminate()
            process.wait()
    print(json.dumps(numbers, indent=1))


def tour(browser: Browser, url: str, folder: Path) -> None:
    """The pictures of the page."""
    page = opened(browser, url)
    for prompt in ("a golden crown", "a sailing boat", "a purple cat"):
        painted(page, prompt, 2)
    painted(page, "a red apple", 4, folder)
    page.locator(".job.done a").first.click()
    page.wait_for_selector(".lit img:not(.pixels)")  # the upscaler's view
    shot(page, "picture", folder)
    page.context.close()
    attention(browser, url, folder)
    words(browser, url, folder)
    way(browser, url, folder)
    dark = opened(browser, url, viewport=LOW, color_scheme="dark")
    dark.wait_for_selector(".gallery img")
    shot(dark, "dark", folder)
    dark.context.close()
    phone = opened(browser, url, viewport=PHONE, device_scale_factor=2, is_mobile=True)
    phone.wait_for_selector(".gallery img")
    shot(phone, "phone", folder)
    phone.context.close()
    grid(browser, url, folder)
    steps(browser, url, folder)
    training(browser, url, folder)


def seeded(page: Page, seed: int) -> None:
    page.locator("#seed").fill(str(seed))
    page.locator("#seed").dispatch_event("change")


def attention(browser: Browser, url: str, folder: Path) -> None:
    """Where the model looks for a word."""
    page = opened(browser, url)
    seeded(page, 1)
    painted(page, "a sad cloud with rain", 1)
    page.locator(".job.done a").first.click()
    page.get_by_role("button", name="Where it looks").click()
    page.get_by_role("button", name="rain", exact=True).click()
    page.mouse.move(0, 0)
    page.wait_for_selector(".bright")
    shot(page, "attention", folder)
    page.context.close()


def words(browser: Browser, url: str, folder: Path) -> None:
    """Words of a picture's prompt, changed two ways from where it began."""
    page = opened(browser, url)
    seeded(page, 3)
    painted(page, "a green heart", 1)
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
    shot(page, "words", folder)
    page.context.close()


def way(browser: Browser, url: str, folder: Path) -> None:
    """From one seed to another."""
    page = opened(browser, url)
    page.get_by_role("button", name="From seed to seed").click()
    page.fill("#prompt", "an animal")
    seeded(page, 7)
    page.locator(".paint").click()
    page.get_by_label("Along the path").fill("1")
    shot(page, "way", folder)
    page.context.close()


def grid(browser: Browser, url: str, folder: Path) -> None:
    """Three guidance scales of two prompts."""
    page = opened(browser, url)
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
    shot(page, "grid", folder)
    page.context.close()


def steps(browser: Browser, url: str, folder: Path) -> None:
    """One seed after more and fewer steps."""
    page = opened(browser, url, viewport=LOW)
    page.wait_for_selector(".paint:not([disabled])")
    page.select_option("#model", "shortcut")
    page.select_option("#class", "5")
    page.select_option("#count", "1")
    seeded(page, 3)
    page.locator(".paint").click()
    page.locator(".job.done a").first.click()
    page.get_by_role("button", name="More or fewer steps").click()
    page.get_by_label("Steps").press("ArrowLeft")
    page.get_by_text("2 steps, painted in").wait_for()
    shot(page, "steps", folder)
    page.context.close()


def draw_dots(folder: Path, count: int = 200) -> None:
    """Pictures of coloured dots, drawn by chance."""
    folder.mkdir()
    chance = random.Random(0)
    for i in range(count):
        image = Image.new("RGB", (64, 64), "white")
        x, y, radius = (chance.uniform(*ends) for ends in ((14, 50), (14, 50), (6, 14)))
        box = (x - radius, y - radius, x + radius, y + radius)
        ImageDraw.Draw(image).ellipse(box, chance.choice(("#d0342c", "#2c58d0", "#2f8f3e")))
        image.save(folder / f"{i:03}.png")


def training(browser: Browser, url: str, folder: Path) -> None:
    """A model that learns from pictures that were chosen in the page."""
    page = opened(browser, url, "/train", viewport=TALL)
    page.set_default_timeout(3_600_000)
    with tempfile.TemporaryDirectory() as place:
        draw_dots(Path(place) / "dots")
        page.locator("input[webkitdirectory]").set_input_files(Path(place) / "dots")
        page.get_by_text("200 sound").wait_for()
    page.locator(".begin summary").click()
    page.fill("#further", LEARNS)
    page.get_by_role("button", name="Train").click()
    page.get_by_text("done, 1,200 of 1,200 steps").wait_for()
    shot(page, "training", folder)
    page.context.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES)
