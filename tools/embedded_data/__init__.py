"""Builders of embedded data, a folder per experiment."""
