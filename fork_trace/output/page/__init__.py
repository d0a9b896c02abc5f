"""What a page shows beyond the counts of a report: its time line, its stacks, and the records themselves.

All of it in bounded memory, whatever runs through. How the page is written is `formats.html`'s.
"""
