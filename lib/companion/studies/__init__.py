"""Studies: runs too slow for a page at a paper's size. Each is a ``run(setup, ...)`` that a page calls at toy size.

Their results at a paper's size lie in ``data/results``, written by :func:`claimbook.show.results.save`.
"""
