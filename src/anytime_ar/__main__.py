"""`python -m anytime_ar` is `anytime`."""

from anytime_ar.cli import main

main()
