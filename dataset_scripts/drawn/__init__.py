"""Draw data sets with a program: persons in their clothes, and the garments of a shop's catalogue."""
