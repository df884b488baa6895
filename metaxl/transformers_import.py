"""What is used of the transformers library, which imports torchvision where that is installed:
after ``common.torchvision_import``, so that it loads on every installation."""
# ruff: noqa: I001

import common.torchvision_import  # noqa: F401
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)
from transformers.utils import logging

# What it would say about weights is checked in models.py; its progress bars are in the way.
logging.set_verbosity_error()
logging.disable_progress_bar()

__all__ = ["AutoConfig", "AutoTokenizer", "PreTrainedTokenizerFast", "XLMRobertaConfig",
           "XLMRobertaForMaskedLM", "XLMRobertaModel"]  # fmt: skip
