"""Teachers behind servers that give log-probabilities: good servers and bad ones."""

import base64
import contextlib
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jax
import numpy as np
import pytest

import runs
from jopd.serving import reading
from jopd.setup import model
from jopd.teachers import served, transport
from jopd.teachers.served import Asked
from jopd_server import serving

ROWS = [Asked([3, 4, 13, 5, 16, 7], 4), Asked([5, 6, 14, 7, 16], 1)]


@contextlib.contextmanager
def answering(answer):
    """A server whose completions are ``answer(body)``: a dict, or (status, dict)."""

    class Handler(BaseHTTPRequestHandler):
        def send(self, status: int, body: dict) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self):
            self.send(200, {"data": [{"id": "tiny"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = answer(body)
            self.send(*(found if isinstance(found, tuple) else (200, found)))

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ids_of(prompt) -> list[int]:
    if isinstance(prompt, list):
        return prompt
    return runs.bundled_tokenizer()(prompt)["input_ids"]


def as_vllm(body, logp=lambda place: -0.5 - place / 8, also=0, before=()):
    """vLLM's reply to ``prompt_logprobs``; ``also`` further tokens at every place."""
    if body.get("max_tokens") == 0:
        return 400, {"message": "max_tokens must be at least 1"}
    ids = [*before, *ids_of(body["prompt"])]
    one = lambda value: {"logprob": value, "rank": 1, "decoded_token": "x"}
    places = [
        {str(i): one(logp(at))}
        | {str((i + 1 + n) % 18): one(logp(at) - 1 - n) for n in range(also)}
        for at, i in enumerate(ids)
    ]
    choice = {"text": "x", "prompt_logprobs": [None, *places[1:]]}
    usage = {"prompt_tokens": len(ids), "completion_tokens": 1}
    return {"choices": [choice], "usage": usage}


def as_openai(body, as_ids=True):
    """The reply to ``echo`` of a server without ``prompt_logprobs``."""
    if not body.get("echo"):
        return {"choices": [{"text": "x"}]}
    ids = ids_of(body["prompt"])
    said = [f"token_id:{i}" if as_ids else f"<{i}>" for i in ids]
    logps = [None, *(-0.5 - at / 8 for at in range(1, len(ids)))]
    likely = [None, *({token: p} for token, p in zip(said[1:], logps[1:]))]
    more = body["max_tokens"]
    found = {
        "tokens": said + ["token_id:1"] * more,
        "token_logprobs": logps + [-0.1] * more,
        "top_logprobs": likely + [{"token_id:1": -0.1}] * more,
    }
    return {"choices": [{"text": "x", "logprobs": found}]}


def connect(url: str, **more) -> served.Client:
    tokenizer = runs.bundled_tokenizer()
    return served.connect(url, "tiny", tokenizer, name="teacher", **more)


def test_a_real_server_says_what_the_model_says(tmp_path):
    teacher = model.load("demo:teacher")
    with serving("demo:teacher", "--name=tiny") as (url, _):
        client = connect(url, top_k=4, cache_dir=tmp_path / "cache")
        assert client.form == "prompt_logprobs" and client.top_k == 4
        found = client.score(ROWS)
        rows = reading.read(teacher, [row.tokens for row in ROWS], k=4)
        for asked, scores, read in zip(ROWS, found, rows, strict=True):
            assert scores.logp == pytest.approx(read.logp[asked.first - 1 :], abs=2e-5)
            assert (scores.ids == read.ids[asked.first - 1 :]).all()
            np.testing.assert_allclose(
                scores.likely, read.likely[asked.first - 1 :], atol=2e-5
            )
        counts = client.counts()
        assert counts["completion_tokens"] == 0, "nothing is written"
        assert counts["prompt_tokens"] == 11 and counts["cache_hits"] == 0
        again = connect(url, top_k=4, cache_dir=tmp_path / "cache")
        for one, other in zip(again.score(ROWS), found):
            for a, b in zip(one, other):
                assert (a == b).all() and a.dtype == b.dtype
        assert again.counts()["cache_hits"] == 2
        assert len(again.probe) > 5 and (again.probe == client.probe).all()
        # A whole vocabulary is all that can be asked for.
        assert connect(url, top_k=99).score(ROWS)[0].ids.shape == (2, 18)


def matrix(rows) -> str:
    content = io.BytesIO()
    np.save(content, rows)
    return base64.b64encode(content.getvalue()).decode()


def about_chosen(body, dtype=np.float32, change=lambda rows: rows, least=0):
    """vLLM's reply to ``prompt_logprob_token_ids``, as ``as_vllm`` has them."""
    params = body["sampling_params"]
    if params["max_tokens"] < least:
        return 400, {"message": "max_tokens must be at least 1"}
    ids = np.asarray(params["prompt_logprob_token_ids"])
    places = params["prompt_logprob_start"] + 1 + np.arange(len(ids))
    rows = -0.5 - places[:, None] / 8 - 0.01 * ((ids - ids[:, :1]) % 18)
    return {"prompt_token_id_logprobs": matrix(change(rows.astype(dtype)))}


def both(**how):
    """A server that can be asked in two ways."""
    return lambda body: (
        about_chosen(body, **how) if "token_ids" in body else as_vllm(body)
    )


def test_chosen_tokens_are_asked_about(tmp_path):
    ids = [np.int32([[1, 2], [3, 4]]), np.int32([[5, 6]] * 4)]
    rows = [one._replace(ids=i) for one, i in zip(ROWS, ids)]
    teacher = model.load("demo:teacher")
    with serving("demo:teacher", "--name=tiny") as (url, _):
        client = connect(url, top_k=2, chosen=True, cache_dir=tmp_path / "cache")
        assert client.form == "prompt_logprob_token_ids"
        found, again = client.score(rows), client.score(rows)
        assert client.counts()["cache_hits"] == 2
        (bare,) = client.score(ROWS[:1])
        assert client.counts()["completion_tokens"] == 0
    assert bare.ids.shape == (2, 0) and bare.logp == pytest.approx(found[0].logp)
    for asked, one, kept in zip(rows, found, again):
        tokens = list(asked.tokens)
        logp = np.asarray(jax.nn.log_softmax(teacher.logits([tokens]))[0], float)
        places = np.arange(asked.first, len(tokens))
        exact = logp[places - 1, np.asarray(tokens)[places]]
        assert one.logp == pytest.approx(exact, abs=2e-5)
        assert (one.ids == asked.ids).all()
        exact = np.take_along_axis(logp[places - 1], asked.ids, axis=1)
        np.testing.assert_allclose(one.likely, exact, atol=2e-5)
        assert all((a == b).all() for a, b in zip(one, kept))


@pytest.mark.parametrize("least", [0, 1])
def test_a_server_that_has_to_write_a_token(least):
    with answering(both(least=least)) as url:
        client = connect(url, top_k=1, chosen=True)
        (one,) = client.score([ROWS[0]._replace(ids=np.int32([[17], [8]]))])
    assert one.logp == pytest.approx([-1.0, -1.125])
    assert one.likely[:, 0] == pytest.approx([-1.01, -1.135])


CHOSEN = {
    "shape": (dict(change=lambda rows: rows[:, :1]), "for .* tokens"),
    "rows": (dict(change=lambda rows: rows[1:]), "for .* tokens"),
    "whole numbers": (dict(dtype=np.int32), "with int32"),
    "infinite": (dict(change=lambda rows: rows - np.inf), "-inf as a log-prob"),
    "a probability": (dict(change=lambda rows: rows + 9), "as a log-probability"),
    "shifted": (
        dict(change=lambda rows: np.roll(rows, len(rows) // 2, axis=0)),
        "other log-probabilities than as prompt_logprobs",
    ),
}


@pytest.mark.parametrize("kind", CHOSEN)
def test_matrices_that_cannot_be_used(kind):
    how, said = CHOSEN[kind]
    with (
        answering(both(**how)) as url,
        pytest.raises(ValueError, match=f"teacher.support='student': .*{said}"),
    ):
        connect(url, top_k=1, chosen=True)


@pytest.mark.parametrize("reply", [{}, {"prompt_token_id_logprobs": "no base64"}])
def test_a_server_that_does_not_know_chosen_tokens(reply):
    known = lambda body: reply if "token_ids" in body else as_vllm(body)
    with (
        answering(known) as url,
        pytest.raises(ValueError, match="without log-probabilities of chosen tokens"),
    ):
        connect(url, top_k=1, chosen=True)


@pytest.mark.parametrize("answer", [as_vllm, as_openai])
def test_ways_to_ask(answer):
    with answering(answer) as url:
        client = connect(url)
        found = client.score(ROWS)
    assert client.form == {"as_vllm": "prompt_logprobs"}.get(answer.__name__, "echo")
    for asked, scores in zip(ROWS, found):
        places = np.arange(asked.first, len(asked.tokens))
        assert scores.logp == pytest.approx(-0.5 - places / 8)


def test_a_server_that_names_tokens_by_text():
    """Their log-probabilities can be used, likely ones cannot."""
    answer = lambda body: as_openai(body, as_ids=False)
    with answering(answer) as url:
        assert connect(url).score(ROWS)[0].logp == pytest.approx([-1.0, -1.125])
        with pytest.raises(ValueError, match="likely tokens as texts, not as ids"):
            connect(url, top_k=1)


def test_a_beginning_of_text_before_a_probe_is_no_other_tokenizer():
    before = lambda body: (1,) if isinstance(body["prompt"], str) else ()
    with answering(lambda body: as_vllm(body, before=before(body))) as url:
        assert connect(url).form == "prompt_logprobs"


def first_of(change):
    """A server that is good until its connection stands, then bad."""
    asked = []

    def answer(body):
        asked.append(body)
        good = as_vllm(body)
        return change(body) if len(asked) > 3 else good

    return answer


SHIFTED = lambda body: as_vllm(body | {"prompt": [*body["prompt"][1:], 3]})
BAD = {
    "other tokens": (SHIFTED, "where token 1 is [46]: about other tokens"),
    "cut": (
        lambda body: as_vllm(body | {"prompt": body["prompt"][:-2]}),
        "for [43] of [65] tokens: it cuts prompts",
    ),
    "padded": (
        lambda body: as_vllm(body | {"prompt": body["prompt"] + [0]}),
        "for [76] of [65] tokens",
    ),
    "impossible": (
        lambda body: as_vllm(body, logp=lambda place: -9999.0),
        "-9999.0 as a log-probability at token [14]",
    ),
    "a probability": (
        lambda body: as_vllm(body, logp=lambda place: 0.3),
        "0.3 as a log-probability",
    ),
    "null": (lambda body: as_vllm(body, logp=lambda place: None), "None as a log-prob"),
    "nothing": (lambda body: {"choices": [{"text": ""}]}, "without log-probabilities"),
}


@pytest.mark.parametrize("kind", BAD)
def test_answers_that_cannot_be_used_end_the_run_by_name(kind):
    change, said = BAD[kind]
    with answering(first_of(change)) as url:
        client = connect(url)
        with pytest.raises(ValueError, match=f"teacher: {url} answers .*{said}"):
            client.score(ROWS)


def test_fewer_likely_tokens_than_were_asked_for():
    with answering(lambda body: as_vllm(body, also=1)) as url:
        assert connect(url, top_k=2).score(ROWS)[0].ids.tolist() == [[16, 17], [7, 8]]
        with pytest.raises(ValueError, match=r"2 likely tokens .* where 3 were asked"):
            connect(url, top_k=3)


def test_answers_are_not_those_of_another_model(tmp_path):
    """Of the same name at the same address, as servers of checkpoints are."""
    said = [0.0]
    answer = lambda body: as_vllm(body, logp=lambda at: said[0] - 0.5 - at / 8)
    with answering(answer) as url:
        ask = lambda: connect(url, cache_dir=tmp_path / "cache").score(ROWS[:1])[0].logp
        first = ask()
        said[0] = -1.0
        assert ask() == pytest.approx(first - 1.0)
        said[0] = 0.0
        assert ask() == pytest.approx(first)


def test_a_site_that_is_no_server_is_said_at_once():
    """What is not implemented will not be in a second either."""
    asked = []
    page = lambda body: asked.append(body) or (501, {"page": "x" * 900})
    with answering(page) as url, pytest.raises(ValueError) as error:
        connect(url)
    assert len(asked) == 4 and len(str(error.value)) < 600
    assert f"teacher.url='{url}'" in str(error.value)


def test_an_address_without_its_version():
    with (
        answering(lambda body: (404, {"detail": "Not Found"})) as url,
        pytest.raises(ValueError, match=r"ends in its version, such as /v1"),
    ):
        connect(url)


def test_a_server_without_log_probabilities():
    with (
        answering(lambda body: {"choices": [{"text": "x"}]}) as url,
        pytest.raises(
            ValueError, match=r"teacher.url=.* no log-probabilities of prompts"
        ),
    ):
        connect(url)


def test_a_server_with_another_tokenizer():
    other = lambda body: (
        [7, 7, 7] if isinstance(body["prompt"], str) else body["prompt"]
    )
    with (
        answering(lambda body: as_vllm(body | {"prompt": other(body)})) as url,
        pytest.raises(ValueError, match="into other tokens than the student's"),
    ):
        connect(url)


def test_a_row_that_is_lost_is_not_the_others(monkeypatch):
    monkeypatch.setattr(transport, "BACKOFF_SECONDS", 0.01)
    lost = lambda body: len(body["prompt"]) == 5 and isinstance(body["prompt"], list)
    answer = lambda body: (500, {}) if lost(body) else as_vllm(body)
    with answering(answer) as url:
        client = connect(url, retries=1)
        found = client.score(ROWS)
        assert found[1] is None and len(found[0].logp) == 2
        assert client.counts()["failures"] == 1 and client.counts()["retries"] == 1
        with pytest.raises(ConnectionError, match=r"or correct teacher.url"):
            client.score(ROWS[1:])
