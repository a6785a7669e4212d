"""`python -m hasql.cli`."""

from hasql.cli import main

main()
