"""The studio's database: queue, history and clean-up."""

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from limner.contract.errors import LimnerError
from limner.studio.common_files import common_files
from limner.studio.order import with_jobs_ahead
from limner.studio.store import Store
from limner.studio.tables import CANCELLED, RUNNING, WAITING, FullError, Job, Painted


def asked(n: int = 1, alike: str = "", key: str | None = None, prompt: str = "a dot") -> Job:
    params = {"prompt": prompt, "n": n}
    return Job(key=key, model="emoji", task="paint", params=params, inputs={}, alike=alike, cell={})


def painted(name: str) -> Painted:
    return Painted(name * 64, 8, 8, {"seed": 0})


def files(store: Store, *names: str) -> set[str]:
    """Write missing files of pictures; return the names of all files."""
    for name in names:
        path = store.common.path(name * 64)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return {path.name[0] for path in store.files.glob("*/*.png")}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path / 'studio.db'}", tmp_path, limit=20)
    yield store
    store.close()


def test_jobs_start_in_the_order_of_submission(store: Store):
    ids = [store.submit(asked()).id for _ in range(3)]
    assert store.jobs_ahead(store.jobs()[2]).jobs == 2
    assert [store.begin(16)[0].id for _ in range(3)] == ids
    assert store.begin(16) == []


def test_similar_jobs_form_one_batch_up_to_its_size(store: Store):
    first, other, *rest = [
        store.submit(asked(n, alike)).id
        for n, alike in ((6, "a"), (1, "b"), (8, "a"), (3, "a"), (2, "a"))
    ]
    assert [job.id for job in store.begin(16)] == [first, rest[0], rest[2]]  # 6 + 8 + 2
    assert [job.id for job in store.begin(16)] == [other]
    assert [job.id for job in store.begin(16)] == [rest[1]]


def test_a_retried_job_runs_alone(store: Store):
    """It may be the job that killed the worker."""
    first, second = (store.submit(asked(alike="a")).id for _ in range(2))
    assert len(store.begin(16)) == 2
    assert store.requeue(first) and store.requeue(second)
    new = [store.submit(asked(alike="a")).id for _ in range(2)]
    store.move_to_front(new[0])
    assert [[job.id for job in store.begin(16)] for _ in range(3)] == [new, [first], [second]]


def test_a_job_at_the_front_is_next_and_pictures_ahead_are_counted(store: Store):
    first, second, third, last = [store.submit(asked(n)).id for n in (4, 3, 2, 1)]
    store.begin(16)
    assert not store.move_to_front(first), "a running job cannot be moved"
    assert store.move_to_front(third) and store.move_to_front(last)
    waiting = store.jobs(unfinished=True)
    assert [job.id for job in waiting] == [first, last, third, second]
    ahead = [store.jobs_ahead(job) for job in waiting]  # the first one waits for the running jobs
    assert [(each.jobs, each.pictures.get("emoji")) for each in ahead] == [
        (2, 3), (1, 4), (2, 5), (3, 7),
    ]  # fmt: skip
    assert [each for _, each in with_jobs_ahead(waiting)][1:] == ahead[1:]
    assert [store.begin(16)[0].id for _ in range(3)] == [last, third, second]
    assert [job.id for job in store.jobs()] == [first, second, third, last]


def test_clearing_removes_waiting_jobs_and_keeps_running_ones(store: Store):
    running, *waiting = [store.submit(asked()).id for _ in range(4)]
    store.begin(1)
    assert store.clear([running, waiting[1]]) == [waiting[1]]
    assert store.clear() == [waiting[0], waiting[2]] and store.clear() == []
    assert [job.id for job in store.jobs(unfinished=True)] == [running]


def test_jobs_without_a_batch_key_start_alone(store: Store):
    store.submit(asked()), store.submit(asked())
    assert len(store.begin(16)) == 1


def test_a_full_queue_refuses_jobs_and_repeated_keys_count_once(tmp_path: Path):
    store = Store(f"sqlite:///{tmp_path / 'studio.db'}", tmp_path, limit=2)
    first = store.submit(asked(key="k"))
    assert store.submit(asked(key="k")).id == first.id
    store.submit(asked())
    with pytest.raises(FullError):
        store.submit(asked())
    assert store.submit(asked(key="k")).id == first.id
    store.close()


