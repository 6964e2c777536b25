"""The six stages of a run, the pipeline that calls them in order, and the dry run.

Stages do not import each other: what two of them share lies on a floor below. `pipeline` and `plan`
stand above the stages. May import every room but `comparison`.
"""
