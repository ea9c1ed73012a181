"""What the Hub is told of a data set of captioned persons, whichever way it was made."""

TASK_CATEGORIES = ("text-to-image", "image-to-text", "zero-shot-image-classification")
TAGS = ("person-retrieval", "text-based-person-search", "image-text-retrieval")
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "1B<n<10B")


def size_category(rows: int) -> str:
    """The Hub's name for a number of rows.

    >>> size_category(999), size_category(5_002_723)
    ('n<1K', '1M<n<10M')
    """
    return next((name for power, name in enumerate(_SIZES, 3) if rows < 10**power), "10B<n<100B")
