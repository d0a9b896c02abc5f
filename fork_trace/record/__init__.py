"""The recorder, and the captures that it and others left: written for weeks, and found again by time."""
