"""The display of `live`: what one screen shows, and the terminal it is drawn on."""
