"""Middleware for every request: the guard, then a limit on concurrent requests. The guard checks:

Host    names this studio, so that no other site can reach it under a host name of its own
Origin  is this studio, for every request that changes something
token   is correct, if the studio can be reached from other machines
body    is no larger than the route allows, counted as it arrives
"""

import asyncio
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl, quote, urlencode

from starlette.requests import ClientDisconnect, cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from limner.studio.background import log
from limner.studio.problems import as_refusal
from limner.studio.settings import MAX_DATA_BYTES, MAX_JSON_BYTES, MAX_UPLOAD_BYTES, Settings

COOKIE = "limner_token"
_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; "
        b"form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_OPENER_POLICY = (b"cross-origin-opener-policy", b"same-origin")
"""Only for secure contexts, in which browsers send `Sec-Fetch-Site`; elsewhere browsers warn."""
_NO_CACHE = (b"cache-control", b"no-cache")  # so that all parts of a page are of one version
_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_PUBLIC_PATHS = ("/healthz", "/readyz")
_UPLOADS = {"/api/v1/assets": MAX_UPLOAD_BYTES, "/api/v1/data": MAX_DATA_BYTES}
"""Routes that take uploads, and the largest number of bytes of each."""
_MAX_CONCURRENT = 4
_GUESS_SECONDS = 0.5  # delay for each wrong token, one at a time, as a defence against guessing
_MAX_ENCODED_LETTERS = 12  # letters of one character in percent-encoding
_COOKIE_SECONDS = 365 * 86_400
_MAX_FORM_BYTES = 2**14  # bytes of a form with a token
_TOKEN_PAGE_HEADERS = {
    b"content-type": b"text/html; charset=utf-8",
    b"content-security-policy": b"default-src 'none'; style-src 'unsafe-inline'; "
    b"form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    b"referrer-policy": b"same-origin",  # otherwise browsers send the form without an Origin
}
_TOKEN_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>limner studio</title>
<style>
  :root { color-scheme: light dark }
  body { font: 17px/1.5 system-ui, sans-serif; max-width: 24rem;
    margin: 15vh auto; padding: 0 1rem }
  h1 { font: 500 1.8rem Georgia, serif }
  input, button { font: inherit; padding: .5rem .8rem; width: 100%; box-sizing: border-box;
    margin-top: .6rem; border-radius: 10px; border: 1px solid #8a8177 }
  button { background: #b3431c; color: #fff; border: 0; font-weight: 600 }
  code { white-space: nowrap }
</style>
<main><h1>limner studio</h1>
<form action="/" method="post"><label for="token">This studio requires a token: the value of
<code>--token</code> with which it was started.</label>
<input type="hidden" name="to" value="PLACE">
<input id="token" name="token" type="password" required autofocus autocomplete="current-password">
<button>Open the studio</button><p role="status">MESSAGE</p></form></main></html>
"""
_PATH_PATTERN = re.compile(r"/(?:[\w-]+(?:/[\w-]+)*)?", re.ASCII)
"""Paths of the page's views, to which a browser may be led once it has the token."""


class TooLargeError(Exception):
    """Raised if a request is larger than the route allows."""


class Guard:
    """Middleware that checks the host, origin, token and size of each request.

    Args:
        app: application behind it.
        settings: settings of the studio.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self._guess_lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it with an answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        refusal = self._refusal(scope, headers)
        wants_token = refusal is not None and refusal[1] == "no-token"
        if self._signs_in(scope) and (refusal is None or wants_token):
            await self._sign_in(receive, headers, send)
        elif refusal is None:
            await self._pass_on(scope, headers, receive, send)
        elif wants_token:
            await self._ask_for_token(scope, headers, send, refusal)
        else:
            await _answer(send, *refusal)

    async def _pass_on(
        self, scope: Scope, headers: dict[str, str], receive: Receive, send: Send
    ) -> None:
        """Pass a request on, with a limit on its body; add the studio's headers to the answer."""
        limit = _UPLOADS.get(scope["path"], MAX_JSON_BYTES)
        started, size = False, 0
        extra = [_NO_CACHE] if scope["path"].startswith("/page/") else []
        extra += [_OPENER_POLICY] if "sec-fetch-site" in headers else []

        async def receive_within_limit() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > limit:
                raise TooLargeError
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = dict(message)
                names = {name for name, _ in message["headers"]}
                defaults = [header for header in _HEADERS if header[0] not in names]
                message["headers"] = [*message["headers"], *defaults, *extra]
            await send(message)

        try:
            length = headers.get("content-length", "0")
            if length.isdecimal() and int(length[:20]) > limit:
                raise TooLargeError
            if scope["method"] == "HEAD":  # the server leaves the body out
                scope = {**scope, "method": "GET"}
            await self.app(scope, receive_within_limit, send_with_headers)
        except ClientDisconnect:  # before the whole body arrived
            pass
        except TooLargeError:
            if not started:
                await _answer(send, 413, "too-large", *_too_large(scope["path"], limit))
        except Exception as error:  # an unexpected error: the client still gets an answer
            log.exception("a request failed")
            if not started:
                refusal = as_refusal(error)
                await _answer(send, refusal.status, refusal.code, refusal.message, refusal.hint)

    async def _ask_for_token(
        self, scope: Scope, headers: dict[str, str], send: Send, refusal: tuple[int, str, str, str]
    ) -> None:
        """Refuse a request without the token; wrong tokens are answered slowly, one at a time.

        The page for the token makes the browser forget an old one, and is slow only once.
        """
        guess = any(self._sent_tokens(scope, headers))
        if guess:
            await self._wait()
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            is_stale = COOKIE in cookie_parser(headers.get("cookie", ""))
            extra = [(b"set-cookie", _cookie("", 0).encode())] if is_stale else []
            await _token_page(send, guess, scope["path"], extra)
        else:
            await _answer(send, *refusal)

    async def _wait(self) -> None:
        """Wait after a wrong token, so that guessing is slow."""
        async with self._guess_lock:
            await asyncio.sleep(_GUESS_SECONDS)

    def _signs_in(self, scope: Scope) -> bool:
        """Whether a request submits the token page's form."""
        return bool(self.settings.token) and (scope["method"], scope["path"]) == ("POST", "/")

    async def _sign_in(self, receive: Receive, headers: dict[str, str], send: Send) -> None:
        """Store the typed token in a cookie, so that it appears in no address and no log."""
        content, has_more = b"", True
        while has_more and len(content) <= _MAX_FORM_BYTES:
            message = await receive()
            content += message.get("body", b"")
            has_more = message.get("more_body", False)
        fields = dict(parse_qsl(content.decode("latin-1")))
        place = _place(fields.get("to", "/"))
        if not self.is_token(fields.get("token", "")):
            await self._wait()
            await _token_page(send, guess=True, place=place)
            return
        token_cookie = cookie(self.settings.token, encrypted=came_by_https(headers))
        extra = [(b"location", place.encode()), (b"set-cookie", token_cookie.encode())]
        extra.append((b"content-length", b"0"))
        await send({"type": "http.response.start", "status": 303, "headers": [*extra, *_HEADERS]})
        await send({"type": "http.response.body"})

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str, str, str] | None:
        """Return status, code, message and hint of a refusal; None for a request that may pass."""
        host = headers.get("host", "")
        if not self.settings.answers_to(host):
            message = f"this studio is not called {host[:80]!r}"
            return 421, "wrong-host", message, "open the address that it printed, or give --name"
        origin = headers.get("origin")
        if scope["method"] not in _SAFE_METHODS:
            is_same = origin is None or origin.partition("://")[2] == host
            if not is_same or headers.get("sec-fetch-site", "same-origin") not in (
                "same-origin",
                "none",
            ):
                message = "a page of another site cannot change anything here"
                return 403, "wrong-origin", message, "use the studio's own page"
        if (
            self.settings.token
            and scope["path"] not in _PUBLIC_PATHS
            and not self._has_token(scope, headers)
        ):
            message = "this studio requires its token"
            hint = "open it as /?token=TOKEN once, or send Authorization: Bearer TOKEN"
            return 401, "no-token", message, hint
        return None

    def _has_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        """Whether a request has the token."""
        return any(self.is_token(token) for token in self._sent_tokens(scope, headers))

    def _sent_tokens(self, scope: Scope, headers: dict[str, str]) -> list[str]:
        """Return the tokens that a request has: in a header, a cookie, or the page's address."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        tokens = [token] if kind.lower() == "bearer" else []
        cookies = cookie_parser(
            headers.get("cookie", "")
        )  # also if there are cookies of other sites
        if COOKIE in cookies:
            tokens.append(cookies[COOKIE])
        if scope["path"] == "/":
            tokens += [
                v for k, v in parse_qsl(scope["query_string"].decode("latin-1")) if k == "token"
            ]
        return tokens

    def is_token(self, given: str) -> bool:
        """Whether a text is the token, or the token in percent-encoding; compared in constant time.

        A header's bytes are read as Latin-1, although curl sends UTF-8.
        """
        if len(given) > _MAX_ENCODED_LETTERS * len(self.settings.token):
            return False  # without converting it, which would delay all other requests
        token = quote(self.settings.token).encode()
        raw = given.encode("latin-1", "replace")
        spellings = [text.encode("utf-8", "replace") for text in (quote(given), quote(raw), given)]
        return sum(hmac.compare_digest(spelling, token) for spelling in spellings) > 0


def cookie(token: str, *, encrypted: bool = False) -> str:
    """Return the header that makes a browser remember the token.

    Args:
        token: token of the studio.
        encrypted: whether the browser uses https, and must send the token only with https.
    """
    return _cookie(quote(token), _COOKIE_SECONDS) + ("; Secure" if encrypted else "")


def _cookie(value: str, seconds: int) -> str:
    """Return the header that makes a browser keep a value for a time; for 0 seconds, forget it."""
    return f"{COOKIE}={value}; Path=/; HttpOnly; SameSite=Strict; Max-Age={seconds}"


def came_by_https(headers: Mapping[str, str]) -> bool:
    """Whether the first proxy of a request was reached with https, by `X-Forwarded-Proto`.

    The header is trusted from any client, because it only affects the cookie of this client.
    """
    scheme = headers.get("x-forwarded-proto", "").partition(",")[0]
    return scheme.strip().lower() == "https"


def without_token(query: str) -> str:
    """Return the query of an address without the token."""
    return urlencode([(k, v) for k, v in parse_qsl(query) if k != "token"])


def _too_large(path: str, limit: int) -> tuple[str, str]:
    """Return message and hint for a request with too many bytes."""
    if path in _UPLOADS:
        return f"the file is larger than {-(-limit // 2**20):,} MiB", "send a smaller one"
    return f"the request has more than {limit:,} bytes", "send less"


def _place(path: str) -> str:
    """Return a path of the page; "/" for anything else, such as an address of another site."""
    return path if _PATH_PATTERN.fullmatch(path) else "/"


async def _token_page(
    send: Send, guess: bool, place: str, extra: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Answer with the page that has a field for the token, and leads on to a path."""
    message = "This token is wrong." if guess else ""
    headers = [*{**dict(_HEADERS), **_TOKEN_PAGE_HEADERS}.items(), *extra]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    page = _TOKEN_PAGE.replace("MESSAGE", message).replace("PLACE", _place(place))
    await send({"type": "http.response.body", "body": page.encode()})


async def _answer(send: Send, status: int, code: str, message: str, hint: str) -> None:
    body = json.dumps({"code": code, "message": message, "hint": hint}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 413:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, *_HEADERS]})
    await send({"type": "http.response.body", "body": body})


