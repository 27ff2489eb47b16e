"""Requests and answers of OpenAI's protocol, with what vLLM adds for prompts.

    /v1/completions        a text or token ids, continued
    /v1/chat/completions   a conversation, answered

``logprobs`` asks for log-probabilities of what is written, with ``echo`` of the prompt
as well; ``prompt_logprobs=k`` for those of the prompt's tokens and the k likeliest at
their places, by id. ``max_tokens=0`` writes nothing. What is not known is refused.
"""

import inspect
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jopd.rollouts import sampling
from jopd.setup.model import Model, Written
from jopd.teachers.likely import Scores

MOST_LIKELY = 1024  # tokens at a place
MOST_SAMPLES = 1024
# What says nothing about the answer, and what is known with these values only.
UNREAD = {"user", "store", "metadata", "service_tier", "parallel_tool_calls"}
ONLY = {
    "stream": (False, None),
    "best_of": (1, None),
    "suffix": (None, ""),
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "repetition_penalty": (1, None),
    "logit_bias": (None, {}),
    "tools": (None, []),
    "response_format": (None, {"type": "text"}),
}
OF_BOTH = {
    "model",
    "n",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "logprobs",
    "prompt_logprobs",
    "return_tokens_as_token_ids",
}
OF_TEXTS = OF_BOTH | {"prompt", "echo", "add_special_tokens"}
OF_CHAT = OF_BOTH | {
    "messages",
    "max_completion_tokens",
    "top_logprobs",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template_kwargs",
}


class Job(NamedTuple):
    """What a request asks for.

    Attributes:
      name: the model's, as the request has it.
      chat: whether it is a conversation.
      prompts: token ids.
      options: of ``Model.complete``.
      echo: whether the answer begins with the prompt.
      likely, prompt_likely: how many likely tokens at every place, of what is written
        and of the prompt; None: no log-probabilities at all.
      as_ids: tokens are said as "token_id:7", not as text.
    """

    name: str
    chat: bool
    prompts: list[list[int]]
    options: dict[str, Any]
    echo: bool
    likely: int | None
    prompt_likely: int | None
    as_ids: bool

    @property
    def reads(self) -> int | None:
        """``reading.read``'s k; None where nothing is read."""
        asked = [k for k in (self.likely, self.prompt_likely) if k is not None]
        return max(asked, default=None)


class Unknown(ValueError):
    """Another model was asked for."""


def job(model: Model, name: str, body: Any, *, chat: bool) -> Job:
    """A request's body, checked.

    Raises:
      ValueError: names the field and what is possible. Unknown: another model.
    """
    if not isinstance(body, Mapping):
        raise ValueError("the body must be a JSON object")
    check_fields(body, OF_CHAT if chat else OF_TEXTS)
    if body.get("model", name) != name:
        raise Unknown(f"the model {body['model']!r} is not here; this is {name!r}")
    get = lambda *about: number(body, *about)
    options = dict(
        samples=get("n", 1, 1, MOST_SAMPLES, int),
        max_new_tokens=_most(body, chat),
        temperature=_temperature(get("temperature", 1.0, 0.0, 1e3, float)),
        top_p=float(get("top_p", 1.0, 1e-6, 1.0, float)),
        top_k=max(get("top_k", 0, -1, 2**31 - 1, int), 0),
        min_p=float(get("min_p", 0.0, 0.0, 1.0, float)),
        seed=get("seed", time.time_ns() % 2**31, 0, 2**63 - 1, int) % 2**31,
        stop_strings=_stops(body.get("stop")),
    )
    prompts = _of_chat(model, body) if chat else _of_texts(model, body)
    check_prompts(model, prompts, options["max_new_tokens"])
    likely = get("logprobs", None, 0, MOST_LIKELY, int) if not chat else None
    if chat and _flag(body, "logprobs"):
        likely = get("top_logprobs", 0, 0, MOST_LIKELY, int)
    return Job(
        name=name,
        chat=chat,
        prompts=prompts,
        options=options,
        echo=_flag(body, "echo"),
        likely=likely,
        prompt_likely=get("prompt_logprobs", None, 0, MOST_LIKELY, int),
        as_ids=_flag(body, "return_tokens_as_token_ids"),
    )


def check_fields(body: Mapping, known: set[str]) -> None:
    for field, value in body.items():
        if field in ONLY and value not in ONLY[field]:
            raise ValueError(f"{field}={value!r:.80} is not served; leave it out")
        if field not in known | UNREAD | ONLY.keys():
            raise ValueError(
                f"the field {field!r} is unknown; known: {', '.join(sorted(known))}"
            )


