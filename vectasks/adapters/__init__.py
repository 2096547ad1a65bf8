"""Vectors in the shape that trainers want: one module a trainer, each imported by itself."""
