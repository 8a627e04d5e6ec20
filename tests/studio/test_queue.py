"""The queue: pausing, clearing, reordering, and estimates of time."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect
from test_store import asked

from conftest import Open, Studio, clean, until
from limner.studio.background import in_thread
from limner.studio.order import WorkAhead
from limner.studio.problems import Problem
from limner.studio.queue import Queue
from limner.studio.store import Store
from limner.studio.tables import Job, Painted


def pause(studio: Studio, paused: bool) -> dict[str, object]:
    response = studio.client.patch("/api/v1/queue", json={"paused": paused})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.fixture
def paused(studio: Studio) -> Iterator[Studio]:
    """Pause the queue of the shared studio during a test."""
    pause(studio, True)
    yield studio
    studio.client.post("/api/v1/queue/clear", json={})
    pause(studio, False)


def test_the_estimate_counts_pictures_of_every_model(tmp_path: Path):
    store = Store(f"sqlite:///{tmp_path}/studio.db", tmp_path)  # pyright: ignore
    queue = Queue(store)
    queue.update_pace("emoji", 0.5)
    assert queue.eta(asked(4), WorkAhead(0, {})) == 2
    assert queue.eta(asked(4), WorkAhead(2, {"emoji": 17})) == 10.5
    assert queue.eta(asked(1), WorkAhead(1, {"slow": 4})) == 2.5, (
        "the speed of another model is not known"
    )
    queue.update_pace("slow", 10.0)
    assert queue.eta(asked(1), WorkAhead(1, {"slow": 4})) == 40.5
    asyncio.run(queue.pause(True))
    assert queue.eta(asked(1), WorkAhead(0, {})) is None
    store.close()


def test_a_listener_that_joins_as_a_job_ends_gets_its_end(tmp_path: Path):
    store = Store(f"sqlite:///{tmp_path}/studio.db", tmp_path)  # pyright: ignore
    queue, job = Queue(store), store.submit(asked())
    assert store.cancel(job.id), "cancelled after it was read and before it had a channel"

    async def heard(job: Job) -> list[str]:
        channel = await queue.channel(job)
        return [event.name async for event in channel.listen() if event]

    assert asyncio.run(asyncio.wait_for(heard(job), 60)) == ["cancelled"]
    store.close()


def test_a_failed_read_of_the_store_loses_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """If the second read fails, the channel is kept, and the next listener gets the end."""
    store = Store(f"sqlite:///{tmp_path}/studio.db", tmp_path)  # pyright: ignore
    queue, job = Queue(store), store.submit(asked())
    original = store.job

    def locked(id: str) -> Job | None:
        raise TimeoutError("locked")

    async def heard() -> list[str]:
        monkeypatch.setattr(store, "job", locked)
        with pytest.raises(TimeoutError):
            await queue.channel(job)
        monkeypatch.setattr(store, "job", original)
        store.cancel(job.id)
        cancelled = store.job(job.id)
        assert cancelled is not None
        channel = await queue.channel(cancelled)
        channel.tell("started", model="emoji")
        return [event.name async for event in channel.listen() if event]

    assert asyncio.run(asyncio.wait_for(heard(), 60)) == ["cancelled"], (
        "there must be no event after the end"
    )
    store.close()


def test_a_job_that_begins_while_positions_are_read_is_not_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = Store(f"sqlite:///{tmp_path}/studio.db", tmp_path)  # pyright: ignore
    queue, job = Queue(store), store.submit(asked())
    waiting = store.jobs(unfinished=True)
    monkeypatch.setattr(store, "jobs", lambda **_: waiting)  # read before the job began

    async def states() -> list[bool]:
        channel = await queue.channel(job)
        stream = channel.listen()
        await anext(stream)
        is_running = [channel.is_running]
        await queue.announce(store.begin(1))
        is_running.append(channel.is_running)
        await queue.give_back([job], Problem(code="worker-died", message="it died"))
        await stream.aclose()
        return [*is_running, channel.is_running]

    assert asyncio.run(states()) == [False, True, False]
    store.close()


def test_pending_file_writes_do_not_block_the_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    store = Store(f"sqlite:///{tmp_path}/studio.db", tmp_path)  # pyright: ignore
    queue, event = Queue(store), threading.Event()
    monkeypatch.setattr(store.common, "publish", lambda sha256: event.wait(120))
    picture = Painted("0" * 64, 1, 1, {})

    async def counted() -> dict[str, int]:
        waiting = [asyncio.create_task(queue.finish(str(i), [picture], {}, True)) for i in range(5)]
        await asyncio.sleep(0.1)
        try:
            return await asyncio.wait_for(in_thread(store.counts), 60)
        finally:
            event.set()
            await asyncio.gather(*waiting)

    assert asyncio.run(counted()) == {}
    store.close()


def test_a_paused_queue_keeps_its_order_and_stays_paused_after_a_restart(
    own_studio: Callable[..., Studio],
):
    studio = own_studio()
    assert pause(studio, True)["paused"]
    ids = [studio.submit(seed=seed, n=2)["id"] for seed in range(3)]
    status = {"paused": True, "jobs": 3, "pictures": 6}
    assert studio.client.get("/api/v1/queue").json() == status
    front = studio.client.post(f"/api/v1/jobs/{ids[2]}/front")
    assert front.status_code == 204, front.text
    response = studio.client.post("/api/v1/queue/clear", json={"jobs": [ids[1], "x" * 20]})
    assert response.json() == {"cancelled": 1}
    studio.kill()
    studio.start()
    studio.ready()
    listing = studio.client.get("/api/v1/jobs").json()
    assert listing["paused"] and [job["id"] for job in listing["jobs"]] == [ids[2], ids[0]]
    assert [job["position"] for job in listing["jobs"]] == [0, 1]
    names = (name for _, name, _ in studio.events(ids[0]))
    assert [next(names), next(names)] == ["queued", "paused"]
    assert studio.job(ids[2])["state"] == "queued"
    pause(studio, False)
    first, second = studio.over(ids[2]), studio.over(ids[0])
    assert first["state"] == second["state"] == "done"
    assert first["started"] <= second["started"] and studio.job(ids[1])["state"] == "cancelled"
    assert studio.client.post(f"/api/v1/jobs/{ids[0]}/front").status_code == 409
    assert studio.client.post("/api/v1/jobs/nothing/front").status_code == 404


def test_the_queue_is_paused_ordered_and_cleared_in_the_page(visit: Open, paused: Studio):
    page = visit()
    queue = page.get_by_role("region", name="Queue")
    expect(queue).to_contain_text("Paused. No jobs are waiting.")
    page.select_option("#count", "4")
    for prompt in ("one", "two", "three"):
        page.fill("#prompt", prompt)
        page.locator("#prompt").press("Control+Enter")
        page.get_by_role("article", name=prompt, exact=True).wait_for()
    expect(queue).to_contain_text("Paused. 3 jobs, 12 pictures")
    clean(page)
    titles = page.locator(".job h2")
    expect(titles).to_have_text(["one", "two", "three"])
    three = page.get_by_role("article", name="three", exact=True)
    three.get_by_role("button", name="To the front").focus()
    page.keyboard.press("Enter")
    expect(titles).to_have_text(["three", "one", "two"])
    expect(three).to_contain_text("waiting, next, paused")
    page.reload()
    expect(titles).to_have_text(["three", "one", "two"])
    page.get_by_role("button", name="Cancel waiting jobs").press("Enter")
    dialog = page.get_by_role("alertdialog")
    expect(dialog).to_contain_text("Cancel your 3 waiting jobs?")
    dialog.get_by_role("button", name="Cancel them").press("Enter")
    expect(page.locator(".job")).to_have_count(0)
    page.fill("#prompt", "four")
    page.locator("#prompt").press("Control+Enter")
    expect(page.locator(".job.queued")).to_have_count(1)
    queue.get_by_role("button", name="Resume").press("Enter")
    page.wait_for_selector('.job.done[aria-label="four"] img')
    expect(queue).to_have_count(0)
    until(lambda: paused.client.get("/api/v1/queue").json()["jobs"] == 0)
