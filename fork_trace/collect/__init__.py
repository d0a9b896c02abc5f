"""One run, from what the host offers to the last record: armed, observed, judged, composed."""
