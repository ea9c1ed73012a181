"""Run `gadms` as `python -m gadms_cli`."""

from .app import main


main()
