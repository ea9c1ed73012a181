"""`python -m gadms_cli`: the same as `gadms`."""

from .app import main


main()
