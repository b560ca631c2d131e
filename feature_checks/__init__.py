"""Judges rows: expectation suites, profiles and their reports."""
