"""The studio's handling of hostile and invalid requests."""

import io
import json
import os
import socket
import struct
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from PIL import Image, PngImagePlugin

from conftest import Studio, at_once, until
from limner.contract.errors import LimnerError
from limner.studio.settings import Settings

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'


def large_png(side: int) -> bytes:
    """Return a PNG of side x side white pixels in a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    row = zlib.compress(b"\0" * 2**20, 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


def noisy_png() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((128, 128), 80).save(file, "PNG")
    return file.getvalue()


def with_settings(text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("limner", text)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        SVG,
        b"<!doctype html><script>alert(1)</script>",
        b"%!PS-Adobe",
        b"",
        noisy_png()[:5000],
        b"GIF89a",
    ],
    ids=["svg", "html", "postscript", "empty", "cut", "cut gif"],
)
def test_only_pictures_that_decode_are_accepted(studio: Studio, content: bytes):
    problem = studio.send(content, expect=415)
    assert "send a PNG" in problem["hint"]


def test_a_picture_with_too_many_pixels_is_not_decoded(studio: Studio):
    for side in (6_000, 30_000):
        problem = studio.send(large_png(side), expect=415)
        assert problem["message"] == "the picture has too many pixels"


def test_the_size_of_a_body_is_limited_while_it_arrives(studio: Studio):
    def endless():
        for _ in range(40):
            yield bytes(2**20)

    try:
        response = studio.client.post("/api/v1/assets", content=endless())
        assert response.status_code == 413
    except httpx.TransportError:  # the server closed the connection early
        pass
    assert studio.client.post("/api/v1/jobs", content=b" " * 2**19).status_code == 413
    assert studio.client.get("/healthz").status_code == 200


def test_slow_clients_do_not_block_others(studio: Studio):
    large = io.BytesIO()
    Image.frombytes("RGB", (1024, 1024), os.urandom(3 * 2**20)).save(large, "PNG")
    url = studio.send(large.getvalue())["url"]
    host = b" HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    half = b"POST /api/v1/jobs" + host + b"Content-Length: 50\r\n\r\n{"
    request = b"GET " + url.encode() + host + b"\r\n"
    with ExitStack() as stack:
        for content in 6 * [half] + 6 * [2 * request]:  # the answers are not read
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", studio.settings["port"]))
            connection.sendall(content)
        for _ in range(20):
            assert studio.client.get("/api/v1/models").status_code == 200


@pytest.mark.parametrize(
    "text", ["{", "[1]", '"x"', '{"a": NaN}', "[" * 9000, '{"prompt": "\\u0000"}', "null"]
)
def test_invalid_settings_in_a_file_are_ignored(studio: Studio, text: str):
    assert studio.send(with_settings(text))["settings"] is None


def test_hostile_settings_are_returned_as_plain_values(studio: Studio):
    request = {"prompt": "<img src=x onerror=alert(1)>", "model": "../../etc/passwd"}
    asset = studio.send(with_settings(json.dumps(request)))
    assert asset["settings"] == request
    response = studio.client.get(asset["url"])
    assert response.headers["content-type"] == "image/png"
    assert b"onerror" not in response.content


def test_metadata_of_uploaded_files_are_removed(studio: Studio):
    file = io.BytesIO()
    image = Image.new("RGB", (4, 2), "red")
    exif = image.getexif()
    exif[0x010E], exif[0x0112] = "where I live", 6  # rotated by 90 degrees
    image.save(file, "JPEG", exif=exif)
    asset = studio.send(file.getvalue())
    assert (asset["width"], asset["height"]) == (2, 4)
    assert b"where I live" not in studio.client.get(asset["url"]).content


@pytest.mark.parametrize(
    "path",
    ["/page/../server.py", "/page/..%2fserver.py", "/page/%2e%2e/store.py", "/page//etc/passwd",
     "/api/v1/assets/..%2f..%2fstudio.db", "/p/../../x", "/studio/studio.db", "/docs"],
)  # fmt: skip
def test_paths_cannot_leave_the_folder(studio: Studio, path: str):
    response = studio.client.get(
        httpx.URL(studio.client.base_url).copy_with(raw_path=path.encode())
    )
    assert response.status_code in (404, 405, 422) or "limner studio" in response.text


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [(b"{", 422, "the request's body is not valid JSON"),
     (b"[" * 100_000, 400, "the request's body is nested too deeply"),
     (b'{"params": {"seed": 1e999}}', 422, "seed must be a whole number"),
     (b'{"params": {"seed": ' + b"9" * 5000 + b"}}", 400, "has a number with too many digits"),
     (b"\xff", 400, "the request's body is not UTF-8"),
     ('{"model": "é"}'.encode("latin-1"), 400, "the request's body is not UTF-8"),
     (b'{"params": {"sampler": {"scale": NaN}}}', 422, "sampler.scale must be a number"),
     (b"[]", 422, "the request's body must be a JSON object"),
     (b"null", 422, "the request's body must be a JSON object"),
     (b'{"params": {"prompt": "\\ud800"}, "model": "toy"}', 422, "prompt is not valid Unicode"),
     (b'{"params": {"sampler": {"steps": ' + b"[" * 500 + b"]" * 500 + b"}}}", 422,
      "sampler.steps is nested too deeply"),
     (b'{"params": [1]}', 422, "params must be a JSON object")],
)  # fmt: skip
def test_an_invalid_body_is_explained_in_one_line(
    studio: Studio, body: bytes, status: int, message: str
):
    response = studio.client.post(
        "/api/v1/jobs", content=body, headers={"Content-Type": "application/json"}
    )
    assert response.status_code == status, response.text
    assert response.json().keys() == {"code", "message", "hint"}
    assert message in response.json()["message"] and len(response.text) < 500
    assert response.json()["hint"]


@pytest.mark.parametrize("path", ["assets", "data?name=pictures"])
def test_an_upload_as_a_form_is_refused(studio: Studio, path: str):
    for content in (noisy_png(), b""):
        response = studio.client.post(f"/api/v1/{path}", files={"file": content})
        assert response.status_code == 415
        assert response.json()["message"] == (
            "the request's body is a form, and must be the file itself"
        )
        assert "--data-binary" in response.json()["hint"]


def test_every_answer_has_security_headers(studio: Studio):
    for path in ("/", "/page/app.js", "/api/v1/models", "/nothing", "/api/v1/jobs/nothing"):
        headers = studio.client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'self'") and "unsafe" not in policy


def test_head_is_answered_as_get_without_a_body(studio: Studio):
    for path in ("/", "/healthz", "/page/app.js", "/api/v1/models", "/api/v1/jobs/nothing"):
        response, head = studio.client.get(path), studio.client.head(path)
        assert (head.status_code, head.content) == (response.status_code, b""), path
        assert head.headers["content-length"] == response.headers["content-length"], path


def test_an_aborted_request_leaves_no_traceback(studio: Studio):
    before = len(studio.log.read_text())
    for path in ("/api/v1/assets", "/api/v1/data?name=cut", "/api/v1/jobs"):
        with socket.socket() as line:
            line.connect(("127.0.0.1", studio.settings["port"]))
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 999\r\n\r\nab"
            line.sendall(head.encode())
            time.sleep(0.2)
    data = studio.folder / "studio" / "data"
    until(lambda: not [*data.glob("*.partial")])
    assert "Traceback" not in studio.log.read_text()[before:]


def test_requests_with_another_host_name_are_refused(studio: Studio):
    for host in ("evil.example", "127.0.0.1.evil.example", "", "192.168.1.5"):
        response = studio.client.get("/api/v1/models", headers={"Host": host})
        assert response.status_code in (421, 400), host
    port = studio.settings["port"]
    for host in (f"localhost:{port}", f"[::1]:{port}", "127.0.0.1"):
        assert studio.client.get("/healthz", headers={"Host": host}).status_code == 200


def test_requests_from_other_origins_cannot_change_anything(studio: Studio):
    url = f"http://127.0.0.1:{studio.settings['port']}"
    for headers in (
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
    ):
        response = studio.client.post("/api/v1/jobs", json={"model": "toy"}, headers=headers)
        assert response.status_code == 403, headers
    same_origin = {"Origin": url, "Sec-Fetch-Site": "same-origin"}
    assert studio.client.post("/api/v1/jobs", json={"model": "toy"}, headers=same_origin).is_success


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.7", "example.org", "::"])
def test_listening_for_other_machines_requires_a_token(host: str, tmp_path: Path):
    with pytest.raises(LimnerError, match="give --token"):
        Settings(host=host, folder=tmp_path)
    Settings(host=host, folder=tmp_path, token="x")


def test_with_a_token_every_request_needs_it(own_studio: Callable[..., Studio]):
    token = "open sesame/100%"
    studio = own_studio(host="0.0.0.0", token=token, worker=("true",), wait=False)
    studio.client.base_url = httpx.URL(f"http://127.0.0.1:{studio.settings['port']}")
    get = studio.client.get
    for path in ("/", "/api/v1/models", "/metrics", "/page/app.js", "/?token=wrong"):
        assert get(path).status_code == 401, path
    assert get("/healthz").status_code == 200
    for value in ("Bearer nothing", token):
        response = get("/api/v1/models", headers={"Authorization": value})
        assert response.status_code == 401 and response.json()["code"] == "no-token"
    page = get("/", params={"token": "a guess"}, headers={"Accept": "text/html"})
    assert page.status_code == 401 and 'name="token"' in page.text
    assert "This token is wrong" in page.text and "set-cookie" not in page.headers
    stale = {"Accept": "text/html", "Cookie": "limner_token=old"}
    assert "Max-Age=0" in get("/", headers=stale).headers["set-cookie"], (
        "a browser must forget an old token, so that only its first page is slow"
    )
    start = time.monotonic()
    at_once([lambda: get("/", params={"token": "a guess"})] * 3)
    assert time.monotonic() - start > 1, "concurrent wrong tokens must be delayed"
    response = get("/", params={"token": token})
    assert response.status_code == 303 and response.headers["location"] == "/"
    assert "HttpOnly" in response.headers["set-cookie"]
    assert "SameSite=Strict" in response.headers["set-cookie"]
    assert "Secure" not in response.headers["set-cookie"], (
        "a secure cookie would be dropped on plain http"
    )
    for protocols in ("https", "HTTPS, http"):
        headers = {"X-Forwarded-Proto": protocols}
        response = get("/", params={"token": token}, headers=headers)
        assert response.headers["set-cookie"].endswith("; Secure"), (
            "behind an encrypting proxy the cookie must be secure"
        )
    studio.client.cookies.clear()
    get("/", params={"token": token}, headers={"X-Forwarded-Proto": "http"})
    assert get("/").status_code == 200, "the cookie must be accepted"
    studio.client.cookies.clear()
    for guess in ("a guess", "x" * 2**15):
        page = studio.client.post("/", data={"token": guess})
        assert page.status_code == 401 and "This token is wrong" in page.text
    foreign = {"Origin": "http://evil.example"}
    assert studio.client.post("/", data={"token": token}, headers=foreign).status_code == 403
    response = studio.client.post("/", data={"token": token})
    assert response.status_code == 303 and response.headers["location"] == "/"
    cookie = response.headers["set-cookie"].partition(";")[0]
    studio.client.cookies.clear()
    page = get("/p/a-picture", headers={"Accept": "text/html"})
    assert page.status_code == 401 and 'name="to" value="/p/a-picture"' in page.text
    form = {"token": token, "to": "/p/a-picture"}
    assert studio.client.post("/", data=form).headers["location"] == "/p/a-picture"
    for target in ("//evil.example", "http://evil.example", "/\\evil.example", '/"><b>'):
        assert studio.client.post("/", data=form | {"to": target}).headers["location"] == "/"
    studio.client.cookies.clear()
    for cookies in ('choices={"a": 1}', "two words", "bare", "ünë=1", "a@b=c"):
        header = {"Cookie": f"{cookies}; {cookie}".encode()}
        assert get("/api/v1/models", headers=header).status_code == 200, cookies
    bearer = {"Authorization": f"Bearer {token}"}
    assert get("/api/v1/history", headers=bearer).status_code == 200
    assert get("/api/v1/models", headers=bearer).json()["limits"]["token"] is True
