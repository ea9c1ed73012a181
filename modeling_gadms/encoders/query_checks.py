"""Checks of text queries: empty, longer than the model reads, or negated."""

import re
import warnings

from .processors import RetrievalProcessor


_NEGATION = re.compile(r"\b(not|without|no|nor|neither|never|\w+n't)\b", re.IGNORECASE)


def check_query(processor: RetrievalProcessor, text: str) -> str:
    """Return the query without surrounding whitespace, and issue its [`query_warnings`].

    Raises:
        ValueError: if the query is empty.
    """
    query = text.strip()
    if not query:
        raise ValueError(f"The description {text!r} is empty: describe a person, as in 'a person in a red jacket'")
    for message in query_warnings(processor, query):
        warnings.warn(message, stacklevel=2)
    return query


def query_warnings(processor: RetrievalProcessor, query: str) -> list[str]:
    """Warnings about a query: tokens beyond the model's limit, and negations, which it does not understand.

    The processor truncates long queries and keeps the end-of-text token, at which a caption is embedded.
    """
    messages = []
    limit = processor.tokenizer.model_max_length
    length = len(processor.tokenize(query, truncation=False, verbose=False)["input_ids"])
    if length > limit:
        messages.append(
            f"The description has {length} tokens and the model reads {limit}: its last {length - limit} are ignored"
        )
    if negation := _NEGATION.search(query):
        messages.append(
            f"The model does not understand {negation[0]!r} and searches for what follows it: describe what is "
            'visible, and pass exclusions separately (--without "a hat", in Python Query(text=..., without=["a hat"]))'
        )
    return messages
