"""Metrics inside other programs. Each module can be imported alone and says what it needs."""
