"""Tables, figures and the page that people read.

May import `evaluation` and the floors below it.
"""
