"""``python -m deepseg``: the command line of an installed package."""

import sys

from deepseg.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
