"""What is written from code, schema and data: parts of the book, man pages, pictures; scripts/build-docs runs it."""
