"""What a person types into a search box, checked before it reaches the model."""

import re
import warnings

from ..processing_gadms import GADMSProcessor


_NEGATION = re.compile(r"\b(not|without|no|nor|neither|never|\w+n't)\b", re.IGNORECASE)


def check_query(processor: GADMSProcessor, text: str) -> str:
    """The query without surrounding space; warns of what [`query_remarks`] says.

    Raises:
        ValueError: if nothing but space is given.
    """
    query = text.strip()
    if not query:
        raise ValueError(f"The description {text!r} is empty: describe a person, as in 'a person in a red jacket'")
    for remark in query_remarks(processor, query):
        warnings.warn(remark, stacklevel=2)
    return query


def query_remarks(processor: GADMSProcessor, query: str) -> list[str]:
    """What its author should know of a query: how many tokens the model will not see, and which word it does not
    understand.

    The processor truncates and keeps the end-of-text token, on which the caption's embedding is read.
    """
    remarks = []
    tokenizer = processor.tokenizer
    length = len(processor.tokenize(query, truncation=False, verbose=False)["input_ids"])
    dropped = length - tokenizer.model_max_length
    if dropped > 0:
        remarks.append(
            f"The description has {length} tokens and the model reads {tokenizer.model_max_length}: "
            f"its last {dropped} are ignored"
        )
    if negation := _NEGATION.search(query):
        remarks.append(
            f"The model does not understand {negation[0]!r} and looks for what follows it: describe what is there, "
            'and what should not be there apart (--without "a hat", in Python Query(text=..., without=["a hat"]))'
        )
    return remarks
