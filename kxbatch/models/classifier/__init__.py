"""Small classifiers of rows: what samples of other models are judged by, and the folder a trained one is kept in."""
