"""Extraction of entities: spans of a text and their types, nested ones too."""
