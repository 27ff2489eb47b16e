"""Text-only teachers behind HTTP, against real server processes."""

import json
import signal
import socket
import threading
import time
from collections import Counter

import pytest

import runs
from jopd.teachers import remote, transport
from jopd.teachers.remote import Prefix
from openai_server import server, url_of

PREFIXES = [Prefix(f"{i}+2=", f"{i}+2={i + 2};") for i in range(1, 9)]
SEEDS = [100 * i for i in range(8)]


@pytest.fixture
def quick(monkeypatch):
    """Backoff that a test can wait for."""
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.05)


def connect(port: int, **changes) -> remote.Client:
    return remote.connect(url_of(port), "tiny", **{"timeout_seconds": 20.0} | changes)


def ask(client, prefixes=PREFIXES, n: int = 2, seeds=SEEDS):
    return client.continue_texts(prefixes, n, 6, 1.0, seeds[: len(prefixes)])


def answered(log) -> Counter:
    """How often each request was answered in full, by the server's own log."""
    good = [r for r in runs.rows(log) if r["status"] == 200 and "garbage" not in r]
    return Counter(json.dumps(row["body"], sort_keys=True) for row in good)


# A real model in a process of its own.


def test_a_model_behind_http_killed_and_restarted(tmp_path, quick):
    """The client finishes, and nothing is asked, paid or counted twice."""
    log, cache, model = tmp_path / "log", tmp_path / "cache", "--model=demo:teacher"
    found, failure = [], []

    def work(client):
        try:
            found.append(ask(client))
        except Exception as error:
            failure.append(error)

    with server(log, model, "--slow=0.3") as (port, first):
        settings = {"concurrency": 2, "retries": 12, "cache_dir": cache}
        client = connect(port, **settings)
        thread = threading.Thread(target=work, args=(client,))
        thread.start()
        while sum(answered(log).values()) < 3:
            time.sleep(0.05)
        first.send_signal(signal.SIGKILL)
        first.wait()
        assert thread.is_alive(), "it was killed in the middle"
        with server(log, model, port=port):
            thread.join()
            assert not failure and len(found) == 1
            texts = found[0]
            assert all(len(row) == 2 for row in texts)
            assert set("".join(map("".join, texts))) <= set("0123456789+-*=;#")
            assert len({tuple(row) for row in texts}) > 3, "the model read the prefixes"
            counts = client.counts()
            assert counts["retries"] >= 1 and counts["failures"] == 0
            # By the log of the servers nothing was answered twice; what the first one
            # had begun to send when it was killed (2 at most) it may not have noted.
            assert set(answered(log).values()) == {1} and len(answered(log)) >= 6
            begun = {
                json.dumps(row["body"], sort_keys=True): row["usage"]
                for row in runs.rows(log.with_name("log.begun"))
            }
            assert len(begun) == 8
            # Each is in the cache once, and is paid once.
            kept = [json.loads(p.read_text()) for p in cache.rglob("*.json")]
            assert len(kept) == 8
            for name in ("prompt_tokens", "completion_tokens"):
                assert counts[name] == sum(usage[name] for usage in begun.values())
                assert counts[name] == sum(row["usage"][name] for row in kept)
            # A resumed run asks again and pays nothing.
            again = connect(port, **settings)
            assert ask(again) == texts
            assert again.counts()["cache_hits"] == 8
            assert again.counts()["requests"] == again.counts()["prompt_tokens"] == 0
            # The log may have gained a line that was on its way, never a second one.
            assert set(answered(log).values()) == {1}
            # Another seed is another request; without a cache all are.
            assert ask(again, PREFIXES[:1], seeds=[7]) != texts[:1]
            fresh = connect(port, concurrency=2)
            assert ask(fresh, PREFIXES[:2]) == texts[:2], "seeds fix the answers"
            assert fresh.counts()["requests"] == 2
    with pytest.raises(ConnectionError, match=f"127.0.0.1:{port}/v1 does not answer"):
        connect(port)


# A server that misbehaves; no model needed.


