"""The trials of tune.py: for each method of Fashion-MNIST its own settings and seven changes.

The changes are the same kinds for all methods that optimise: the step, the weight of what is
matched, the number of iterations and the crops. RDED has none of these; its crops are chosen
otherwise. No changed trial has more than 1000 iterations.
"""

from typing import Any

from search_trials import Trial

OWN = "own"  # name of the trial without a change
_FEWER = {"recover.iterations": 1000}
_WHOLE = {"recover.min_scale": 1.0}
_HALF = {"recover.min_scale": 0.5}


def _rate(value: float) -> dict[str, Any]:
    return {"recover.learning_rate": value}


def _bn(weight: float) -> dict[str, Any]:
    return {"recover.bn_weight": weight}


def _terms(*terms: str) -> dict[str, Any]:
    return {"recover.terms": terms}


def _edc(weight: float) -> dict[str, Any]:
    return _terms(f"global_statistics={weight}", f"class_statistics={weight}")


def _gvbsm(weight: float) -> dict[str, Any]:
    return _terms(f"global_statistics={weight}", "densification=1.0")


def _wmdd(weight: float) -> dict[str, Any]:
    return _terms(f"class_bn={weight}", "barycentre=1")


def _rounds(iterations: int, round_iterations: int) -> dict[str, Any]:
    return {"recover.iterations": iterations, "recover.round_iterations": round_iterations}


_UNPADDED = {"recover.crop_padding": 0, "recover.min_scale": 1.0}
_SRE2L = {  # SRe2L's rate, weight, T and whole images; DWA's, too
    "rate_0.05": _rate(0.05),
    "rate_0.01": _rate(0.01),
    "bn_0.1": _bn(0.1),
    "bn_0.001": _bn(0.001),
    "t500": {"recover.iterations": 500},
    "crops_0.5": _HALF,
    "rate_0.05_crops_0.5": _rate(0.05) | _HALF,
}
_FROM_WHOLE = {name: value for name, value in _SRE2L.items() if "crops" not in name} | {
    "whole": _WHOLE,
    "rate_0.05_whole": _rate(0.05) | _WHOLE,
}
CHANGES: dict[str, dict[str, dict[str, Any]]] = {
    "delt": {
        "rate_0.05": _rate(0.05),
        "rate_0.25": _rate(0.25),
        "bn_0.1": _bn(0.1),
        "bn_0.001": _bn(0.001),
        "t800_r100": _rounds(800, 100),
        "whole": _WHOLE,
        "rate_0.05_whole": _rate(0.05) | _WHOLE,
    },
    "edc": {
        "rate_0.01": _rate(0.01),
        "rate_0.002": _rate(0.002),
        "statistics_0.05": _edc(0.05),
        "statistics_0.0005": _edc(0.0005),
        "t150": {"recover.iterations": 150},
        "whole": _WHOLE,
        "rate_0.01_whole": _rate(0.01) | _WHOLE,
    },
    "rded": {
        "candidates_50": {"select.candidates": 50},
        "candidates_1000": {"select.candidates": 1000},
        "candidates_5000": {"select.candidates": 5000},
        "crops_1": {"select.crops": 1},
        "crops_20": {"select.crops": 20},
        "mosaic_2": {"select.mosaic": 2},
        "candidates_50_crops_1": {"select.candidates": 50, "select.crops": 1},
    },
    "sre2l": _SRE2L,
    "cda": _FROM_WHOLE,
    "dwa": _SRE2L,
    "fadrm": {name: _FEWER | change for name, change in _FROM_WHOLE.items()},
    "wmdd": {
        "rate_0.05": _FEWER | _rate(0.05),
        "rate_0.01": _FEWER | _rate(0.01),
        "class_bn_100": _FEWER | _wmdd(100),
        "class_bn_1": _FEWER | _wmdd(1),
        "t500": {"recover.iterations": 500},
        "crops_0.5": _FEWER | _HALF,
        "rate_0.05_crops_0.5": _FEWER | _rate(0.05) | _HALF,
    },
    "gvbsm": {
        "rate_0.01": _FEWER | _rate(0.01),
        "rate_0.25": _FEWER | _rate(0.25),
        "statistics_0.1": _FEWER | _gvbsm(0.1),
        "statistics_0.001": _FEWER | _gvbsm(0.001),
        "t1000": _FEWER,
        "unpadded": _FEWER | _UNPADDED,
        "rate_0.01_unpadded": _FEWER | _rate(0.01) | _UNPADDED,
    },
}


def trials(method: str, protocol: str) -> list[Trial]:
    """A method's own settings and its changes, all with students by one protocol.

    Args:
      method: a file in configs/methods/.
      protocol: of students.
    """
    changes = {OWN: {}, **CHANGES[method]}
    variants = f"{method},protocol={protocol}"
    return [Trial(f"{method}-{name}", change, variants) for name, change in changes.items()]
