"""Where a density comes from: one module an estimator."""
