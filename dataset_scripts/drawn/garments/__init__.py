"""Draw the products of a clothes shop and write captions of them."""
