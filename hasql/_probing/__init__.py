"""How hasql learns what each host is."""
