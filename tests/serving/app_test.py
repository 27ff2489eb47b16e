"""``jopd serve`` as clients see it: a real process, asked by HTTP."""

import base64
import concurrent.futures
import io
import json
import re
import signal
import socket
import subprocess

import httpx2
import jax
import numpy as np
import pytest

import jopd
import runs
from jopd_server import serving


@pytest.fixture(scope="module")
def url():
    with serving("demo:teacher", "--name=tiny") as (url, _):
        yield url


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A model with a chat template, and its server."""
    folder = tmp_path_factory.mktemp("talker") / "model"
    tokenizer = runs.byte_tokenizer()
    runs.make_model(folder, seed=5, tokenizer=tokenizer, max_positions=512)
    with serving(folder) as (url, _):
        yield url, jopd.load(str(folder))


def post(url: str, path: str = "completions", **body):
    return httpx2.post(f"{url}/{path}", json=body, timeout=120)


def choices(url: str, path: str = "completions", **body):
    reply = post(url, path, **body)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"]


def test_its_models_and_its_health(url):
    (one,) = httpx2.get(f"{url}/models").json()["data"]
    assert one["id"] == "tiny" and one["max_model_len"] == 256
    assert httpx2.get(url.removesuffix("/v1") + "/health").json() == {"status": "ok"}


def test_texts_are_those_of_generate(url):
    model = jopd.load("demo:teacher")
    texts = ["12+3=", "9*9="]
    for options in ({"temperature": 0}, {"temperature": 0.7, "seed": 5, "n": 3}):
        found = choices(url, prompt=texts, max_tokens=20, **options)
        more = {key: options[key] for key in options if key != "n"}
        again = model.generate(
            texts, max_new_tokens=20, samples=options.get("n", 1), **more
        )
        assert [one["text"] for one in found] == [t for row in again for t in row]
        assert [one["index"] for one in found] == list(range(len(found)))


def test_ends_and_limits(url):
    short, whole = (choices(url, prompt="12+3=", max_tokens=n)[0] for n in (2, 60))
    assert short["finish_reason"] == "length" and whole["finish_reason"] == "stop"
    (cut,) = choices(url, prompt="12+3=", max_tokens=60, temperature=0, stop="#")
    assert cut["finish_reason"] == "stop" and "#" not in cut["text"]
    assert cut["text"] == whole["text"].partition("#")[0]


def test_log_probabilities_of_prompts(url):
    ids = [3, 4, 13, 5, 16, 7]
    reply = post(url, prompt=ids, max_tokens=0, prompt_logprobs=2).json()
    assert reply["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 0,
        "total_tokens": 6,
    }
    first, *rest = reply["choices"][0]["prompt_logprobs"]
    logp = jax.nn.log_softmax(jopd.load("demo:teacher").logits([ids]))[0]
    assert first is None
    for place, (entry, token) in enumerate(zip(rest, ids[1:], strict=True)):
        assert next(iter(entry)) == str(token), "the prompt's own comes first"
        assert 2 <= len(entry) <= 3
        for key, one in entry.items():
            exact = float(logp[place, int(key)])
            assert one["logprob"] == pytest.approx(exact, abs=2e-5)
        best = [key for key, one in entry.items() if one.get("rank") == 1]
        assert best == [str(int(np.argmax(logp[place])))]


def test_echo_covers_prompt_and_answer(url):
    body = dict(prompt="12+3=", max_tokens=3, temperature=0, echo=True, logprobs=1)
    for as_ids in (False, True):
        (one,) = choices(url, **body, return_tokens_as_token_ids=as_ids)
        found = one["logprobs"]
        if as_ids:
            assert found["tokens"][:2] == ["token_id:3", "token_id:4"]
        else:
            assert "".join(found["tokens"]) == one["text"]
            assert found["text_offset"] == list(range(len(found["tokens"])))
        assert found["token_logprobs"][0] is found["top_logprobs"][0] is None
        assert all(logp < 0 for logp in found["token_logprobs"][1:])
        for logp, likely in zip(found["token_logprobs"][5:], found["top_logprobs"][5:]):
            assert max(likely.values()) == logp, "greedy writes what is likeliest"


def test_what_is_written_has_the_log_probabilities_it_was_drawn_with(url):
    body = dict(max_tokens=12, temperature=1.0, seed=3, n=2, logprobs=0)
    model = jopd.load("demo:teacher")
    for one in choices(url, prompt="12+3=", **body, return_tokens_as_token_ids=True):
        ids = [int(t.removeprefix("token_id:")) for t in one["logprobs"]["tokens"]]
        prompt = model.tokenizer("12+3=")["input_ids"]
        logp = jax.nn.log_softmax(model.logits([[*prompt, *ids]]))[0]
        exact = [float(logp[len(prompt) + t - 1, i]) for t, i in enumerate(ids)]
        assert one["logprobs"]["token_logprobs"] == pytest.approx(exact, abs=2e-5)


def test_chosen_tokens(url):
    ids = [3, 4, 13, 5, 16, 7]
    rows = [[1, 2, 3], [4], [5, 17]]
    params = {"prompt_logprob_start": 2, "prompt_logprob_token_ids": rows}
    root = url.removesuffix("/v1") + "/inference/v1"
    reply = post(root, "generate", token_ids=ids, sampling_params=params)
    assert reply.status_code == 200, reply.text
    content = base64.b64decode(reply.json()["prompt_token_id_logprobs"])
    found = np.load(io.BytesIO(content))
    assert found.dtype == np.float32 and found.shape == (3, 3)
    logp = np.asarray(jax.nn.log_softmax(jopd.load("demo:teacher").logits([ids]))[0])
    for i, row in enumerate(rows):
        np.testing.assert_allclose(found[i, : len(row)], logp[2 + i, row], atol=2e-5)
        assert (found[i, len(row) :] == -np.inf).all()


@pytest.mark.parametrize(
    "change, said",
    [
        ({"token_ids": []}, "token_ids=.* must be a list of token ids"),
        ({"token_ids": [3, 99]}, "ids from 3 to 99"),
        ({"model": "x"}, "the model 'x' is not here"),
        ({"sampling_params": 3}, "sampling_params must be an object"),
        ({"rows": [[1]]}, "has 1 rows, and 3 tokens from 0 on have 2"),
        ({"rows": [[1], [18]]}, "ids lie in 1 to 18, the model's in 0 to 17"),
        ({"rows": [[1], []]}, "must be a list of lists of ids"),
        ({"rows": [[1], [2**70]]}, "ids lie in"),
        ({"params": {"max_tokens": 1}}, "max_tokens=1 must be a whole number from 0"),
        ({"params": {"prompt_logprob_start": 3}}, "prompt_logprob_start=3 must be"),
    ],
)
def test_requests_about_chosen_tokens_that_cannot_be_answered(url, change, said):
    params = {"prompt_logprob_token_ids": change.pop("rows", [[1], [2]])}
    params |= change.pop("params", {})
    body = {"token_ids": [3, 4, 5], "sampling_params": params} | change
    reply = post(url.removesuffix("/v1") + "/inference/v1", "generate", **body)
    assert reply.status_code in (400, 404), reply.text
    assert re.search(said, reply.json()["error"]["message"])


def test_many_at_once(url):
    """What waits is read together, and everyone has their own answer."""
    prompts = [[3, 4 + n % 9, 13, 5 + n % 5, 16] for n in range(40)]
    ask = lambda prompt: choices(url, prompt=prompt, max_tokens=0, prompt_logprobs=1)
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(ask, prompts))
    for prompt, (one,) in zip(prompts, together):
        ((alone),) = ask(prompt)
        for a, b in zip(one["prompt_logprobs"][1:], alone["prompt_logprobs"][1:]):
            assert a.keys() == b.keys()
            for key in a:
                assert a[key]["logprob"] == pytest.approx(b[key]["logprob"], abs=2e-5)


def test_a_conversation(talker):
    url, model = talker
    turns = [dict(role="user", content="hello")]
    body = dict(max_tokens=6, temperature=0)
    path = "chat/completions"
    (one,) = choices(url, path, messages=turns, **body, logprobs=True, top_logprobs=2)
    assert one["message"]["role"] == "assistant"
    assert [[one["message"]["content"]]] == model.generate(
        [turns], max_new_tokens=6, temperature=0.0
    )
    for place in one["logprobs"]["content"]:
        assert len(place["top_logprobs"]) == 2
        assert place["logprob"] == place["top_logprobs"][0]["logprob"]
    # An open turn of the assistant is continued, not answered.
    begun = [*turns, dict(role="assistant", content="Well")]
    open_turn = dict(continue_final_message=True, add_generation_prompt=False)
    (more,) = choices(url, path, messages=begun, **open_turn, **body)
    text = model.tokenizer.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=True
    )
    (plain,) = choices(url, prompt=text + "Well", add_special_tokens=False, **body)
    assert more["message"]["content"] == plain["text"]


@pytest.mark.parametrize(
    "body, said",
    [
        ({}, "prompt=None must be a text"),
        ({"prompt": []}, "prompt=.* must be a text"),
        ({"prompt": [3, "a"]}, "must be a text, a list of token ids"),
        ({"prompt": [99]}, "ids from 99 to 99; the model's are 0 to 17"),
        ({"prompt": [3] * 250}, "250 tokens and max_tokens=16: .* 1 to 256 in all"),
        ({"prompt": "1", "max_tokens": -1}, "max_tokens=-1 must be a whole number"),
        ({"prompt": "1", "n": True}, "n=True must be a whole number"),
        ({"prompt": "1", "temperature": "hot"}, "temperature='hot' must be a number"),
        ({"prompt": "1", "echo": "yes"}, "echo='yes' must be true or false"),
        ({"prompt": "1", "stop": {}}, r"stop=\{\} must be a text or a list"),
        ({"prompt": "1", "stop": [1]}, r"stop=\[1\] must be a text or a list"),
        ({"prompt": "1", "stream": True}, "stream=True is not served"),
        ({"prompt": "1", "logit_bias": {"3": 5}}, "logit_bias=.* is not served"),
        ({"prompt": "1", "prompt_logprob": 5}, "field 'prompt_logprob' is unknown"),
    ],
)
def test_a_request_that_cannot_be_answered(url, body, said):
    reply = post(url, **body)
    assert reply.status_code == 400
    error = reply.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert re.search(said, error["message"])


def test_what_is_written_ends_with_its_stop_string(url):
    body = dict(prompt="12+3=", max_tokens=60, temperature=0, logprobs=0, stop="#")
    reply = post(url, **body).json()
    (one,) = reply["choices"]
    tokens = one["logprobs"]["tokens"]
    assert "".join(tokens) == one["text"] + "#"
    assert reply["usage"]["completion_tokens"] == len(tokens)


def test_next_to_no_temperature_is_greedy(url):
    ask = lambda t: choices(url, prompt="12+3=", max_tokens=9, temperature=t)
    ((cold,), (colder,)) = ask(0), ask(1e-40)
    assert cold["text"] == colder["text"] != ""


@pytest.mark.parametrize("prompt", ["\N{SNOWMAN}", "a", "\x00", ["1+1=", "b"]])
def test_a_text_that_the_tokenizer_refuses(url, prompt):
    reply = post(url, prompt=prompt, max_tokens=0)
    assert reply.status_code == 400
    assert "cannot be tokenised" in reply.json()["error"]["message"]


def test_half_of_a_surrogate_pair(url, talker):
    for address, path, body in (
        (url, "completions", b'{"prompt": "\\ud800"}'),
        (
            talker[0],
            "chat/completions",
            b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        ),
    ):
        reply = httpx2.post(f"{address}/{path}", content=body)
        assert reply.status_code == 400, reply.text
        assert "cannot be tokenised" in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    "kwargs", [[], {"chat_template": "{{ 1 }}"}, {"tokenize": True}]
)
def test_what_a_template_is_not_given(talker, kwargs):
    turns = [dict(role="user", content="hello")]
    body = dict(messages=turns, chat_template_kwargs=kwargs)
    reply = post(talker[0], "chat/completions", **body)
    assert reply.status_code == 400
    assert "of what the template reads" in reply.json()["error"]["message"]


def test_clients_that_leave_leave_no_trace(url):
    """In the middle of a body, or of an answer."""
    host, port = url.removeprefix("http://").removesuffix("/v1").split(":")
    for sent in (b'{"prompt": "1', b'{"prompt": "12+3=", "max_tokens": 200, "n": 40}'):
        with socket.create_connection((host, int(port))) as connection:
            head = (
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 999\r\n"
            )
            connection.sendall(head + b"\r\n" + sent)
    assert choices(url, prompt="12+3=", max_tokens=2)


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_it_is_ended_without_a_word(end):
    with serving("demo:teacher", stderr=subprocess.PIPE) as (url, process):
        assert choices(url, prompt="12+3=", max_tokens=2)
        process.send_signal(end)
        _, said = process.communicate(timeout=60)
    assert said == "", said


def test_a_key(monkeypatch):
    monkeypatch.setenv("JOPD_TEST_KEY", "secret")
    with serving("demo:teacher", "--key_env=JOPD_TEST_KEY") as (url, _):
        ask = lambda **headers: httpx2.get(f"{url}/models", headers=headers).status_code
        assert ask() == ask(Authorization="Bearer wrong") == 401
        assert ask(Authorization="secret") == ask(Authorization="Basic secret") == 401
        assert ask(Authorization="Bearer secret") == 200
        assert ask(Authorization="bearer secret") == 200


def test_other_refusals(url, tmp_path):
    reply = post(url, prompt="1+1=", model="other")
    assert (
        reply.status_code == 404
        and "this is 'tiny'" in reply.json()["error"]["message"]
    )
    for content in (b"{", b"[]", b"\xff", b"[" * 100_000):
        reply = httpx2.post(f"{url}/completions", content=content)
        assert reply.status_code == 400, reply.text
        assert "JSON" in json.loads(reply.content)["error"]["message"]
    reply = post(url, "chat/completions", messages=[dict(role="user", content="hi")])
    assert reply.status_code == 400 and "no chat template" in reply.text
    assert post(url, prompt="12+3=", user="me", stream=False).status_code == 200
