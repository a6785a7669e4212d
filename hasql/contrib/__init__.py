"""hasql in the frameworks of others: one module for each, behind an extra of its name."""