class RequestLimit:
    """Limit concurrent API requests, so that health checks stay responsive.

    Without a limit, fifty requests that arrive together are all parsed, checked and answered in one
    turn of the event loop, and the next request waits for all of them. A request takes a place once
    its body has arrived, and frees it when its answer starts: slow clients do not delay others. A
    route calls `request.state.free_place` to free it before it waits for another host.

    Args:
        app: application behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._places = asyncio.Semaphore(_MAX_CONCURRENT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, when there is a free place."""
        if not _is_limited(scope):
            await self.app(scope, receive, send)
            return
        messages = await _body(receive)
        await self._places.acquire()
        has_place = True

        def free_place() -> None:
            nonlocal has_place
            if has_place:
                self._places.release()
            has_place = False

        scope.setdefault("state", {})["free_place"] = free_place

        async def replay() -> Message:
            return messages.pop(0) if messages else await receive()

        async def answer(message: Message) -> None:
            free_place()
            await send(message)

        try:
            await self.app(scope, replay, answer)
        finally:
            free_place()


def _is_limited(scope: Scope) -> bool:
    """Whether a request has to wait: all requests to the API, except uploads, which are slow."""
    if scope["type"] != "http" or not scope["path"].startswith("/api/"):
        return False
    return scope["method"] != "POST" or scope["path"] not in _UPLOADS


async def _body(receive: Receive) -> list[Message]:
    """Return all messages of a request's body."""
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    return messages
