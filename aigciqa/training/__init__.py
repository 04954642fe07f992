"""Making checkpoints. Nothing here is imported when scoring."""
