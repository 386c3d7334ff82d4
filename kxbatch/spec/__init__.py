"""What a job says: typed configuration, TOML, overrides, and errors that name the nearest match."""
