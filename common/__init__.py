"""What the experiments share: hypergradient estimators, training utilities, data, reporting."""
