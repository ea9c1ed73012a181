"""Data sets for text-based person retrieval, one builder a module."""
