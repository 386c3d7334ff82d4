"""What a dataset is: sources, shards, vectors, receipts, manifests, quarantine."""
