"""Draw the products of a clothes shop, each on its own as in a catalogue, and write captions."""
