"""The figures of a run, posted to an address that somebody watches. The address is a secret."""

from __future__ import annotations

import os
import signal
import sys
from urllib.parse import urlsplit

VARIABLE = "BATCH_NST_NOTIFY"
"""Of the environment, instead of `--notify`."""

_SECONDS = 10.0
"""For all of it: looking the host up, connecting, its answer."""


def hide_url(url: str | None) -> str | None:
    """The URL of `--notify`, a secret, taken away from where it would be seen.

    The words of a command are seen by everybody on its machine, and stand in Ray's list of drivers: so one
    that was started with it starts itself anew without. The environment is what Ray's processes inherit.
    """
    os.environ.pop(VARIABLE, None)
    words: list[str] = []
    for word in sys.orig_argv[1:] if url else ():
        if word == url and words[-1].startswith("--n"):
            words.pop()
        elif not (word.startswith("--n") and word.endswith(f"={url}")):
            words.append(word)
    if url and len(words) < len(sys.orig_argv) - 1:
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # as it was; handlers do not outlive this, that does
        os.execve(sys.executable, [sys.executable, *words], {**os.environ, VARIABLE: url})
    return url


def deliver(url: str | None, figures: str) -> None:
    """Post what a command has come to, if somebody wants it. The command is over: SIGTERM changes nothing."""
    if url is None:
        return
    on_sigterm = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    post(url, figures)
    signal.signal(signal.SIGTERM, on_sigterm)


def post(url: str, figures: str) -> None:
    """Send a JSON object; where that fails there is a warning, which tells of the URL scheme and host alone.

    Redirects are not followed: what answers with one has not taken it.
    """
    import asyncio

    from batch_nst.console import log

    try:
        status = asyncio.run(_post(url, figures))
    except Exception as error:  # nothing ends a run that is over; and their texts may hold the URL
        why = getattr(error, "strerror", None) or type(error).__name__
    else:
        if 200 <= status < 300:
            return
        why = f"answered {status}"
    parts = urlsplit(url)
    log(f"warning: --notify {parts.scheme}://{parts.hostname}: the figures were not delivered: {why}")


async def _post(url: str, figures: str) -> int:
    """The status of the answer."""
    import aiohttp

    session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(_SECONDS), trust_env=True)
    headers = {"Content-Type": "application/json"}
    async with session, session.post(url, data=figures, headers=headers, allow_redirects=False) as answer:
        return answer.status
