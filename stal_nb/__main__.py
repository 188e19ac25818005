"""`python -m stal_nb` is the command `stal_nb`."""
import sys

from stal_nb.cli import main

if __name__ == "__main__":
    sys.exit(main())
