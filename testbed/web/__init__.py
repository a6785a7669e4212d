"""Example applications under their real servers; tests and `chaos` let them live a failover."""
