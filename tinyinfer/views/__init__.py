"""Views: what does a run, a cache or a matrix look like?

Each view is an object that a notebook shows as HTML, without a library or a server, and a terminal as text.

    page.py  the shared look, in light and dark, and pages of several views in one file
"""
