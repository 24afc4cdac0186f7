"""The site, as a Sphinx extension: ``extra_extensions: [claimbook.site]``. What it does stands in :mod:`.extension`."""

from typing import Any


def setup(app: Any) -> dict[str, Any]:
    """Register the extension; Sphinx is imported only where a site is built."""
    from claimbook.site import extension

    return extension.setup(app)
