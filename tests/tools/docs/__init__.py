"""What is written from the code: the man page, and the causes in README and schema; scripts/build-docs runs it."""
