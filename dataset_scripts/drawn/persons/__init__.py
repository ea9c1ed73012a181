"""Draw persons, the clothes that they wear and the things that they carry, and write captions."""
