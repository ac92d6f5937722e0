"""`python -m mmfree_neuro` is the command line."""

import sys

from mmfree_neuro.cli.main import main

sys.exit(main())
