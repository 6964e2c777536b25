"""Training of networks: students on small sets, teachers on all real images.

May import `labels`, `teachers` and the floors below them.
"""
