"""Pool managers for threads: each has a module of its own, with the names of the async ones."""
