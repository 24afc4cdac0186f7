"""What builds the book: reading, keying, executing, merging, collecting verdicts, and the site. No science.

Every step is a plain function of files with a command line (``python -m normdyn.book --help``), so that any engine
can drive it; Snakemake does. Chapters never import this package, hence an edit here re-executes nothing.
"""
