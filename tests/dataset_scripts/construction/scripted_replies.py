"""What the scripted server does to a request, the scripts that choose it, and captions as a good model writes them."""

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from template_fillings import COLORS, filled


_COLOURS = ("dark blue", "red", "light grey", "black", "white", "green", "brown", "yellow", "beige", "purple")
_TOPS = ("jacket", "shirt", "sweater", "hoodie", "coat", "T-shirt")
_BOTTOMS = ("jeans", "trousers", "shorts", "cargo pants")
_SHOES = ("sneakers", "boots", "sandals", "leather shoes")
_THINGS = ("a backpack", "a handbag", "an umbrella", "a shopping bag", "a phone", "a cap")
_CAPTIONS = (
    "A {gender} wears a {colour1} {top}, {colour2} {bottom} and {colour3} {shoes}, and carries {thing}.",
    "The {gender} is dressed in a {colour1} {top} and {colour2} {bottom}, with {colour3} {shoes}.",
    "Carrying {thing}, the {gender} has on a {colour1} {top} over {colour2} {bottom}.",
    "A {gender} with short hair walks in {colour3} {shoes}, {colour2} {bottom} and a {colour1} {top}.",
)


@dataclass(frozen=True)
class Question:
    """One request, taken apart."""

    text: str
    system: str
    image: bytes | None
    seed: int | None
    body: dict

    @property
    def image_hash(self) -> str | None:
        return None if self.image is None else hashlib.sha256(self.image).hexdigest()

    @property
    def text_hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


@dataclass(frozen=True)
class Behaviour:
    """What the server does to one request; `body` is sent as it is, instead of a completion with `text`."""

    name: str
    text: str | None = None
    finish_reason: str = "stop"
    status: int = 200
    body: bytes | None = None
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    wait_seconds: float = 0
    trickles: bool = False
    drops: bool = False


Script = Callable[[Question, int], Behaviour]
"""From a question, and how often the very same request came before, to what is done to it."""


def right(text: str) -> Behaviour:
    return Behaviour("right", text)


def refused() -> Behaviour:
    return Behaviour("refused", "I'm sorry, but I can't help with identifying or describing people in images.")


def hedging() -> Behaviour:
    return Behaviour(
        "hedging", "The person seems to be wearing what appears to be a jacket, possibly of a dark colour."
    )


def empty() -> Behaviour:
    return Behaviour("empty", " \n")


def slow(seconds: float, text: str = "A man wears a black coat, blue jeans and white sneakers.") -> Behaviour:
    return Behaviour("slow", text, wait_seconds=seconds)


def cut_off(text: str = "The woman wears a red coat, black trousers and") -> Behaviour:
    return Behaviour("cut_off", text, finish_reason="length")


def content_filter() -> Behaviour:
    return Behaviour("content_filter", "", finish_reason="content_filter")


def trickle() -> Behaviour:
    """The head of a reply, then a blank now and then, for ever."""
    return Behaviour("trickle", trickles=True)


def failed(status: int, message: str = "no", *, name: str | None = None, code: str | None = None, **headers: str):
    body = json.dumps({"error": {"message": message, "code": code}}).encode()
    headers = {key.replace("_", "-"): value for key, value in headers.items()}
    return Behaviour(name or f"status_{status}", status=status, body=body, headers=headers)


def rate_limited(retry_after: str = "0.01") -> Behaviour:
    return failed(429, "too many requests", name="rate_limited", retry_after=retry_after)


def server_error(retry_after: str = "0.01") -> Behaviour:
    return failed(500, "out of memory", name="server_error", retry_after=retry_after)


def invalid_json() -> Behaviour:
    return Behaviour("invalid_json", body=b'{"choices": [{"mess')


def other_schema() -> Behaviour:
    return Behaviour("other_schema", body=b'{"result": "A man wears a black coat."}')


def html() -> Behaviour:
    return Behaviour("html", body=b"<html><body>Please log in.</body></html>", content_type="text/html")


def dropped() -> Behaviour:
    return Behaviour("dropped", drops=True)


def always(behaviour: Behaviour) -> Script:
    return lambda question, number: behaviour


def first(times: int, behaviour: Behaviour, then: Script | None = None) -> Script:
    """`behaviour` for the first `times` arrivals of each request, then `then`: by default a caption."""
    then = then or caption
    return lambda question, number: behaviour if number < times else then(question, number)


def caption(question: Question, number: int) -> Behaviour:
    return right(caption_for(question))


_WRONG: dict[str, Behaviour] = {
    behaviour.name: behaviour
    for behaviour in (
        refused(),
        hedging(),
        empty(),
        cut_off(),
        content_filter(),
        invalid_json(),
        other_schema(),
        html(),
    )
}
# What another attempt heals: the client asks again.
_PASSING: dict[str, Behaviour] = {
    behaviour.name: behaviour for behaviour in (rate_limited(), server_error(), dropped(), slow(0.05))
}


def by_hash(shares: Mapping[str, float], *, of: str = "image", passing_times: int = 1) -> Script:
    """Captions, except for the given shares of questions: a pure function of the question, whatever the order.

    Args:
        shares: share of the questions for each name of a behaviour; the rest gets captions. `rate_limited`,
            `server_error`, `dropped` and `slow` happen to the first `passing_times` arrivals of a request, the others
            to each.
        of: `"image"`: all questions on an image meet one fate; `"question"`: another template may fare better.
    """
    unknown = set(shares) - set(_WRONG) - set(_PASSING)
    if unknown or sum(shares.values()) > 1 or of not in ("image", "question"):
        raise ValueError(f"unknown or too many shares: {dict(shares)} of {of}")

    def script(question: Question, number: int) -> Behaviour:
        content = (question.image or b"") + (question.text.encode() if of == "question" or not question.image else b"")
        drawn = int.from_bytes(hashlib.sha256(b"fate" + content).digest()[:8]) / 2**64
        for name, share in shares.items():
            if drawn < share:
                if name in _WRONG:
                    return _WRONG[name]
                return _PASSING[name] if number < passing_times else caption(question, number)
            drawn -= share
        return caption(question, number)

    return script


def caption_for(question: Question) -> str:
    """What a good model would say: a caption drawn by the image's hash, in the words of the template if there is one.

    A template is the last line of the question with a placeholder, such as `[colored top]`.
    """
    templates = [line for line in question.text.splitlines() if re.search(r"\[[^\]]+\]", line)]
    if not templates:
        return _drawn(_CAPTIONS, question, "caption").format_map(_words(question))
    template = templates[-1].strip()
    first = _drawn(tuple(range(len(COLORS))), question, "first colour")
    return filled(template, COLORS[first:] + COLORS[:first], _drawn(("man", "woman"), question, "gender"))


def _words(question: Question) -> dict[str, str]:
    choices = {"top": _TOPS, "bottom": _BOTTOMS, "shoes": _SHOES, "thing": _THINGS, "gender": ("man", "woman")}
    colours = {f"colour{index}": _drawn(_COLOURS, question, f"colour{index}") for index in (1, 2, 3)}
    return {name: _drawn(words, question, name) for name, words in choices.items()} | colours


def _drawn(words: Sequence[Any], question: Question, purpose: str) -> Any:
    content = question.image or question.text.encode()
    return words[int.from_bytes(hashlib.sha256(purpose.encode() + content).digest()[:8]) % len(words)]
