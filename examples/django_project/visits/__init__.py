"""An application that counts visits."""
