"""WMDD (arXiv 2311.18531): features to barycentres, BN statistics class by class, from noise.

The released code brings all images to 224 px; here they keep the recipe's size.
"""

from delt_jax.config.methods import SHIFT, for_data, ours, published

METHOD = published(
    "arXiv 2311.18531",
    {
        "select.start": "noise",
        "recover.layout": "whole_classes",
        "recover.round_iterations": 0,
        "recover.min_iterations": 0,
        "recover.milestone": 0.0,
        "recover.bn_weight": 0.0,
    },
)
RUN = "Liu-Hy/WMDD, run.sh"


def terms(weight):
    """Its two terms, the first with a weight that it says to tune."""
    return {"recover.terms": (f"class_bn={weight}", "barycentre=1")}


def recovery(learning_rate):
    """What is the same for all data sets but for the learning rate."""
    return {
        "recover.iterations": 2000,
        "recover.learning_rate": learning_rate,
        "recover.batch_size": 100,
        "recover.min_scale": 0.08,
        "recover.jitter": 32,
    }


STUDENTS = published(RUN, {"evaluate.protocol": "sre2l", "evaluate.batch_size": 100})
IMAGENETTE = published(f"{RUN} and README.md", recovery(0.25) | terms(10)) | STUDENTS
TINY = (
    published(f"{RUN} and README.md", recovery(0.1) | terms(500))
    | ours({"recover.jitter": -1}, "in place of 32 for 224 px")
    | STUDENTS
)
IMAGENET = published(RUN, recovery(0.25)) | ours(terms(10), "as for ImageNette") | STUDENTS
CIFAR = ours(
    recovery(0.25) | terms(10) | {"recover.min_scale": 1.0, "recover.jitter": 4},
    "ImageNette's steps with whole images and SRe2L's shift, of which none are published",
)


def settings(data):
    """By data set; other images keep the recipe's steps and crops."""
    return METHOD | for_data(
        data,
        {
            "imagenet": IMAGENET,
            "imagenette": IMAGENETTE,
            "tiny_imagenet": TINY,
            "cifar10": CIFAR,
            "cifar100": CIFAR,
            "": SHIFT | ours(terms(10), "as for ImageNette"),
        },
    )
