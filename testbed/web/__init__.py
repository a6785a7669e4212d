"""Example applications under their real servers; tests and `chaos` play failovers under them."""
