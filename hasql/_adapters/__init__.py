"""What is behind the drivers' modules: everything that touches a library of theirs."""
