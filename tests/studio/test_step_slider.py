"""The slider of steps: a picture is painted again when it is moved."""

import re

import pytest
from playwright.sync_api import Page, expect

from conftest import Open, Studio, clean, until

OWN = 4


@pytest.fixture
def slider(visit: Open, studio: Studio) -> Page:
    """Open a picture with its slider focused."""
    picture = studio.painted(prompt="a red apple", seed=5, n=2, sampler={"steps": OWN})
    page = visit(f"/p/{picture['outputs'][1]['id']}")
    page.get_by_role("button", name="More or fewer steps").press("Enter")
    page.get_by_label("Steps").focus()
    return page


def test_a_picture_is_painted_again_when_the_slider_is_moved(slider: Page, studio: Studio):
    page, steps = slider, slider.get_by_label("Steps")
    image, status = page.locator(".path img"), page.locator(".path [role=status]")
    source = image.get_attribute("src")
    expect(steps).to_have_attribute("aria-valuetext", f"{OWN} steps")
    clean(page)
    steps.press("ArrowLeft")
    expect(status).to_contain_text("2 steps, painted in")
    expect(image).not_to_have_attribute("src", source or "")
    steps.press("ArrowRight")
    expect(image).to_have_attribute("src", source or "")
    steps.press("ArrowLeft")
    newest = studio.client.get("/api/v1/history", params={"limit": 1}).json()["pictures"][0]
    expect(image).to_have_attribute("src", newest["url"])
    page.locator(".path a").press("Enter")
    expect(page).to_have_url(re.compile(newest["id"]))
    assert newest["settings"]["sampler"]["steps"] == 2
    assert newest["settings"]["seed"] == 6, "the slider must use the second picture's seed"


def test_pictures_of_all_numbers_of_steps_are_shown_side_by_side(slider: Page, studio: Studio):
    page, steps = slider, slider.get_by_label("Steps")
    studio.client.patch("/api/v1/queue", json={"paused": True})
    try:
        steps.press("End")
        expect(page.locator(".path [role=status]")).to_contain_text("128 steps, waiting")
        steps.press("ArrowLeft")
        expect(page.locator(".path [role=status]")).to_contain_text("64 steps, waiting")
        page.get_by_role("button", name="All side by side").press("Enter")
    finally:
        studio.client.patch("/api/v1/queue", json={"paused": False})
    heads = page.locator(".board th")
    expect(heads).to_have_text([f"{n} step{'s' * (n > 1)}" for n in (1, 2, 4, 8, 16, 32, 64, 128)])
    expect(page.locator(".board td img")).to_have_count(8)
    expect(page.get_by_text("8 of 8 painted")).to_be_visible()
    clean(page)


def test_outdated_jobs_of_the_slider_are_cancelled(slider: Page, studio: Studio):
    page, steps = slider, slider.get_by_label("Steps")
    id = page.url.rsplit("/", 1)[1]

    def states() -> dict[int, str]:
        jobs = studio.client.get("/api/v1/jobs", params={"board": f"steps-{id}"}).json()["jobs"]
        return {job["params"]["sampler"]["steps"]: job["state"] for job in jobs}

    studio.client.patch("/api/v1/queue", json={"paused": True})
    try:
        steps.press("ArrowLeft")
        expect(page.locator(".path [role=status]")).to_contain_text("2 steps, waiting")
        steps.press("ArrowLeft")
        until(lambda: states() == {2: "cancelled", 1: "queued"})
    finally:
        studio.client.patch("/api/v1/queue", json={"paused": False})
    expect(page.locator(".path [role=status]")).to_contain_text("1 step, painted in")
