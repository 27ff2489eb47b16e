"""Replies that trickle, never end, or say nonsense; from a socket, byte by byte."""

import contextlib
import functools
import socket
import threading
import time
from collections import Counter

import pytest

from jopd.teachers import transport
from jopd.teachers.transport import Unusable, Wire

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@contextlib.contextmanager
def answering(parts, pause: float = 0.0):
    """A server that sends ``parts``, again and again; yields its address."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        with contextlib.suppress(OSError):
            while True:
                taken, _ = listening.accept()
                threading.Thread(target=send, args=(taken,), daemon=True).start()

    def send(taken):
        with contextlib.suppress(OSError), taken:
            taken.recv(65_536)
            for part in parts():
                taken.sendall(part)
                time.sleep(pause)
            # To close on a request of which a part is unread would reset the reply.
            taken.shutdown(socket.SHUT_WR)
            while taken.recv(65_536):
                pass

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        listening.close()


def post(url: str, **changes) -> dict:
    wire = Wire(url, **{"retries": 0} | changes)
    call = lambda http: transport.post(http, wire, Counter(), "completions", {"a": 1})
    (found,) = transport.run(transport.gathered(wire, [call]))
    return found


def trickled(head: bytes):
    yield head
    for _ in range(200):
        yield b" "


@pytest.mark.parametrize(
    "head", [HEAD + b"Content-Length: 9999\r\n\r\n", HEAD + b"X: ", b"HTTP/1.1 200 "]
)
def test_a_reply_that_trickles_is_given_up(head):
    """Of each byte the next one comes soon; in the body, a header, the first line."""
    began = time.perf_counter()
    with (
        answering(functools.partial(trickled, head), pause=0.05) as url,
        pytest.raises(Unusable, match=r"within remote\.timeout_seconds=0\.4"),
    ):
        post(url, seconds=0.4)
    assert time.perf_counter() - began < 4


def whole(content: bytes, head: bytes = HEAD):
    return lambda: [head + b"Content-Length: %d\r\n\r\n" % len(content) + content]


def test_a_reply_is_read():
    with answering(whole(b'{"b": 2}')) as url:
        assert post(url) == {"b": 2}


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe", b"9" * 5000, b"nul"]
)
def test_a_reply_that_is_no_object(content):
    with (
        answering(whole(content)) as url,
        pytest.raises(Unusable, match="no JSON object"),
    ):
        post(url)


def test_a_reply_that_is_too_long(monkeypatch):
    monkeypatch.setattr(transport, "LARGEST_REPLY", 1000)
    with (
        answering(whole(b" " * 2000)) as url,
        pytest.raises(Unusable, match="more than 1,000 bytes"),
    ):
        post(url)


@pytest.mark.parametrize("header", ["nan", "-5", "-inf", "soon", "", None, "\x00"])
def test_a_time_to_wait_that_is_none(header):
    assert transport.asked_wait(header, 1.25) == 1.25


@pytest.mark.parametrize("header", ["1e9", "inf", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_time_to_wait_that_is_too_long(header):
    assert transport.asked_wait(header, 1.25) == transport.LONGEST_WAIT_SECONDS


def test_a_time_to_wait():
    assert transport.asked_wait("7", 1.25) == 7
    assert transport.asked_wait("Wed, 21 Oct 2015 07:28:00 GMT", 1.25) == 0
    for attempt in (*range(12), 5000):
        full = 0.5 * 2 ** min(attempt, 20)
        full = min(full, transport.LONGEST_WAIT_SECONDS)
        assert full / 2 <= transport.backoff(attempt) <= full


def test_a_server_that_asks_for_nan_seconds_is_asked_again(monkeypatch):
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.01)
    busy = b"HTTP/1.1 429 No\r\nRetry-After: nan\r\n"
    replies = iter([whole(b"", busy)(), whole(b"{}")()])
    with answering(lambda: next(replies)) as url:
        assert post(url, retries=1) == {}


def test_a_key_that_the_server_repeats_is_not_shown():
    said = b"Incorrect API key provided: sk-secret"
    for status in (b"401", b"400", b"500"):
        head = b"HTTP/1.1 %s No\r\n" % status
        with (
            answering(whole(said, head)) as url,
            pytest.raises((ValueError, Unusable), match=r"provided: \*\*\*") as caught,
        ):
            post(url, key="sk-secret")
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("status", [b"401", b"400"])
@pytest.mark.parametrize("before", [192, 198])
def test_a_key_across_the_end_of_what_is_shown(status, before):
    head = b"HTTP/1.1 %s No\r\n" % status
    with (
        answering(whole(b"." * before + b"sk-secret", head)) as url,
        pytest.raises((ValueError, Unusable), match=r"\.\*\*") as caught,
    ):
        post(url, key="sk-secret")
    assert "sk" not in str(caught.value)


def test_many_at_a_time_and_no_more():
    under_way, most = [0], [0]
    lock = threading.Lock()

    def parts():
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        time.sleep(0.05)
        with lock:
            under_way[0] -= 1
        return whole(b"{}", HEAD + b"Connection: close\r\n")()

    with answering(parts) as url:
        wire = Wire(url, concurrency=3)
        call = lambda http: transport.post(http, wire, Counter(), "x", {})
        assert transport.run(transport.gathered(wire, [call] * 12)) == [{}] * 12
    assert 1 < most[0] <= 3
