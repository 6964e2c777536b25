"""CIFAR-10: 50,000 training and 10,000 test images, 32 px, colour, from TFDS.

The paper's: IPC 1, 10 and 50, the modified ResNet-18 as teacher (RDED's scores 93.86 %) and
student, and the evaluation. It publishes no values of recovery for CIFAR: T and R keep its 8
rounds at SRe2L's 1000 iterations for CIFAR-100, and the rest of recovery is SRe2L's too.
The teacher's training is SRe2L's.
"""

from delt_jax.config import default_config, vary

PRESETS = {
    "ipc1": {"ipc": 1, "recover.round_iterations": 0},
    "ipc10": {"ipc": 10},
    "ipc50": {"ipc": 50},
}


def get_config(variants=""):
    config = default_config()
    config.ipc = 10
    config.data.name = "tfds"
    config.data.dataset = "cifar10"
    config.data.known_as = "cifar10"

    config.teacher.model = "resnet18_modified"
    config.teacher.epochs = 200
    config.teacher.learning_rate = 0.1

    config.recover.iterations = 1000
    config.recover.round_iterations = 125
    config.recover.learning_rate = 0.25
    config.recover.bn_weight = 0.01

    config.evaluate.students = ("resnet18_modified",)
    vary(config, variants, PRESETS, __file__)
    return config
