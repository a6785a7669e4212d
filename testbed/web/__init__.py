"""Example applications under their real servers: what tests and `chaos` play a failover to."""
