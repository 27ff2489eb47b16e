"""Every configuration key with its default and its meaning.

Comments above a key and behind it are what ``jopd train --help`` says of it.
"""

from ml_collections import ConfigDict, FieldReference

from jopd.setup.regimes import REGIMES


def either(name: str) -> FieldReference:
    """A key that takes a name, or in Python the function itself."""
    return FieldReference(name, field_type=object)


def base_config(regime: str = "digits") -> ConfigDict:
    """All keys with their defaults. A method overrides a few and adds terms.

    ``regime`` is the pair and the task that it is shown on, a name in `REGIMES`.
    """
    if regime not in REGIMES:
        raise ValueError(
            f"regime={regime!r} is unknown; use one of {', '.join(REGIMES)}, or none "
            "and paths of your own"
        )
    c = ConfigDict()
    c.name = ""  # run name; empty: the config file's name
    c.seed = 0
    c.steps = 400  # updates
    c.epochs = 0.0  # passes over the training prompts in the place of steps; 0: off
    c.resume = True  # continue from the newest checkpoint in the workdir

    c.student = {
        "path": "demo:student",  # HF directory, hub id, or a bundled one, demo:NAME
        # of the computation, float32 | bfloat16 | auto: what the model's config.json
        # names; trained weights are float32
        "dtype": "float32",
        "quantize": "",  # int8, under an adapter: the base's matrices, as a teacher's
        "remat": True,  # recompute layers in the backward pass; saves memory
        # Sampler and trainer give a token the same bits, whatever batch, block, refill
        # or packing it is in; slower (docs/performance.md). On one device.
        "exact": False,
        # An adapter (LoRA) is trained in the place of the weights, which then have
        # ``dtype``, too. It wants about ten times the rate of full training; that, the
        # alpha and all matrices: Schulman et al., "LoRA Without Regret", 2025.
        "lora": {
            "rank": 0,  # 0: none, all weights are trained
            "alpha": 32.0,  # x A B is scaled by alpha / rank
            "rank_stabilized": False,  # by alpha / sqrt(rank)
            "targets": ".",  # pattern; of q k v o gate up down
        },
        # PEFT directory or hub id of an adapter to be trained further, on the model at
        # ``path``; rank, alpha, scaling and targets are its own. The initial student is
        # both of them together.
        "adapter": "",
    }
    c.teacher = {
        # path | the student, in one way: initial live ema snapshot gated | served, by a
        # server | stored, scores of gold rows
        "weights": "path",
        "path": "demo:teacher",
        # Served: a server that gives log-probabilities of given tokens, asked by the
        # way of ``remote`` (docs/teachers.md)
        "url": "",
        "model": "",  # as that calls it
        "top_k": 0,  # likeliest tokens at a place that are served or stored, too
        "support": "teacher",  # whose: teacher | student (served only)
        "dtype": "float32",  # of weights and computation; auto as for the student
        "quantize": "",  # int8: its layers' matrices in a quarter of the memory
        "rate": 0.05,  # ema: the student's share at every update
        "every_steps": 30,  # updates between two copies: snapshot; at least: gated
        # Gated: the student is copied when its reward has risen and no rollout is far
        # longer than the mean (CGTR, whose numbers these are).
        "check_steps": 5,  # updates between two looks at that
        "reward_window": 5,  # latest updates whose reward and lengths count
        "reward_margin": 0.05,  # the mean reward must exceed that of the last copy by
        "tail_ratio": 3.2,  # most that the longest rollout may be of the mean length
        # Template of its prompt: {question} {answer} {solution}, columns of
        # ``data.fields``, and other rollouts of the prompt in the batch: {peer},
        # {peer2}, ... that succeeded, {failure}, {failure2}, ... that did not; a line
        # of rollouts that are not there is left out.
        "context": "",
        # own: another one than the student's; such a teacher gives log-probabilities of
        # tokens, no whole distributions (docs/teachers.md)
        "tokenizer": "student",
        # own: of a teacher with the student's tokenizer and another chat template
        "template": "student",
        "route": {},  # dict(field=, equals=): serves those rows only
    }
    # Further teachers by name, each with the keys of ``teacher``; terms name them by
    # ``other`` or ``of``. ``reference``, the initial student, is always there.
    c.teachers = ConfigDict()
    # Several of them as one, by name: dict(members=, weights=, kind="mixture" or
    # "product"); terms name it like a model. Without weights all count alike. Or one
    # steered by others, dict(kind="guided", members=, plus=, minus=, strength=), the
    # last a number or a schedule as a term's coef.
    c.panels = ConfigDict()
    c.reference = {"path": ""}  # empty: the initial student

    c.data = {
        # .jsonl .json .parquet .csv .tsv .txt (.gz), a folder or a glob of such, hub
        # id, task:; or several, with commas between them
        "path": "task:arithmetic",
        "weights": (),  # of several: their shares of the training rows; empty: all rows
        "split": "train",  # of a hub data set or task
        # of a file its first rows, of several rows drawn by the seed, 0: all; of a
        # task, 0: 20,000
        "size": 0,
        # empty: another split, or rows that the seed holds out
        "eval_path": "",
        "eval_split": "",  # of a hub data set or task; empty: a task's validation
        # for evaluation; 0: 256, of one's own file one in ten at most, of eval_path all
        "eval_rows": 0,
        # empty: messages, prompt, question, problem, conversations, conversation,
        # instruction (with input and output, or context and response), or text, a
        # document
        "prompt_column": "",
        # of the question, e.g. "{question} Put the answer in \\boxed{}."; other fields
        # in braces are columns, {{name}} is written {name}
        "template": "",
        "answer_column": "",  # empty: "answer" if there is one; lists hold right ones
        "solution_column": "",  # gold responses; empty: "solution" if there is one
        "fields": (),  # further columns that rows keep, for routes and contexts
        "answer_after": "",  # e.g. "####" (GSM8K): what follows it is the answer
        "separator": "<|endoftext|>",  # between documents of a .txt
        "prefix_tokens": 16,  # prompt length taken from a document
        "max_prompt_tokens": 0,  # 0: the longest of the data that models hold
        "on_long_prompt": "error",  # error | drop | truncate_left
        # drop (the row stays as a prompt) | truncate (then without end of sequence);
        # auto: truncate plain text, drop others
        "on_long_solution": "auto",
        # auto | always | never (turns joined) | plain (each turn under the name of its
        # role, for tokenizers without a template)
        "chat_template": "auto",
        "date": "",  # that templates print, YYYY-MM-DD; empty: the day a run began
        "roles": (),  # of turns beside the usual ones, which the template shows
        "ignored_keys": (),  # of turns, which the template may leave out
        "student_template_kwargs": {},  # e.g. enable_thinking=False
        # empty: the student's; else teachers read their own rendering of each prompt
        "teacher_template_kwargs": {},
        # of a teacher's context; 0: max_prompt_tokens and a response, or without that
        # the longest of the data
        "max_context_tokens": 0,
        "system": "",  # system prompt for chat templates
        "add_bos": "auto",  # auto | always | never
        "levels": (),  # difficulty levels of a bundled task; empty: all of them
    }
    c.rollout = {
        "prompts_per_step": 32,
        "group_size": 4,  # student rollouts per prompt
        "max_new_tokens": 64,  # of the student's own, behind a prefix too
        "temperature": 1.0,
        "top_k": 0,  # 0: off
        "top_p": 1.0,  # 1: off
        "min_p": 0.0,  # 0: off
        "stop_ids": (),  # added to the ends of models, tokenizers and template
        "stop_strings": (),  # text that ends a response, as a stop token does; it
        # stays in the tokens, up to the one that completes it, and not in the text
        "ignore_eos": False,  # always write max_new_tokens (base language models)
        "parallel": "auto",  # auto | pmap (replicated) | jit (sharded parameters)
        # Under pmap: draws between two looks from the host, where rows that have
        # ended leave and the cache grows. 0: one loop to the end
        "block_tokens": 64,
        # Most rows that a device draws at a time, whole groups; others wait and
        # take the places of rows that have ended. 0: all
        "at_once": 0,
        # Rollouts that end early, at such a look, as truncated ones: a rule over
        # the latest tokens, see jopd.stops; further keys are its arguments.
        "early_stop": {
            "function": either(""),  # divergence | repetition; empty: off
            "limit": 0.0,  # nats per token | share of n-grams
            "window": 64,  # latest tokens that it reads; 0: all, for a rule that can
            "teacher": "",  # who reads along; empty: nobody
        },
        "prompt_buckets": (),  # padded prompt lengths; empty: chosen from the data
        # Fewer new tokens than max_new_tokens, by update: a schedule as a term's coef,
        # dict(schedule="linear", value=8, end=64), or dict(memory=NAME) of a memory
        # that says so, as adwin.window. Empty: off
        "horizon": {},
        # Rollouts may be drawn from the student and a teacher together, by a rule of
        # rollouts.behavior, while its budget is above 0; further keys are its
        # arguments. What is recorded is the log-probability of what was drawn from.
        "behavior": {
            "function": either(""),  # blend | replace; empty: the student alone
            "teacher": "teacher",  # who draws with it
            "budget": 0.02,  # nats a token from the student, at the first update
            "schedule": "linear",  # constant | linear | cosine
            "end": 0.0,  # the budget at the last
            "steps": 0,  # updates from budget to end; 0: the whole run
        },
        # Rollouts may start from the first part of a response that someone else
        # wrote; its tokens have the source "teacher".
        "prefix": {
            "source": "",  # "": none | gold (solutions) | name of a teacher
            "schedule": "cosine",  # constant | linear | cosine
            "share": 1.0,  # of that response, at the first update
            "end": 0.0,  # at the last
            "steps": 0,  # updates from share to end; 0: the whole run
        },
    }
    # Shares of an update's rows by source. student and gold are counted relative to the
    # prompts_per_step * group_size fresh rows; 0.8 / 0.2 at group_size 4 is one gold
    # solution per prompt.
    c.mix = {
        "student": 1.0,
        "gold": 0.0,
        "replay": 0.0,  # rows drawn from the buffer of earlier rollouts
        "on_policy_probability": 1.0,  # else the whole update is gold rows (GKD)
        "capacity": 0,  # rows the replay buffer holds; 0: 8 x the replay rows
        "max_age_steps": 8,  # older rows are not drawn
        "updates_per_rollout": 1,  # reuse each batch of rollouts this often
    }
    # A teacher that only writes text continues the student's responses at a few
    # places; terms read how alike it wrote (jopd.methods.omniopd).
    c.audit = {
        "chunks": 0,  # most audited chunks per response; 0: no audit
        "chunk_tokens": 50,  # tokens per chunk and most tokens of a continuation
        "samples": 10,  # continuations of each chunk's prefix
        "temperature": 1.0,  # of the continuations
        "anchors": "entropy",  # of chunks, peaks of: entropy | random | lowest
        "lead": 0,  # tokens of a chunk before its anchor
        "similarity": either("ned"),  # ned | rouge1 | embedding, or your own
        "encoder": "",  # BERT directory for similarity="embedding"
        "teacher": "local",  # local: the model of teacher.path | http: remote
        "batch_rows": 512,  # rows that a local teacher writes at one time
        # Stop where the first texts of a server are mostly empty, refused or repeated,
        # or no more like the student's than those of other chunks.
        "judge_first": True,
    }
    # A teacher's own responses to the prompts of an update, scored by the verifier;
    # terms read how many pass (jopd.methods.tgopd).
    c.probes = {
        "samples": 0,  # for each prompt; 0: none
        "teacher": "teacher",  # who writes them
        "temperature": 1.0,  # of what it writes
    }
    # Any OpenAI-compatible server. Changing the way to it does not change the run.
    c.remote = {
        "url": "",  # with the version, e.g. http://localhost:8000/v1
        "model": "",  # as the server calls it
        "api": "completions",  # completions | chat | chat_prefill, see teachers.remote
        "key_env": "",  # environment variable with the API key; empty: none is sent
        "concurrency": 8,  # requests under way at one time
        "timeout_seconds": 60.0,  # until a reply is there as a whole
        "retries": 5,  # after 429, 5xx, time-outs and broken connections
        "per_request": 0,  # samples asked at once; 0: all; 1: servers without n
        "cache_dir": "",  # replies kept on disk; empty: in the user's cache folder
        # Fields that every request has, too, e.g. reasoning_effort="low"; None takes
        # a field out.
        "body": {},
        # Tokens, read and written, that may be paid from one start of the run to its
        # end; then it stops, and can be continued. 0: no limit
        "token_budget": 0,
    }
    # Of the rollouts that a context shows as {peer} and {failure}.
    c.peer = {
        "success": 1.0,  # reward from which a rollout is a {peer}, below a {failure}
        "remove": "",  # regular expression of what is left out of its text
        # Whether a rollout that failed is among the failures that it is shown with.
        "own_failure": False,
    }
    # name -> dict(signal, weights, source, coef, ...); a name may become a function.
    c.loss = ConfigDict(type_safe=False)
    # What weights remember of earlier updates, by name: dict(function=, ...); a weight
    # reads one by its argument ``memory``. Saved with every checkpoint.
    c.memory = ConfigDict(type_safe=False)
    # Further numbers per token, by name: dict(function=, ...) of losses.facts; a weight
    # reads one by its argument ``fact``.
    c.facts = ConfigDict(type_safe=False)
    c.objective = {
        # tokens | sequences | rows | weights | batch, see Term; or per term
        "normalizer": "tokens",
        # Of the distributions in the loss, all models alike. That of the rollouts
        # unless set: at another one importance ratios are not 1 on fresh rollouts.
        "temperature": c.rollout.get_ref("temperature") * 1.0,
        "packing": True,  # rows side by side, padding unread
        # Whose [*, V] logits exist at one time on each device; 0: by chunk_mib
        "chunk_tokens": 0,
        # What one model's logits of a chunk take; 0: 4 on a CPU (but 256 tokens at
        # least), 256 elsewhere
        "chunk_mib": 0,
        # Tokens of a chunk at a time in all that is no product with a head; 0: 2 MiB
        # per core on a CPU (but 4 at least), all elsewhere
        "strip_tokens": 0,
    }
    # The numbers suit the bundled pair; billions of parameters want 1e-6 to 1e-5.
    c.optimizer = {
        "name": "adamw",  # adamw | adam | muon | sgd | lion | adafactor
        "learning_rate": 2e-3,
        "schedule": "cosine",  # constant | linear | cosine
        # Updates that the rate rises: below 1 a share of the run, else their number
        "warmup": 0.125,
        "end_learning_rate": 0.0,
        "b1": 0.9,
        "b2": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "clip_norm": 1.0,  # of the global gradient; 0: off
        "accumulate": 1,  # micro-batches per update; does not change the update
        # Gradients of the layers' matrices are kept where these had moved until then.
        "project": {
            "rank": 0,  # directions of each matrix; 0: off
            "after": 0.2,  # of the run
        },
    }
    c.mesh = {"data": -1, "fsdp": 1, "tensor": 1}  # -1: all that is left
    c.eval = {
        "every_steps": 0,  # 0: before and after only
        "prompts": 256,  # held-out ones; 0: no evaluations
        "k": 4,  # samples per prompt for avg@k and pass@k
        "temperature": 1.0,  # of the k samples; accuracy is greedy
        "top_p": 1.0,
        "max_new_tokens": 0,  # 0: those of the rollouts
        "batch_rows": 256,  # rows generated at one time; 0: as many as an update has
        # exact | numeric | math | arithmetic | words | format | none | auto, or one of
        # your own
        "verifier": either("auto"),
        "verifier_processes": 0,  # that judge; 0: this one
        # Whether a response without an end, cut at its limit or by early_stop, earns
        # what the verifier says of it; else 0. In training and evaluation alike.
        "reward_truncated": False,
        "save_samples": 8,  # rollouts written to samples.jsonl before and after
    }
    # What training rewards, where it is not just eval.verifier: name -> weight, or
    # dict(weight, function, ...); "correct" is eval.verifier.
    c.rewards = ConfigDict(type_safe=False)
    c.repetition = {
        "tail_chars": 0,  # L of the compression test; 0: scaled to the length limit
        "threshold": 0.0,  # tau; 0: scaled with L
        "ngram": 8,  # a token is "repeated" if its last n-gram occurred before
    }
    c.checkpoint = {
        "every_steps": 100,  # 0: at the end only, and by the clock
        "every_minutes": 15.0,  # since the last one; 0: by steps only
        "keep_last": 2,  # newest ones
        "keep_best": 1,  # by avg@k, or by KL to the teacher without a verifier
    }
    # A new run may start from the student of another one. The reference, and other
    # teachers made of the initial student, stay those of student.path.
    c.init_from = {
        "run": "",  # its folder; empty: student.path
        "checkpoint": "last",  # last | best | a step
        "optimizer": True,  # and its optimizer's moments; rates begin anew
    }
    c.log = {
        "every_steps": 1,  # lines of metrics.jsonl
        "check_sampler_every_steps": 50,  # recorded vs recomputed log-probs; 0: off
        # Mean, in nats, above which the gap is said, and from ten times on the run
        # stopped; 0: by type, depth and vocabulary; in bfloat16 it stops nothing.
        "sampler_tolerance": 0.0,
        # Norm and share of every term's gradient: one more pass per term. 0: off
        "gradient_every_steps": 0,
        "samples_every_steps": 50,  # rollouts kept in samples.jsonl; 0: off
        "token_facts": True,  # entropies and exact KLs of every update
        "leak_pattern": "",  # regular expression; share of rollouts with a match
        "tensorboard": False,
        "wandb_project": "",  # empty: off
    }
    c.export = {
        "enabled": True,  # Hugging Face directory at the end
        "which": "last",  # checkpoint that is exported: last | best
        "adapter": False,  # as a PEFT directory, not merged; of a run with LoRA
    }
    c.compilation_cache = True  # persistent, in the user's cache folder
    c.jax_debug_nans = False  # stop at the operation that makes the first NaN; slow
    # A misspelt key is an error where it is written; terms and template arguments are
    # the only places for new names.
    c.lock()
    for free in (
        c.loss,
        c.memory,
        c.facts,
        c.teachers,
        c.teacher.route,
        c.panels,
        c.rollout.early_stop,
        c.rollout.behavior,
        c.rollout.horizon,
        c.remote.body,
        c.rewards,
        c.data.student_template_kwargs,
        c.data.teacher_template_kwargs,
    ):
        free.unlock()
    c.update_from_flattened_dict(REGIMES[regime].keys)
    return c
