"""The experiments, in the order of the paper and of the report."""

EXPERIMENTS = ("toy_1d", "rotation", "cross_domain_fewshot", "metaweightnet", "metaxl")
