"""The experiments, in the order of the paper and of the report."""

from typing import Literal, get_args

Name = Literal["toy_1d", "rotation", "cross_domain_fewshot", "metaweightnet", "metaxl"]
EXPERIMENTS: tuple[str, ...] = get_args(Name)
