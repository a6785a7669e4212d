"""The middleware that lets users read what they wrote."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from math import ceil, isfinite
from typing import Final, cast

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.cache import patch_vary_headers
from django.utils.decorators import sync_and_async_middleware

from hasql.contrib.django.request_writes import PinnedMasters, current_pinned

__all__ = ("COOKIE", "read_your_writes")

COOKIE: Final = "hasql_wrote"
_SALT = "hasql.contrib.django.read_your_writes"
_DEFAULT_SECONDS = 5

_Sync = Callable[[HttpRequest], HttpResponseBase]
_Async = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


@sync_and_async_middleware
def read_your_writes(get_response: _Sync | _Async) -> _Sync | _Async:
    """Send a user's reads to the master for a while after that user has written.

    A signed cookie says which databases the user has written to. It lasts ``HASQL_PIN_SECONDS``
    seconds (5 by default), and during that time `ReplicaRouter` sends the user's reads to the
    master. A request that executes only reads sets no cookie.

    Raises:
        ImproperlyConfigured: ``HASQL_PIN_SECONDS`` is not a number of seconds, zero or more.
    """
    seconds = _pin_seconds()

    if iscoroutinefunction(get_response):
        answer_soon = cast("_Async", get_response)

        async def middleware_async(request: HttpRequest) -> HttpResponseBase:
            pinned = _begin(request, seconds)
            response = None
            try:
                response = await answer_soon(request)
            finally:
                _end(response)
            return _with_cookie(request, response, pinned, seconds)

        return middleware_async

    answer = cast("_Sync", get_response)

    def middleware(request: HttpRequest) -> HttpResponseBase:
        pinned = _begin(request, seconds)
        response = None
        try:
            response = answer(request)
        finally:
            _end(response)
        return _with_cookie(request, response, pinned, seconds)

    return middleware


def _pin_seconds() -> float:
    seconds = getattr(settings, "HASQL_PIN_SECONDS", _DEFAULT_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ImproperlyConfigured(
            f"HASQL_PIN_SECONDS must be a number of seconds, not {seconds!r}"
        )
    if not isfinite(seconds) or seconds < 0:
        raise ImproperlyConfigured("HASQL_PIN_SECONDS must be a number of seconds, zero or more")
    return seconds


def _begin(request: HttpRequest, seconds: float) -> PinnedMasters:
    # The cookie holds no secret. It is signed because a client that could write it could send all
    # its reads to the master.
    age = timedelta(seconds=seconds + 1)  # a signature's time is truncated to whole seconds
    text = request.get_signed_cookie(COOKIE, default="", salt=_SALT, max_age=age) or ""
    pinned = PinnedMasters(text.split(",") if text else ())
    current_pinned.set(pinned)
    return pinned


def _end(response: HttpResponseBase | None) -> None:
    # A streaming response still reads for this request after this point, so it stays pinned.
    if response is None or not response.streaming:
        current_pinned.set(None)


def _with_cookie(
    request: HttpRequest, response: HttpResponseBase, pinned: PinnedMasters, seconds: float
) -> HttpResponseBase:
    if pinned.written and seconds:
        response.set_signed_cookie(
            COOKIE,
            ",".join(sorted(pinned.written | pinned.before)),
            salt=_SALT,
            max_age=ceil(seconds),
            path=settings.SESSION_COOKIE_PATH,
            domain=settings.SESSION_COOKIE_DOMAIN,
            secure=request.is_secure(),
            httponly=True,
            samesite="Lax",
        )
        # A cache must not hand one user's cookie to another user.
        patch_vary_headers(response, ("Cookie",))
    return response