def test_requests_of_each_api(tmp_path):
    log = tmp_path / "log"
    with server(log, "--canned= on") as (port, _):
        for api in remote.APIS:
            client = connect(port, api=api)
            assert ask(client, PREFIXES[:1]) == [[" on", " on"]]
            assert ask(client, [Prefix("hm?", "")]) == [[" on", " on"]]
        bodies = [row["body"] for row in runs.rows(log)]
    plain, plain_start, chat, chat_start, open_turn, open_start = bodies
    assert plain["prompt"] == "1+2=1+2=3;" and plain_start["prompt"] == "hm?"
    assert plain["n"] == 2 and plain["max_tokens"] == 6 and plain["temperature"] == 1
    assert plain["seed"] == 0 and plain["model"] == "tiny"
    (turn,) = chat["messages"]
    assert turn["role"] == "user" and turn["content"].endswith("so far:\n1+2=3;")
    assert turn["content"].startswith("1+2=\n")
    start = [{"role": "user", "content": "hm?"}]
    assert chat_start["messages"] == open_start["messages"] == start
    assert [t["role"] for t in open_turn["messages"]] == ["user", "assistant"]
    assert open_turn["messages"][1]["content"] == "1+2=3;"
    assert open_turn["continue_final_message"] and "n" in open_turn
    assert "continue_final_message" not in open_start


def test_one_sample_per_request(tmp_path):
    """For servers that do not know ``n``; each sample has its own seed."""
    log = tmp_path / "log"
    with server(log, "--canned=x", "--most=1") as (port, _):
        client = connect(port, per_request=1)
        assert ask(client, PREFIXES[:2], n=3) == [["x"] * 3] * 2
        seeds = sorted(row["body"]["seed"] for row in runs.rows(log))
        assert seeds == [0, 1, 2, 100, 101, 102]
        # Fewer texts than asked for: dropped and counted, and not kept.
        with pytest.raises(ConnectionError, match="1 choices, not 2 texts"):
            ask(connect(port, cache_dir=tmp_path / "cache"), PREFIXES[:1])
    assert not list((tmp_path / "cache").iterdir())


def test_too_many_requests_and_a_busy_server(tmp_path, quick):
    log = tmp_path / "log"
    words = ("--canned=x", "--refuse=2", "--retry-after=0.4", "--broken=2")
    with server(log, *words) as (port, _):
        client = connect(port, concurrency=1)
        began = time.perf_counter()
        assert ask(client, PREFIXES[:2]) == [["x", "x"]] * 2
        assert time.perf_counter() - began > 0.8, "Retry-After was heeded, twice"
        counts = client.counts()
    assert counts["requests"] == 6 and counts["retries"] == 4
    assert counts["failures"] == 0 and counts["seconds"] > 0
    times = [row["time"] for row in runs.rows(log)]
    assert times[1] - times[0] >= 0.4 and times[2] - times[1] >= 0.4


def test_too_many_requests_without_a_time_to_wait(tmp_path, quick):
    """Repeated with backoff; one that stays refused is dropped and counted."""
    log = tmp_path / "log"
    with server(log, "--canned=x", "--refuse=5", "--retry-after=") as (port, _):
        client = connect(port, concurrency=1, retries=2, cache_dir=tmp_path / "cache")
        assert ask(client, PREFIXES[:3]) == [None, ["x", "x"], ["x", "x"]]
        counts = client.counts()
        assert counts["requests"] == 7 and counts["retries"] == 4
        assert counts["failures"] == 1
        times = [row["time"] for row in runs.rows(log)]
        assert times[1] - times[0] >= 0.5 * transport.BACKOFF_SECONDS
        assert times[2] - times[1] >= transport.BACKOFF_SECONDS, "doubled"
        assert len(list((tmp_path / "cache").rglob("*.json"))) == 2
    with server(tmp_path / "other", "--refuse=9", "--retry-after=") as (port, _):
        with pytest.raises(ConnectionError, match=r"none of 1 .*429 .*slow down") as e:
            ask(connect(port, retries=1), PREFIXES[:1])
        assert "repeated up to 1 times" in str(e.value)


