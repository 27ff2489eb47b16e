"""What a server's text is: a continuation, with or without what chats put around it."""

import re

# A continuation that begins with at least this much of the end of its prefix repeats it
# rather than happening to agree with it.
RESTATED_CHARACTERS = 16
_YES = r"(?:sure|certainly|of course|okay|ok|absolutely|got it)"
_ABOUT = r"\b(?:continu\w*|rest|remainder|remaining|completion|solution|text)\b"
# A line break ends only what cannot be a solution's own words.
_OPENER = re.compile(
    rf"\s*(?:{_YES}\s*[!,.:]*\s*)?(?:"
    rf"here(?:['’]s| is| are)\b[^\n:]{{0,60}}?{_ABOUT}[^\n:]{{0,60}}(?::\s*|\n\s*|\Z)"
    r"|(?:continuing|the continuation)\b[^\n:]{0,60}:\s*"
    r")"
    rf"|\s*{_YES}\s*[!.:]+\s*(?:\n\s*|\Z)",
    re.IGNORECASE,
)
_FENCE = re.compile(r"\s*```[\w-]*\n(.*?)\n?```\s*", re.DOTALL)
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "`": "`"}
_SORRY = r"(?:(?:i['’]?m |i am )?(?:very |so )?sorry|i apologi[sz]e|my apologies)\b"
_CANNOT = (
    r"i(?: can ?not| can['’]t| won['’]t|(?:['’]m| am) (?:unable|not able)(?: to)?)\b"
)
_ASKED = (
    r"\b(?:help|assist\w*|fulfil\w*|comply|request\w*|do (?:that|this|so)"
    r"|(?:continue|complete|provide|answer|write|generate|create) (?:with )?"
    r"(?:that|this|the|your|a|any) (?:\w+ )?"
    r"(?:text|solution|question|problem|task|response|answer|content|continuation))\b"
)
# Solutions, too, are sorry and cannot: only what speaks of being asked, or ends there.
_REFUSAL = re.compile(
    rf"\s*(?:as an ai\b|{_SORRY}\W*(?:but\b[^\n.]{{0,20}}\W*)?\Z"
    rf"|{_SORRY}[^\n]{{0,80}}?\b(?:as an ai|request\w*)\b"
    rf"|(?:{_SORRY}\W*(?:(?:but|however|that)\W+)?)?{_CANNOT}"
    rf"(?:\W*\Z|[^.\n]{{0,60}}?{_ASKED}))",
    re.IGNORECASE,
)


def cleaned(prefix: str, text: str) -> str | None:
    """The continuation in a chat's answer, without opener, fence, quotes and prefix.

    None if the limit was reached while the prefix was still being repeated.
    """
    if opener := _OPENER.match(text):
        text = text[opener.end() :]
    if fence := _FENCE.fullmatch(text):
        text = fence[1]
    close = _QUOTES.get(text[:1])
    if close and len(text) > 1 and text.find(close, 1) == len(text) - 1:
        text = text[1:-1]
    return without_restated(prefix, text)


def is_refusal(text: str) -> bool:
    return _REFUSAL.match(text) is not None


def without_restated(prefix: str, text: str) -> str | None:
    """``text`` without a beginning that repeats ``prefix`` or its end.

    None if the limit was reached while the prefix was still being repeated. Agreements
    of fewer than ``RESTATED_CHARACTERS`` are left alone: they may be meant.
    """
    if len(prefix) < RESTATED_CHARACTERS:
        return text
    if len(text) >= RESTATED_CHARACTERS and prefix.startswith(text):
        return None
    for start in range(len(prefix) - RESTATED_CHARACTERS + 1):
        if text.startswith(prefix[start:]):
            return text[len(prefix) - start :]
    return text
