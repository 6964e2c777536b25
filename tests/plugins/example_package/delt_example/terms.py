"""A term: each image has the mean colour of its class's real images."""

import numpy as np

from delt_jax.data import batches
from delt_jax.terms import Term


def prepare(teacher, source, recipe, cache):
    """Mean normalised colour of every class, float32 [classes, C]."""
    totals = np.zeros((len(source.class_names), source.channels))
    for indices, images in batches(source.train, 512):
        colours = np.asarray(teacher.normalisation(images)).mean((1, 2))
        np.add.at(totals, source.train.labels[indices], colours)
    counts = np.bincount(source.train.labels, minlength=len(totals))
    return (totals / counts[:, None]).astype(np.float32)


def value(seen, colours, state):
    """Mean squared distance of the images' colours from those of their classes."""
    off = seen.images.mean((1, 2)) - colours[seen.labels]
    return (off**2).sum(-1).mean(), state


COLOURS = Term(value, prepare, reads_images=True)
