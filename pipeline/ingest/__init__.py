"""What comes into the warehouse from outside."""
