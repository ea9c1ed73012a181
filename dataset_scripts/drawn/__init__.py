"""What the drawn data sets share, and a folder for each of the things that are drawn."""
