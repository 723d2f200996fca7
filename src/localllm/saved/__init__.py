"""Sessions in files: their sections with checksums, the conversation, and the model's state."""
