"""What a person types into a search box, checked before it reaches the model."""

import warnings

from .processing_gadms import GADMSProcessor


def check_query(processor: GADMSProcessor, text: str) -> str:
    """The query without surrounding space; warns when it is longer than the model reads.

    The processor truncates and keeps the end-of-text token, on which the caption's embedding is read.

    Warns:
        UserWarning: says how many tokens the model will not see.
    Raises:
        ValueError: if nothing but space is given.
    """
    query = text.strip()
    if not query:
        raise ValueError(f"The description {text!r} is empty: describe a person, as in 'a person in a red jacket'")
    tokenizer = processor.tokenizer
    length = len(tokenizer(query, truncation=False, verbose=False)["input_ids"])
    dropped = length - tokenizer.model_max_length
    if dropped > 0:
        warnings.warn(
            f"The description has {length} tokens and the model reads {tokenizer.model_max_length}: "
            f"its last {dropped} are ignored",
            stacklevel=2,
        )
    return query
