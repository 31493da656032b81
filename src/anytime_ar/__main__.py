"""Run the command line: `python -m anytime_ar` is the same as `anytime`."""

from anytime_ar.cli import main

main()
