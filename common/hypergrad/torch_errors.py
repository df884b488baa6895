"""Errors of torch's that name neither cause nor remedy, in words that do."""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checks import Examination

MATH = (
    "run the losses under torch.nn.attention.sdpa_kernel(SDPBackend.MATH), or take an estimator of "
    "first derivatives (EvoGradAlongGradient, FiniteDifference, EvoGrad)"
)
FIRST = "take an estimator of first derivatives (EvoGradAlongGradient, FiniteDifference, EvoGrad)"
_ATTENTION = re.compile("attention|flash|sdpa", re.I)


def checkpoint_remedy(name: str) -> str:
    """That gradient checkpointing cannot be used in a loss, with a remedy."""
    return (
        f"{name} uses gradient checkpointing, which runs the model again after the estimator's "
        "parameters have been taken out of it: switch it off for the losses "
        "(model.gradient_checkpointing_disable(), memory_efficient=False)"
    )


def explained(error: RuntimeError, estimator: str, found: "Examination") -> Exception | None:
    """An error that names cause and remedy, for one of torch's that does not; None for others."""
    text = str(error)
    if "would mutate a captured Tensor" in text:  # as torch.func says it
        return ValueError(found.moved("a loss"))
    if "torch.utils.checkpoint" in text or "use_reentrant" in text:
        return ValueError(checkpoint_remedy("a loss"))
    if "functorch transforms" in text:
        return ValueError(
            f"{estimator} cannot be used here: it uses torch.func, which a custom "
            "autograd.Function without setup_context does not know; use EvoGrad or T1T2"
        )
    if "once_differentiable" in text:
        return ValueError(
            f"{estimator} cannot be used here: a function is marked once_differentiable; {FIRST}"
        )
    patterns = {
        r"derivative for '?(?:aten::)?(\w+)'? is not implemented": "second derivative",
        r"forward AD with (?:aten::)?(\w+)": "forward-mode derivative",
        r"(jvp) is not implemented|must implement the (jvp)|(vmap|jvp) staticmethod": "jvp",
    }
    for pattern, derivative in patterns.items():
        if known := re.search(pattern, text):
            name = next(word for word in known.groups() if word)
            lacks = f"torch has no {derivative} of {name}"
            second = derivative == "second derivative" or "cdist" in name
            remedy = FIRST if second else "use T1T2"
            if derivative == "jvp":
                lacks = "a custom autograd.Function has no jvp, its forward-mode derivative"
            if _ATTENTION.search(name):
                remedy = MATH
            return ValueError(f"{estimator} cannot be used here: {lacks}; {remedy}")
    return None
