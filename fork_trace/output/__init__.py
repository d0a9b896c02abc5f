"""What a person or a program reads: tables, reports, screens and the capture file."""
