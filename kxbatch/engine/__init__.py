"""How a job runs: plan, executors, commit, resume, progress, record."""
