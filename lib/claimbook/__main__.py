"""``python -m claimbook <step> ...``: see :mod:`claimbook.command`."""

import sys

from claimbook.command.__main__ import interrupted_too, main

if __name__ == "__main__":
    interrupted_too()
    sys.exit(main())
