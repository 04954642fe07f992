"""How the packaged checkpoints are made: ``python -m aigciqa.training.packaged --help``."""
