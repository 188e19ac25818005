"""Drawings that the notebooks of nbs/ show and nothing else needs: one file a notebook or topic. Not part of the
installed package."""