def number(body: Mapping, field: str, default, low, high, kind):
    value = body.get(field)
    if value is None:
        return default
    whole = isinstance(value, int | (kind if kind is float else int))
    if isinstance(value, bool) or not whole or not low <= value <= high:
        raise ValueError(
            f"{field}={value!r:.80} must be a {'whole ' * (kind is int)}number from "
            f"{low} to {high}"
        )
    return value


def _flag(body: Mapping, field: str, default: bool = False) -> bool:
    value = body.get(field)
    if value not in (None, True, False):
        raise ValueError(f"{field}={value!r:.80} must be true or false")
    return default if value is None else bool(value)


def _temperature(value: float) -> float:
    """As other servers have it, what is next to 0 is greedy."""
    return 0.0 if value < sampling.LEAST else float(value)


def _most(body: Mapping, chat: bool) -> int:
    field = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    return number(body, field, 128 if chat else 16, 0, 2**20, int)


def _stops(given) -> tuple[str, ...]:
    found = [given] if isinstance(given, str) else given
    found = [] if found is None else found
    if not isinstance(found, list) or not all(isinstance(x, str) for x in found):
        raise ValueError(f"stop={given!r:.80} must be a text or a list of texts")
    return tuple(found)


def are_ids(given) -> bool:
    is_id = lambda x: isinstance(x, int) and not isinstance(x, bool)
    return isinstance(given, list) and bool(given) and all(map(is_id, given))


def _of_texts(model: Model, body: Mapping) -> list[list[int]]:
    given, special = body.get("prompt"), _flag(body, "add_special_tokens", True)
    several = [given] if isinstance(given, str) or are_ids(given) else given
    good = isinstance(several, list) and several
    if not good or not all(isinstance(one, str) or are_ids(one) for one in several):
        raise ValueError(
            f"prompt={given!r:.80} must be a text, a list of token ids, or several of "
            "them"
        )
    return [
        _encoded(model, one, special) if isinstance(one, str) else one
        for one in several
    ]


def _encoded(model: Model, text: str, special: bool) -> list[int]:
    try:
        return model.tokenizer(text, add_special_tokens=special)["input_ids"]
    except Exception as error:  # whatever a tokenizer raises
        raise ValueError(f"{text!r:.80} cannot be tokenised: {error}") from error


def _of_chat(model: Model, body: Mapping) -> list[list[int]]:
    if model.tokenizer.chat_template is None:
        raise ValueError("the model has no chat template; ask /v1/completions")
    turns = body.get("messages")
    good = isinstance(turns, list) and turns and all(isinstance(t, dict) for t in turns)
    if not good:
        raise ValueError(
            f"messages={turns!r:.80} must be a list of turns, one at least"
        )
    more = body.get("chat_template_kwargs")
    more = {} if more is None else more
    own = inspect.signature(model.tokenizer.apply_chat_template).parameters
    if not isinstance(more, dict) or own.keys() & more.keys():
        raise ValueError(
            f"chat_template_kwargs={more!r:.80} must be an object of what the template "
            "reads"
        )
    try:
        text = model.tokenizer.apply_chat_template(
            turns,
            tokenize=False,
            add_generation_prompt=_flag(body, "add_generation_prompt", True),
            continue_final_message=_flag(body, "continue_final_message"),
            **more,
        )
    except Exception as error:  # whatever a template raises
        raise ValueError(f"the chat template refuses the messages: {error}") from error
    return [_encoded(model, text, special=False)]


def nothing(job: Job) -> list[list[Written]]:
    """What is written where no token is asked for."""
    return [[Written([], "", False)] * job.options["samples"] for _ in job.prompts]


def check_prompts(model: Model, prompts: Sequence[Sequence[int]], new: int) -> None:
    room, size = model.config.max_positions, model.config.vocab_size
    for ids in prompts:
        if not ids or len(ids) + new > room:
            raise ValueError(
                f"a prompt of {len(ids)} tokens and max_tokens={new}: the model reads "
                f"1 to {room} in all"
            )
        if min(ids) < 0 or max(ids) >= size:
            raise ValueError(
                f"a prompt has ids from {min(ids)} to {max(ids)}; the model's are 0 to "
                f"{size - 1}"
            )


