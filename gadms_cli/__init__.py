"""The command `gadms`, with one module for each group of commands.

It is a package of its own, because importing the other two packages loads torch, transformers and datasets, for which
`gadms --help` must not wait. For the same reason, each command imports what it runs inside its function.
"""
