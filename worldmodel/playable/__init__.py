"""A world model as a page that one can act in: its networks written out for a browser, what was recorded, the page."""
