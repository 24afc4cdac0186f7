"""What makes any book of claims: evidence, registry, keys, execution, merging, the site. It knows no theorem.

Pages import ``show``, ``evidence`` and the registry's ledger, which are part of their keys. The rest builds the book:
every step is a plain function of files with a command line (``python -m claimbook --help``), so that any engine can
drive it; Snakemake does. Pages never import that, hence an edit there re-executes nothing.
"""