@pytest.mark.parametrize(
    "text",
    ["<html>", "[]", "{}", '{"choices": [{"message": {}}]}', '{"choices": null}'],
)
def test_garbage_is_incomplete_and_counted(tmp_path, text):
    words = ("--canned=x", "--garbage=2", f"--garbage-text={text}")
    with server(tmp_path / "log", *words) as (port, _):
        client = connect(port, concurrency=1, cache_dir=tmp_path / "cache")
        found = ask(client, PREFIXES[:4])
        assert found == [["x", "x"], None, ["x", "x"], None]
        assert client.counts()["failures"] == 2 and client.counts()["retries"] == 0
        assert len(list((tmp_path / "cache").rglob("*.json"))) == 2


def test_a_reply_that_cannot_be_decoded_is_repeated(tmp_path, quick):
    words = ("--canned=x", "--garbage=2", "--garbled")
    with server(tmp_path / "log", *words) as (port, _):
        client = connect(port, concurrency=1)
        assert ask(client, PREFIXES[:3]) == [["x", "x"]] * 3
        assert client.counts()["retries"] == 2 and client.counts()["failures"] == 0


@pytest.mark.parametrize("usage", ['"12"', "[3]", '{"prompt_tokens": "12"}', "{}"])
def test_a_cost_that_is_no_number_counts_as_none(tmp_path, usage):
    with server(tmp_path / "log", "--canned=x", f"--usage={usage}") as (port, _):
        client = connect(port, cache_dir=tmp_path / "cache")
        assert ask(client, PREFIXES[:1]) == [["x", "x"]]
        counts = client.counts()
    assert counts["prompt_tokens"] == counts["completion_tokens"] == 0
    assert counts["requests"] == 1 and counts["failures"] == 0


def test_a_slow_server_times_out_and_a_dead_one_ends_the_call(tmp_path, quick):
    with server(tmp_path / "log", "--canned=x", "--slow=3") as (port, _):
        client = connect(port, timeout_seconds=0.3, retries=1)
        with pytest.raises(
            ConnectionError, match=r"none of 2 requests \(no whole reply"
        ):
            ask(client, PREFIXES[:2])
        assert client.counts()["requests"] == 4 and client.counts()["failures"] == 2


def test_slow_requests_run_side_by_side(tmp_path):
    with server(tmp_path / "log", "--canned=x", "--slow=0.4") as (port, _):
        began = time.perf_counter()
        assert ask(connect(port, concurrency=8)) == [["x", "x"]] * 8
        assert time.perf_counter() - began < 8 * 0.4 / 2


# Errors at the start.


def test_nothing_there():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ConnectionError) as caught:
        connect(port)
    message = str(caught.value)
    assert url_of(port) in message and "ConnectError" in message
    assert "start the server, or correct remote.url" in message
    with pytest.raises(ConnectionError, match="does not answer"):
        remote.connect("localhost:8000", "tiny")


def test_a_server_that_is_silent_at_the_start():
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(ConnectionError, match=r"does not answer \(no whole reply"):
            connect(silent.getsockname()[1], timeout_seconds=0.2)


@pytest.mark.parametrize(
    "status, text",
    [
        (200, "<html>"),
        (200, "[]"),
        (200, "{}"),
        (200, '{"data": null}'),
        (200, '{"data": [{"name": "tiny"}]}'),
        (500, "broken"),
    ],
)
def test_no_list_of_models_at_the_start(tmp_path, status, text):
    words = ("--canned=x", f"--list={text}", f"--list-status={status}")
    with (
        server(tmp_path / "log", *words) as (port, _),
        pytest.raises(ConnectionError, match=f"answers {status}") as caught,
    ):
        connect(port)
    assert text in str(caught.value) and "correct remote.url" in str(caught.value)


def test_another_model_a_wrong_key_and_no_list(tmp_path, monkeypatch):
    with server(tmp_path / "log", "--canned=x", "--key=secret") as (port, _):
        monkeypatch.setenv("TINY_KEY", "secret")
        monkeypatch.setenv("WRONG_KEY", "guess")
        assert ask(connect(port, key_env="TINY_KEY"), PREFIXES[:1]) == [["x", "x"]]
        with pytest.raises(ValueError, match=r"'huge' is not on .*; it serves tiny"):
            remote.connect(url_of(port), "huge", key_env="TINY_KEY")
        with pytest.raises(ValueError, match=r"answers 401.*check the key"):
            connect(port, key_env="WRONG_KEY")
        with pytest.raises(ValueError, match="'NO_KEY': no such environment variable"):
            connect(port, key_env="NO_KEY")
        # A list of models is not asked of every server.
        other = remote.connect(f"http://127.0.0.1:{port}", "x", key_env="TINY_KEY")
        assert other.counts()["requests"] == 0
    with pytest.raises(ValueError, match="'grpc' is unknown; use one of completions"):
        connect(port, api="grpc")


