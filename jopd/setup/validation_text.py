"""Rejects audits, probes and servers that cannot work, with the reason; see
``validation``."""

from ml_collections import ConfigDict

from jopd.methods import omniopd
from jopd.setup.builders import one_of
from jopd.setup.needs import facts_read, frozen_named, teachers_of
from jopd.teachers import audit, probes, remote, roles, similarity


def check_audit(config: ConfigDict, terms) -> None:
    c = config.audit
    for term in terms:
        if not c.chunks and set(audit.FACTS) & facts_read(term):
            raise ValueError(
                f"loss.{term.name} reads what a text teacher wrote, but audit.chunks=0 "
                "asks for nothing; set it above 0"
            )
        for function in (*term.weights, term.advantage):
            plain = getattr(function, "func", function)
            samples = getattr(function, "keywords", {}).get("samples", c.samples)
            if plain is omniopd.chunk_rate and samples != c.samples:
                raise ValueError(
                    f"loss.{term.name} divides by samples={samples}, but "
                    f"audit.samples={c.samples} continuations are asked for; make them "
                    "equal (configs/omniopd.py refers to the latter)"
                )
    if c.teacher == "http":
        _check_remote(config, terms)
    if not c.chunks:
        return
    if c.chunk_tokens > config.rollout.max_new_tokens:
        raise ValueError(
            f"audit.chunk_tokens={c.chunk_tokens} is longer than any response "
            f"(rollout.max_new_tokens={config.rollout.max_new_tokens}): no chunk would "
            "ever be audited; lower it"
        )
    if c.lead >= c.chunk_tokens:
        raise ValueError(
            f"audit.lead={c.lead} leaves the anchor outside of a chunk of "
            f"audit.chunk_tokens={c.chunk_tokens}; keep it below"
        )
    if c.similarity != "embedding":
        similarity.resolve(c.similarity)(*similarity.PROBES)
    elif not c.encoder:
        similarity.resolve(c.similarity)  # says what is missing
    if c.teacher == "local" and not config.teacher.path:
        raise ValueError(
            "audit.teacher='local' continues with the model of teacher.path, which is "
            "empty; name a model, or set audit.teacher='http'"
        )


def _check_remote(config: ConfigDict, terms) -> None:
    c = config.remote
    for key in ("url", "model"):
        if not c[key]:
            raise ValueError(
                f"audit.teacher='http' needs remote.{key}, which is empty; "
                "e.g. --config.remote.url=http://localhost:8000/v1 "
                "--config.remote.model=NAME"
            )
    remote.check_body(c.body.to_dict(), c.per_request)
    for term in terms:
        if "teacher" in frozen_named(config, (term,)):
            raise ValueError(
                f"loss.{term.name} compares with the teacher's log-probabilities, but "
                f"audit.teacher='http' is a text-only teacher, which has none; drop "
                "the term or use audit.teacher='local'"
            )
    if not config.audit.chunks:
        raise ValueError(
            "audit.teacher='http' continues the student's responses, but "
            "audit.chunks=0 asks it for nothing; set audit.chunks above 0, as "
            "configs/omniopd.py does, or audit.teacher='local'"
        )


def check_probes(config: ConfigDict, terms) -> None:
    """Who is asked is there all along, and is asked where a term wants to know."""
    c = config.probes
    for term in terms:
        if not c.samples and set(probes.FACTS) & facts_read(term):
            raise ValueError(
                f"loss.{term.name} asks whether a teacher answers the prompt itself, "
                "but probes.samples=0 asks it nothing; set it above 0"
            )
    if not c.samples:
        return
    known = teachers_of(config)
    still = [name for name in known if known[name].weights in ("path", "initial")]
    able = [name for name in still if not roles.reads_rollouts(known[name])]
    one_of("probes.teacher", c.teacher, able)
    roles.check(c.teacher, known[c.teacher], config.data.fields)
