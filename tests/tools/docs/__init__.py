"""What is written from the code: the man page and the README's table of causes; scripts/build-docs runs it."""
