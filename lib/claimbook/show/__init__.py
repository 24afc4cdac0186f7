"""What pages and claims show themselves with: figures, numbers, stored results. Nothing else of claimbook is used."""
