"""Draw persons and write captions of them."""