def texts_read(job: Job, written: Sequence[Sequence[Written]]) -> list[list[int]]:
    """Token ids of every text whose log-probabilities an answer needs.

    One for each choice where something was written, else one for each prompt.
    """
    pairs = zip(job.prompts, written, strict=True)
    if job.likely is None:
        return list(job.prompts)
    return [[*prompt, *one.ids] for prompt, row in pairs for one in row]


def answer(
    model: Model,
    job: Job,
    written: Sequence[Sequence[Written]],
    reads: Sequence[Scores],
) -> dict[str, Any]:
    """The body of an answer; ``reads`` are those of ``texts_read``."""
    choices = []
    each = job.options["samples"] if job.likely is not None else 1
    for p, (prompt, row) in enumerate(zip(job.prompts, written, strict=True)):
        for n, one in enumerate(row):
            read = reads[p * each + n % each] if reads else None
            choice = _choice(model, job, prompt, one, read)
            choices.append({"index": len(choices)} | choice)
    read = sum(map(len, job.prompts))
    drawn = sum(len(one.ids) for row in written for one in row)
    kind = "chat.completion" if job.chat else "text_completion"
    return {
        "id": f"{'chatcmpl' if job.chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": job.name,
        "choices": choices,
        "usage": {
            "prompt_tokens": read,
            "completion_tokens": drawn,
            "total_tokens": read + drawn,
        },
    }


def _choice(model: Model, job: Job, prompt, one: Written, read: Scores | None) -> dict:
    found: dict[str, Any] = {"finish_reason": "stop" if one.ended else "length"}
    if job.chat:
        found["message"] = {"role": "assistant", "content": one.text}
    else:
        before = model.tokenizer.decode(prompt) if job.echo else ""
        found["text"] = before + one.text
    found["logprobs"] = None
    if job.likely is not None:
        tokens = [*prompt, *one.ids]
        begin = 0 if job.echo else len(prompt)
        places = [
            _place(model, job, tokens, read, t) for t in range(begin, len(tokens))
        ]
        found["logprobs"] = _in_chat(places) if job.chat else _in_texts(places)
    if job.prompt_likely is not None:
        found["prompt_logprobs"] = [
            _by_id(model, prompt, read, t, job.prompt_likely)
            for t in range(len(prompt))
        ]
    return found


class _Place(NamedTuple):
    """A token as text, its log-probability, and likely ones there; of the first of all
    nothing is known."""

    token: str
    logp: float | None
    likely: list[tuple[str, float]]


def _place(model: Model, job: Job, tokens, read: Scores, t: int) -> _Place:
    said = lambda i: f"token_id:{i}" if job.as_ids else model.tokenizer.decode([i])
    if t == 0:
        return _Place(said(tokens[0]), None, [])
    ids, logps = read.ids[t - 1, : job.likely], read.likely[t - 1, : job.likely]
    likely = [(said(i), p) for i, p in zip(ids.tolist(), logps.tolist())]
    return _Place(said(tokens[t]), float(read.logp[t - 1]), likely)


def _in_texts(places: Sequence[_Place]) -> dict[str, Any]:
    offsets = [0]
    for place in places:
        offsets.append(offsets[-1] + len(place.token))
    likely = [None if place.logp is None else dict(place.likely) for place in places]
    return {
        "tokens": [place.token for place in places],
        "token_logprobs": [place.logp for place in places],
        "top_logprobs": likely,
        "text_offset": offsets[:-1],
    }


def _in_chat(places: Sequence[_Place]) -> dict[str, Any]:
    one = lambda token, logp: {
        "token": token,
        "logprob": logp,
        "bytes": list(token.encode()),
    }
    return {
        "content": [
            one(place.token, place.logp)
            | {"top_logprobs": [one(*pair) for pair in place.likely]}
            for place in places
        ]
    }


def _by_id(model: Model, prompt, read: Scores, t: int, k: int) -> dict | None:
    """Likely tokens at a place, and the one that stands there, by id."""
    if t == 0:
        return None
    ids, logps = read.ids[t - 1, :k].tolist(), read.likely[t - 1, :k].tolist()
    found = {
        str(i): {
            "logprob": logp,
            "rank": rank,
            "decoded_token": model.tokenizer.decode([i]),
        }
        for rank, (i, logp) in enumerate(zip(ids, logps), start=1)
    }
    own = {"logprob": float(read.logp[t - 1])}
    own |= {"decoded_token": model.tokenizer.decode([prompt[t]])}
    return {str(prompt[t]): own} | found  # its own first, as vLLM has it
