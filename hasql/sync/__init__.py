"""Pool managers for threads, one module for each driver."""
