"""A method: blended starts, a plain network, and colours in the objective."""

from delt_jax.config.methods import ours


def settings(data):
    """What the method sets, by the setting's dotted name."""
    return ours(
        {
            "teacher.model": "plain_net",
            "select.start": "blended",
            "select.rule": "ends",
            "recover.terms": ("colours=0.1",),
            "recover.optimiser": "lion",
            "recover.learning_rate": 0.02,
            "evaluate.students": ("plain_net", "conv3"),
            "evaluate.protocol": "brief",
        },
        "an example",
    )
