"""Networks and what belongs to them: graphs of units, modules, normalisers, losses, homogeneity, chains."""
