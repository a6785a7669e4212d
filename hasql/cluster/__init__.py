"""What is known of a cluster: its hosts, their roles, and who may serve."""
