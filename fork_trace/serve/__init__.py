"""What a recorder saw, for those who collect it: metrics over HTTP, and in a file."""
