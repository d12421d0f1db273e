"""Tests of the repository: its layout, its imports, its scripts and its benchmark."""
