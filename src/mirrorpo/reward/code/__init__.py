"""Grading of programs by their tests."""
