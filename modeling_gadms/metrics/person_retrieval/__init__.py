"""The `evaluate` module `person_retrieval`: `ranking.py` computes, `person_retrieval.py` is the interface."""
