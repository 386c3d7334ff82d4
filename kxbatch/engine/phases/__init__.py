"""The units of work of each shape of stage, and what the driver does between them."""
