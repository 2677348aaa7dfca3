"""Start deepseg from a checkout: ``python run.py -help``."""

import sys

from deepseg.cli.main import main

sys.exit(main(program="run.py"))