# What comes back from a chat.

LONG = "12+3=15;15-7=8;8*2=16;"


def test_restating_counts_in_a_chat_only(tmp_path):
    prefix = [Prefix("sum?", LONG)]
    with server(tmp_path / "log", f"--canned={LONG}rest") as (port, _):
        assert ask(connect(port, api="chat"), prefix) == [["rest"] * 2]
        assert ask(connect(port), prefix) == [[LONG + "rest"] * 2]
    with server(tmp_path / "log", f"--canned={LONG[:18]}") as (port, _):
        assert ask(connect(port, api="chat"), prefix) == [None]


def test_chats_without_what_they_put_around_and_refusals_dropped(tmp_path):
    prefix, said = [Prefix("sum?", LONG)], "Sure! Here is the continuation:\n\n16+1=17;"
    with server(tmp_path / "log", f"--canned={said}") as (port, _):
        assert ask(connect(port, api="chat"), prefix) == [["16+1=17;"] * 2]
        assert ask(connect(port), prefix) == [[said] * 2]
    with server(tmp_path / "log", "--canned=I'm sorry, but no.") as (port, _):
        client = connect(port, api="chat")
        assert ask(client, prefix) == [None]
        assert client.counts()["refused"] == client.counts()["texts"] == 2
    with server(tmp_path / "log", "--canned=") as (port, _):
        client = connect(port)
        assert ask(client, prefix) == [["", ""]] and client.counts()["empty"] == 2


# What is sent, and what it costs.


def test_fields_of_ones_own(tmp_path):
    log, body = tmp_path / "log", {"stop": ["\n"], "seed": None, "max_tokens": 7}
    body |= {"chat_template_kwargs": {"enable_thinking": False}}
    with server(log, "--canned=x") as (port, _):
        cache = {"cache_dir": tmp_path / "cache"}
        client = connect(port, body=body, **cache)
        assert ask(client, PREFIXES[:1]) == [["x", "x"]]
        (sent,) = [row["body"] for row in runs.rows(log)]
        assert "seed" not in sent and sent["max_tokens"] == 7
        assert sent["stop"] == ["\n"] and sent["chat_template_kwargs"] == {
            "enable_thinking": False
        }
        # Another body is another request, also for the cache.
        ask(connect(port, **cache), PREFIXES[:1])
        assert len(runs.rows(log)) == 2
        alone = connect(port, body={"n": None}, per_request=1)
        assert ask(alone, PREFIXES[:1]) == [["x", "x"]]
        assert all("n" not in row["body"] for row in runs.rows(log)[2:])
    for field in remote.OWN_FIELDS:
        with pytest.raises(ValueError, match=f"remote.body.{field}=1 cannot be"):
            connect(port, body={field: 1})
    with pytest.raises(ValueError, match=r"per_request=1 lets n=None"):
        connect(port, body={"n": None})


def test_a_budget_of_tokens_ends_the_run_and_is_kept_by_what_was_paid(tmp_path):
    usage = {"prompt_tokens": 30, "completion_tokens": 20}
    usage |= {"prompt_tokens_details": {"cached_tokens": 16}}
    usage |= {"completion_tokens_details": {"reasoning_tokens": 12}}
    words = ("--canned=x", f"--usage={json.dumps(usage)}")
    with server(tmp_path / "log", *words) as (port, _):
        settings = {"concurrency": 1, "cache_dir": tmp_path / "cache"}
        client = connect(port, token_budget=150, **settings)
        with pytest.raises(ValueError, match=r"token_budget=150 is used up: 150 tok"):
            ask(client)
        counts = client.counts()
        assert counts["requests"] == 3 and counts["failures"] == 0
        assert counts["prompt_tokens"] == 90 and counts["completion_tokens"] == 60
        assert counts["cached_tokens"] == 48 and counts["reasoning_tokens"] == 36
        again = connect(port, token_budget=250, **settings)
        assert ask(again) == [["x", "x"]] * 8
        assert again.counts()["cache_hits"] == 3