def test_many_threads_lose_and_duplicate_nothing(store: Store):
    ids: list[str] = []

    def client() -> None:
        for _ in range(5):
            try:
                ids.append(store.submit(asked()).id)
            except FullError:
                ids.append("")

    threads = [threading.Thread(target=client) for _ in range(10)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    accepted = [id for id in ids if id]
    assert len(ids) == 50 and len(accepted) == len(set(accepted)) == 20 == store.counts()[WAITING]


def test_jobs_running_at_a_kill_wait_again_in_their_position(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'studio.db'}"
    store = Store(url, tmp_path)
    ids = [store.submit(asked()).id for _ in range(2)]
    store.begin(1)
    reopened = Store(url, tmp_path)  # the first store was never closed
    assert reopened.recover() == 1
    job = reopened.begin(1)[0]
    assert job.id == ids[0] and job.attempts == 1
    store.close(), reopened.close()


def test_a_cancelled_job_is_neither_started_nor_finished(store: Store):
    waiting, running = store.submit(asked()).id, store.submit(asked()).id
    assert store.cancel(waiting)
    assert store.begin(1)[0].id == running
    assert store.cancel(running) and not store.cancel(running)
    assert not store.finish(running, [painted("a")], {})
    job = store.job(running)
    assert job and job.state == CANCELLED and store.history()[1] == 0
    assert not store.requeue(running)


def test_history_is_searched_by_words_with_percent_signs_taken_literally(store: Store):
    for i, prompt in enumerate(("a Red apple", "100% green apple", "a cat")):
        store.submit(asked(prompt=prompt))
        store.finish(store.begin(1)[0].id, [painted(str(i))], {})

    def found(**filters: object) -> list[str]:
        return [p.words for p in store.history(**filters)[0]]  # type: ignore[arg-type]

    assert found() == ["a cat", "100% green apple", "a Red apple"]
    assert found(search="APPLE red") == ["a Red apple"]
    assert found(search="0%") == ["100% green apple"]
    assert found(search="emoji") == found(model="emoji") == found()
    newest = store.history(limit=1)[0][0]
    assert [p.words for p in store.history(before=newest.number, limit=1)[0]] == [
        "100% green apple"
    ]
    store.set_favourite(newest.id, True)
    assert found(favourite=True) == ["a cat"]
    assert found(oldest=True) == found()[::-1]
    assert found(oldest=True, before=store.history(oldest=True)[0][0].number) == found()[1::-1]
    assert found(since=newest.created) == ["a cat"] and found(since=newest.created + 1) == []


@pytest.mark.parametrize("search", ["Äpfel", "äpfel", "ÄPFEL öl"])
def test_history_is_searched_in_any_script(store: Store, search: str):
    store.submit(asked(prompt="Äpfel in Öl"))
    store.finish(store.begin(1)[0].id, [painted("a")], {})
    assert [p.words for p in store.history(search=search)[0]] == ["Äpfel in Öl"]


def test_pictures_without_prompt_are_found_by_their_sources_prompt(store: Store):
    job = store.submit(asked(prompt="a red apple"))
    store.begin(1)
    store.finish(job.id, [painted("a")], {})
    (source,), _ = store.history()
    for prompt, name in (("", "b"), ("a pear", "c")):
        larger = asked(prompt=prompt)
        larger.inputs = {"image": source.id}
        id = store.submit(larger).id
        store.begin(1)
        store.finish(id, [painted(name)], {})
    pictures, _ = store.history(search="apple")
    assert [picture.sha256[0] for picture in pictures] == ["b", "a"]


def test_a_deleted_picture_can_be_restored_for_an_hour(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    one, two = store.upload(painted("a")), store.upload(painted("a"))
    files(store, "a")
    store.delete(one.id)
    store.forget_old(10, 0)
    assert store.picture(one.id) is None and store.restore(one.id)
    assert store.picture(one.id) and store.restore("nothing") is None
    monkeypatch.setattr("limner.studio.retention._RESTORE_SECONDS", -1)
    store.delete(one.id)
    store.forget_old(10, 0)
    assert store.restore(one.id) is None
    assert files(store) == {"a"}, "a file shared with another picture must be kept"
    store.delete(two.id)
    store.forget_old(10, 0)
    assert files(store) == set()


def test_sources_of_pictures_are_kept_and_found(store: Store):
    source = store.upload(painted("s"))
    edit = asked()
    edit.inputs = {"image": source.id}
    store.submit(edit)
    store.finish(store.begin(1)[0].id, [painted("e")], {})
    files(store, *"se")
    store.forget_old(10, time.time() + 1)
    assert files(store) == {*"se"}
    picture = store.picture_of_file("s" * 64)
    assert picture and picture.id == source.id and store.picture_of_file("x" * 64) is None


def test_a_database_of_an_earlier_version_is_migrated(tmp_path: Path):
    url = f"sqlite:///{tmp_path / 'studio.db'}"
    first = Store(url, tmp_path)
    picture = first.upload(painted("a"))
    first.close()
    with closing(sqlite3.connect(tmp_path / "studio.db")) as old:
        old.execute("ALTER TABLE pictures DROP COLUMN deleted")
    store = Store(url, tmp_path)
    assert store.picture(picture.id)
    store.delete(picture.id)
    assert store.picture(picture.id) is None
    store.close()


def test_attention_maps_are_not_in_the_history_and_expire_like_uploads(store: Store):
    store.submit(asked())
    job = store.begin(1)[0]
    store.finish(job.id, [painted("m")], {}, kept=False)
    assert store.history() == ([], 0) and len(store.pictures_of([job])[job.number]) == 1
    files(store, "m")
    store.forget_old(2, time.time() + 1)
    assert files(store) == set() and store.job(job.id) is None


def test_clean_up_keeps_favourites_and_inputs_of_jobs(store: Store):
    for i in range(4):
        store.submit(asked())
        store.finish(store.begin(1)[0].id, [painted(str(i))], {})
    oldest = store.history()[0][-1]
    store.set_favourite(oldest.id, True)
    source, unused = store.upload(painted("n")), store.upload(painted("s"))
    edit = asked()
    edit.inputs = {"image": source.id}
    store.submit(edit)
    empty = store.submit(asked()).id
    store.cancel(empty)
    files(store, *"0123ns")
    store.forget_old(2, 0)
    assert files(store) == {*"023ns"}
    assert store.job(empty) and store.picture(unused.id)
    store.forget_old(2, time.time() + 1)
    assert files(store) == {*"023n"}
    assert store.job(empty) is None
    assert [job.number for job in store.jobs()] == [1, 3, 4, 5]  # the second lost its picture
    assert store.picture(oldest.id) and store.picture(source.id) and not store.picture(unused.id)


def test_files_are_deleted_later_if_the_store_is_away(tmp_path: Path, monkeypatch):
    url, common = f"sqlite:///{tmp_path / 'studio.db'}", common_files(tmp_path, "memory://away")
    store = Store(url, common, limit=20)
    for name in "abc":
        files(store, name)
        common.publish(name * 64)
        store.upload(painted(name))
    with monkeypatch.context() as patch:
        patch.setattr(common._store, "rm_file", lambda _: 1 / 0)
        with pytest.raises(OSError):
            store.forget_old(0, 0)
        with pytest.raises(OSError):
            store.forget_old(0, 0)
    store.upload(painted("b"))  # it is in use again
    store.close()
    store = Store(url, common, limit=20)  # the list of files survives a restart
    store.forget_old(10, 0)
    names = {path.rpartition("/")[2][0] for path in common._store.find(common._root)}
    assert names == {"b"}
    store.close()


def test_states_are_counted_and_documents_stored(store: Store):
    store.submit(asked()), store.submit(asked())
    store.begin(1)
    assert store.counts() == {WAITING: 1, RUNNING: 1}
    store.keep("catalogue", {"a": 1})
    store.keep("catalogue", {"b": 2})
    assert store.document("catalogue") == {"b": 2} and store.document("nothing") == {}


def test_a_missing_database_is_named_in_one_line():
    with pytest.raises(LimnerError, match=r"sqlite cannot be opened: .* another --data$") as error:
        Store("sqlite:////no/such/folder/studio.db", Path("pictures"))
    assert "\n" not in str(error.value)
