"""Files and the work directory: an artefact appears as a whole or not at all.

May import `core`, `recipe` and `errors`.
"""
