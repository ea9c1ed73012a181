"""The command `gadms`, one file for each group of commands.

It lives outside of the two packages, because importing those registers the model and the data sets, which loads torch,
transformers and datasets: seconds that `gadms --help` must not take. Each command imports what it runs.
"""
