"""What a job can do: one module a stage kind, found by name."""
