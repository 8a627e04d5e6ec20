"""Limit concurrent API requests, so that health checks stay responsive.

Without it fifty requests that come together are all parsed, checked and answered in one turn of the
event loop, and whatever comes next waits for all of them.
"""

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

_AT_ONCE = 4


class Turnstile:
    """The middleware.

    A request is let through once its body is there, and leaves when its answer begins: who sends or
    reads slowly holds up nobody.

    Args:
        app: what is behind it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, when it is its turn."""
        if not _waits(scope):
            await self.app(scope, receive, send)
            return
        messages = await _body(receive)
        await self._places.acquire()
        inside = True

        def leave() -> None:
            nonlocal inside
            if inside:
                self._places.release()
            inside = False

        async def again() -> Message:
            return messages.pop(0) if messages else await receive()

        async def answer(message: Message) -> None:
            leave()
            await send(message)

        try:
            await self.app(scope, again, answer)
        finally:
            leave()


def _waits(scope: Scope) -> bool:
    """Whether a request has to wait: those to the API, but for uploads, which come slowly."""
    if scope["type"] != "http" or not scope["path"].startswith("/api/"):
        return False
    return scope["method"] != "POST" or not scope["path"].startswith("/api/v1/assets")


async def _body(receive: Receive) -> list[Message]:
    """All of what a request says."""
    messages = [await receive()]
    while messages[-1].get("more_body"):
        messages.append(await receive())
    return messages