def test_replies_that_nobody_counts_end_the_run_and_are_kept(tmp_path):
    settings = {"concurrency": 3, "cache_dir": tmp_path / "cache"}
    with server(tmp_path / "log", "--canned=x", "--usage={}") as (port, _):
        client = connect(port, token_budget=10, **settings)
        with pytest.raises(ValueError, match="does not say how many tokens"):
            ask(client)
        sent = client.counts()["requests"]
        assert 1 <= sent <= 3  # those under way were awaited, no other was sent
        again = connect(port, **settings)
        assert ask(again) == [["x", "x"]] * 8
        assert again.counts()["cache_hits"] == sent


def test_a_damaged_reply_on_disk_is_asked_again(tmp_path):
    log, cache = tmp_path / "log", tmp_path / "cache"
    with server(log, "--canned=x") as (port, _):
        ask(connect(port, cache_dir=cache), PREFIXES[:3])
        damaged, cut, _ = sorted(cache.rglob("*.json"))
        damaged.write_bytes(b"\xff\x00{")
        cut.write_text(cut.read_text()[:40])
        client = connect(port, cache_dir=cache)
        with pytest.warns(UserWarning, match="is damaged .* asked again") as said:
            assert ask(client, PREFIXES[:3]) == [["x", "x"]] * 3
        assert len(said) == 2 and client.counts()["requests"] == 2
        again = connect(port, cache_dir=cache)
        assert ask(again, PREFIXES[:3]) == [["x", "x"]] * 3
        assert again.counts()["cache_hits"] == 3
        blocked = tmp_path / "file"
        blocked.write_text("")
        with pytest.raises(ValueError, match=r"remote.cache_dir=.* cannot be written"):
            connect(port, cache_dir=blocked / "cache")


# Secrets.


def test_keys_and_logins_reach_the_server_and_no_message(tmp_path, monkeypatch):
    with server(tmp_path / "log", "--canned=x", "--key=sk-secret") as (port, _):
        monkeypatch.setenv("TINY_KEY", "sk-secret\n")  # as "$(cat file)" may leave it
        assert ask(connect(port, key_env="TINY_KEY"), PREFIXES[:1]) == [["x", "x"]]
        for bad in ("sk-sec\nret", "", "sk-sécret", "sk-\x00"):
            monkeypatch.setattr(
                "os.environ", {"TINY_KEY": bad}
            )  # which the real one would refuse
            with pytest.raises(ValueError, match="'TINY_KEY': the variable is") as e:
                connect(port, key_env="TINY_KEY")
            assert "sec" not in str(e.value) and "ret" not in str(e.value)
    for url in ("http://me:pa55@127.0.0.1:9/v1", "http://me:pa55@no host/v1"):
        with pytest.raises(ConnectionError, match="does not answer") as e:
            remote.connect(url, "tiny")
        assert "pa55" not in str(e.value) and e.value.__suppress_context__
    with pytest.raises(ValueError, match=r"http://\*\*\*@h.* cannot be read as") as e:
        remote.connect("http://me:pa/55@h/v1", "tiny")
    assert "pa" not in str(e.value).partition("cannot")[0]


def test_a_login_is_sent_and_not_beside_a_key(tmp_path, monkeypatch):
    key = "--basic=Basic bWU6cEA1NQ=="  # me:p@55
    with server(tmp_path / "log", "--canned=x", key) as (port, _):
        with_login = f"http://me:p%4055@127.0.0.1:{port}/v1"
        assert ask(remote.connect(with_login, "tiny"), PREFIXES[:1]) == [["x", "x"]]
        with pytest.raises(ValueError, match="answers 401"):
            connect(port)
        monkeypatch.setenv("TINY_KEY", "k")
        with pytest.raises(ValueError, match="two ways to say who asks"):
            remote.connect(with_login, "tiny", key_env="TINY_KEY")
