"""How a pool manager lives: from its first use until it is closed."""
