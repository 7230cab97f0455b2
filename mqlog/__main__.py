"""`python -m mqlog`: the command line."""

import sys

from mqlog.cli import main

if __name__ == "__main__":
    sys.exit(main())
